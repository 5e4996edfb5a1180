"""Names, columns, kinds, and the proposal as a whole on planted corpora."""

from __future__ import annotations

import json
import random

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from mixtura.cli.app import app
from mixtura.propose import cluster, columns, naming
from mixtura.propose.draft import Found, _actions, draft
from mixtura.propose.wordings import WORDINGS
from mixtura.tasks import pool


def test_class_based_tf_idf_worked_out():
    """Two clusters of 2 rows. Words of cluster 0: gout x2, and x2, pain x1; of cluster 1: and x2, cost x2, gout x1.

    Without pairs: A = 10 / 2 = 5. W(gout, 0) = 2/5 log(1 + 5/3) = 0.392, W(pain, 0) = 1/5 log(1 + 5/1) = 0.358,
    W(and, 0) = 2/5 log(1 + 5/4) = 0.324; W(cost, 1) = 2/5 log(1 + 5/2) = 0.501.
    """
    texts = ["gout, and", "pain. gout; and", "and cost", "cost gout and"]
    found = naming.terms(texts, np.array([0, 0, 1, 1]), 2, 1)
    assert "cost" in found[1][0]
    assert "gout" in found[0][0]


def test_what_most_clusters_say_names_none():
    texts = [f"tell me about {w} now" for w in ("alpha", "beta", "gamma", "delta") for _ in range(10)]
    labels = np.repeat(np.arange(4), 10)
    found = naming.terms(texts, labels, 4, 2)
    for words, name in zip(found, ("alpha", "beta", "gamma", "delta"), strict=True):
        assert name in words[0]
        assert not {"tell", "me", "tell me"} & set(words)


def test_signs_are_in_no_term():
    """The encoder's words are signs too; a reader's are not."""
    texts = ["is gout inherited ? - (yes)"] * 9 + ["how many ? have it !"] * 9 + ["price ? $ 5"] * 9
    found = naming.terms(texts, np.repeat(np.arange(3), 9), 3, 5)
    assert all(c.isalnum() or c == " " for words in found for w in words for c in w)
    assert all(found)


def test_names_are_slugs_and_unlike():
    taken: set[str] = set()
    assert naming.slug(["Síntomas de la", "gripe"], taken, "x") == "sintomas_de_la_gripe"
    assert naming.slug(["síntomas de la gripe"], taken, "x") == "sintomas_de_la_gripe_2"
    assert naming.slug(["你好"], taken, "cluster_3") == "cluster_3"


def test_central_rows_are_the_nearest_and_different():
    labels, distance = np.array([0, 0, 0, 1]), np.array([0.3, 0.1, 0.1, 0.0], np.float32)
    assert naming.central(labels, distance, ["far", "near", "near", "b"], 2, 2) == [[1, 0], [3]]


def row(i: int, **more) -> dict:
    return {"prompt": f"The patient {i} has gout in toe {i}", "completion": "x" * 10} | more


@pytest.mark.parametrize(
    ("values", "role"),
    [
        ([("a", "b", "c")[i % 3] for i in range(90)], "label"),
        ([i % 5 for i in range(90)], "label"),
        ([f"toe {i}" for i in range(90)], "span"),
        ([["gout", f"toe {i}"] for i in range(90)], "span"),
        ([i / 90 for i in range(90)], "score"),
        ([f"https://x.org/{i % 3}" for i in range(90)], None),
        ([f"word {i}" for i in range(90)], None),  # not in the text
        ([i for i in range(90)], None),  # a number for each row
        (["same"] * 90, None),
        ([None] * 84 + ["a", "b"] * 3, None),  # too rarely there
        ([{"deep": ("a", "b")[i % 2]} for i in range(90)], "label"),
    ],
)
def test_what_a_column_holds(values: list, role: str | None):
    found = columns.detect([row(i, thing=v) for i, v in enumerate(values)])
    assert [c.role for c in found] == ([role] if role else [])
    if role and isinstance(values[0], dict):
        assert found[0].name == "thing.deep"


def test_a_whole_number_is_a_score_only_by_its_name():
    rows = [row(i, stars=i % 5, count=i % 5) for i in range(90)]
    assert {c.name: c.role for c in columns.detect(rows)} == {"stars": "score", "count": "label"}


def clustered(rows: list[dict], labels: list[int]) -> Found:
    n = max(labels) + 1
    c = cluster.Clusters(np.array(labels), np.zeros(len(rows), np.float32), np.zeros(n, np.int64), (), 0, [])
    return Found(
        rows,
        [str(i) for i in range(len(rows))],
        [r.get("prompt", r.get("text")) for r in rows],
        c,
        columns.detect(rows),
    )


