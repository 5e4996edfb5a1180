"""Do the clusters behind `mixtura tasks propose` agree with known tasks? Adjusted mutual information on four corpora.

    python -m benchmarks.clusters --data DATA [--quick]

Ours chooses the number of clusters itself. Against it, with the very same encoder: plain k-means on whole requests,
once given our number and once given the true one, which nobody has in practice; and random labels. The last line of
output is one JSON object; `cluster_ami_kmeans` in it is k-means with the true number, the harder rival.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_mutual_info_score

from mixtura.pipeline import embed as embedding
from mixtura.pipeline.readers import qa_xml
from mixtura.pipeline.reading import Record, Stream
from mixtura.propose import cluster, kmeans, session
from mixtura.recipe import Embed
from mixtura.store import Store

Labelled = tuple[str, str]  # request, task
MOST = 400  # clusters that may be chosen: one corpus has 283 tasks


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked real data")
    parser.add_argument("--rows", type=int, default=8_000, help="of each corpus")
    parser.add_argument("--seeds", type=int, default=3, help="draws of rows, each with k-means of its own")
    parser.add_argument("--quick", action="store_true", help="2,500 rows and one seed: 2 minutes on a free core")
    given = parser.parse_args()
    rows, seeds = (2_500, 1) if given.quick else (given.rows, given.seeds)
    print(json.dumps(measure(given.data, rows, seeds)))


def measure(data: Path, rows: int, seeds: int) -> dict[str, Any]:
    """Means over seeds by corpus, and over corpora; AMI is 1 where clusters are the tasks and about 0 by chance."""
    found: dict[str, dict[str, float]] = {}
    for name, read in CORPORA.items():
        everything = list(read(data))
        runs = [_run(everything, rows, seed) for seed in range(seeds)]
        found[name] = {k: round(float(np.mean([r[k] for r in runs])), 4) for k in runs[0]}
        found[name]["ours_lowest"] = round(min(r["ours"] for r in runs), 4)
        found[name]["kmeans_true_number_highest"] = round(max(r["kmeans_true_number"] for r in runs), 4)
        print(f"{name:14}", " ".join(f"{k} {v:g}" for k, v in found[name].items()), flush=True)
    means = {k: round(float(np.mean([f[k] for f in found.values()])), 4) for k in next(iter(found.values()))}
    return {
        "cluster_ami": means["ours"],
        "cluster_ami_kmeans": means["kmeans_true_number"],
        "cluster_ami_kmeans_same_number": means["kmeans_same_number"],
        "cluster_ami_random": means["random"],
        "rows": rows,
        "seeds": seeds,
        "corpora": found,
    }


def _run(everything: list[Labelled], rows: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    drawn = [everything[i] for i in np.sort(rng.permutation(len(everything))[:rows])]
    requests = [r for r, _ in drawn]
    _, tasks = np.unique([t for _, t in drawn], return_inverse=True)
    number = int(tasks.max()) + 1
    encode = _encoder(requests, seed)
    start = time.process_time()
    ours = cluster.find(requests, encode, seed=seed, most=MOST)
    took = time.process_time() - start
    whole = encode([r[: cluster.MAX_CHARS] for r in requests])

    def plain(clusters: int) -> float:
        labels = kmeans.nearest(whole, kmeans.fine(whole, clusters, seed))
        return float(adjusted_mutual_info_score(tasks, labels))

    return {
        "tasks": number,
        "chosen": ours.count,
        "ours": float(adjusted_mutual_info_score(tasks, ours.labels)),
        "kmeans_same_number": plain(ours.count),
        "kmeans_true_number": plain(number),
        "random": float(adjusted_mutual_info_score(tasks, rng.integers(0, number, len(tasks)))),
        "seconds": took,
    }


def _encoder(requests: list[str], seed: int) -> Callable[[Any], np.ndarray]:
    """The fitted encoder, as a proposal has it."""
    spec = Embed(dimensions=session.DIMENSIONS)
    with tempfile.TemporaryDirectory() as folder:
        texts = [r[: cluster.MAX_CHARS] for r in requests]
        made = embedding.fit_encoder(spec, texts, seed=seed, store=Store(folder), inputs=[])
        return embedding.load_encoder(spec, made).encode  # loaded whole: the folder may go


def superni(data: Path) -> Iterator[Labelled]:
    """Super-NaturalInstructions: 119 tasks, each row with its definition in front."""
    csv.field_size_limit(1 << 30)
    for file in sorted((data / "superni_119").rglob("*.csv")):
        with file.open(newline="", encoding="utf-8") as lines:
            yield from ((row["input"], file.parent.name) for row in csv.DictReader(lines))


def templates(data: Path) -> Iterator[Labelled]:
    """P3: 283 prompt templates over some 40 data sets; several templates of one set differ by a few words."""
    for file in sorted((data / "self_instruct_t0").rglob("data_per_template/*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)["prompt"], file.stem


def hard(data: Path) -> Iterator[Labelled]:
    """BIG-Bench Hard: 27 tasks, few with an instruction in front."""
    for file in sorted((data / "bbh" / "bbh").glob("*.json")):
        for example in json.loads(file.read_text(encoding="utf-8"))["examples"]:
            yield example["input"], file.stem


def questions(data: Path) -> Iterator[Labelled]:
    """MedQuAD: short questions on thousands of diseases, by the type that its authors gave them."""
    for file in sorted((data / "medquad").glob("[1-9]_*/*.xml")):
        with file.open("rb") as opened:
            stream = Stream(opened, file.name, max_record_bytes=1 << 24, max_ratio=1.0)
            for record in qa_xml.read(stream, qa_xml.Options()):
                if isinstance(record, Record) and record.value.get("qtype") and record.value["completion"]:
                    yield record.value["prompt"], record.value["qtype"]


CORPORA: dict[str, Callable[[Path], Iterator[Labelled]]] = {
    "superni": superni, "p3_templates": templates, "bbh": hard, "medquad": questions,
}  # fmt: skip

if __name__ == "__main__":
    main()