def test_an_action_bears_the_name_of_its_largest_step():
    """Clusters 0 and 1 are one family, 2 another; 1 has the most rows of its own."""
    found = clustered([row(i) for i in range(10)], [0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    found.clusters.families[:] = [0, 0, 1]
    assert _actions(found, ["causes", "symptoms", "annotate"]) == ["symptoms", "symptoms", "annotate_2"]


@pytest.mark.parametrize(
    ("prompt", "answer", "kind"),
    [
        ("Is claim {i} true?", "{b}", "classify"),
        ("The drug is agent{i} today. Which drug?", "agent{i}", "extract"),
        ("What of {i}?", "Long words, many of them, on case {i}: " + "so and so and " * 12, "advise"),
        ("long passage of words " * 40 + "{i}", "case {i} in short, " + "said in a few words " * 4, "summarise"),
        ("tell pain {i}", "Since when has pain {i} lasted?", "enhance"),
        ("Sing {i}", "la {i}", "free"),
    ],
)
def test_kinds_by_the_look_of_the_answers(prompt: str, answer: str, kind: str):
    rows = [row(i) for i in range(60)]
    for i, r in enumerate(rows):
        r |= {
            k: t.replace("{i}", str(i)).replace("{b}", "yes" if i % 2 else "no")
            for k, t in (("prompt", prompt), ("completion", answer))
        }
    (made,) = draft(clustered(rows, [0] * 60))
    assert made.step.kind == kind
    assert made.step.output == "{completion}"


def test_texts_without_answers_are_for_a_model():
    rows = [{"text": "word " * 200 + str(i), "language": "es"} for i in range(20)]
    (made,) = draft(clustered(rows, [0] * 20))
    assert (made.step.kind, made.step.output) == ("summarise", None)
    assert list(made.step.instructions) == ["es"]


def test_every_language_has_a_wording_for_every_kind():
    kinds = set(WORDINGS["en"])
    assert len(kinds) == 8
    for language, wordings in WORDINGS.items():
        assert set(wordings) == kinds, language
        assert all(w.count("{topic}") == 1 for w in wordings.values()), language


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """900 rows of three requests, with a label column for them, a span column, and hostile text in one row."""
    rng = random.Random(3)
    asks = {
        "cause": "What causes the {} of {}?",
        "cure": "How do doctors treat a {} {}?",
        "price": "Say the price of {} {}",
    }
    names = ["".join(rng.choices("abcdefghijklm", k=7)) for _ in range(300)]
    lines = []
    for i in range(900):
        topic = list(asks)[i % 3]
        about = rng.choice(names)
        ask = asks[topic].format(about, rng.choice(names))
        lines.append({"prompt": ask, "completion": f"About {about}: {i}.", "topic": topic, "about": about})
    lines[0]["prompt"] = "What causes the <script>alert(1)</script> of it?"
    path = tmp_path_factory.mktemp("corpus") / "asks.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in lines), encoding="utf-8")
    return path


def propose(corpus, folder, *more: str):
    out = folder / "pool.yaml"
    arguments = ["tasks", "propose", str(corpus), "--out", str(out), "--store", str(folder / "store"), "--workers", "1"]
    return CliRunner().invoke(app, [*arguments, *more], catch_exceptions=False), out


def test_a_proposal_from_files(corpus, tmp_path):
    result, out = propose(corpus, tmp_path)
    assert result.exit_code == 0, result.output
    made = pool.load(out)
    steps = {t.id: t.step for t in made.tasks()}
    assert {"asks/annotate/classify_topic", "asks/annotate/extract_about"} <= set(steps)
    assert {i.rpartition("/")[2] for i in steps} >= {"cause", "cure", "price"}, (
        "named by the label that they agree with"
    )
    members = pl.read_parquet(tmp_path / made.memberships)
    assert members.height == 900
    assert sorted(members["cluster"].value_counts()["count"].to_list()) == [300, 300, 300]
    page = out.with_suffix(".html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert all(step in page for step in ("classify_topic", "cause", "cure"))


def test_a_proposal_is_the_same_again_and_never_overwrites(corpus, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _, first = propose(corpus, tmp_path / "a")
    _, second = propose(corpus, tmp_path / "b")
    for suffix in (".yaml", ".parquet", ".html"):
        assert first.with_suffix(suffix).read_bytes() == second.with_suffix(suffix).read_bytes()
    again = CliRunner().invoke(app, ["tasks", "propose", str(corpus), "--out", str(first)])
    assert again.exit_code != 0
    assert "must not exist yet" in str(again.exception)
