"""Mining where the truth is planted: who finds it, how fast answers come, and what a useful pair costs to look for.

Times are CPU seconds of one thread. The model is one that `planted` teaches: small, but with real files and a real
tokenizer. One at a time means transformers' own `generate`, once per sample, as a loop over rows would do it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import planted
from mixtura.checking import Question
from mixtura.checks.tool_calls import CHECK
from mixtura.generation.local import LocalModel
from mixtura.mining.attempts import Sampling, ask_of, attempt, questions
from mixtura.pipeline import lm
from mixtura.search.explore import Search, explore
from mixtura.search.pairs import pairs
from mixtura.selectors.deficiency import SELECTOR, Spec

SAMPLES, ANSWER_TOKENS = 8, 48
STEPS = 300  # 70 teach the form of an answer and not yet the tools, see LOG.md


def measure(*, quick: bool, data: Path | None = None, repository: Path | None = None) -> dict[str, Any]:
    """All figures of this part; data and repository play no part.

    Args:
        quick: fewer rows, one seed.
        data: not read.
        repository: not read.
    """
    torch.set_num_threads(1)
    seeds = range(1 if quick else 5)
    found: list[dict[str, Any]] = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            truth = planted.world(rows=360 if quick else 600, seed=seed)
            model = planted.teach(Path(folder) / "lm", untaught=truth.untaught, steps=STEPS, seed=seed)
            made = planted_truth(str(model), truth)
            if seed == 0:  # what costs do not hang on the seed as the truth does
                made |= speed(str(model), truth, rows=24 if quick else 60)
                made |= search_cost(str(model), truth, rows=32 if quick else 120)
        print(f"seed {seed}: {made}", flush=True)
        found.append(made)
    means = {k: float(np.mean([f[k] for f in found if f.get(k) is not None] or [np.nan])) for k in found[0]}
    return {k: None if np.isnan(v) else v for k, v in means.items()} | {"planted_seeds": len(seeds)}


def planted_truth(model: str, truth: planted.World) -> dict[str, Any]:
    """How well verified mining, and the perplexity of golds, find what was planted.

    AUROC is that of rows of untaught tools above the others, over rows that are not set apart (planted_auroc), and over
    rows whose gold is right (of both rankings).
    """
    right = truth.corrupt == ""
    scores, card = _scored(model, truth, by="verified")
    rank = scores["score"].to_numpy()
    apart = (scores["state"] == "suspect").to_numpy()
    surprise = _scored(model, truth, by="perplexity")[0]["score"].to_numpy()
    known = ~right & truth.taught
    by_error = {}
    for error in planted.ERRORS:
        for name, mine in (("taught", truth.taught), ("untaught", ~truth.taught)):
            rows = (truth.corrupt == error) & mine
            by_error[f"apart_{error}_{name}"] = f"{apart[rows].sum()} of {rows.sum()}"
    print(f"set apart by planted error: {by_error}", flush=True)
    rate = scores["pass_rate"].to_numpy()
    return {
        "planted_auroc": planted.auroc(rank[~apart], ~truth.taught[~apart]),
        "planted_auroc_right_golds": planted.auroc(rank[right], ~truth.taught[right]),
        "perplexity_auroc": planted.auroc(surprise, ~truth.taught),
        "perplexity_auroc_right_golds": planted.auroc(surprise[right], ~truth.taught[right]),
        "corrupt_gold_recall": float(apart[~right].mean()),
        "corrupt_gold_recall_taught": float(apart[known].mean()),
        "corrupt_gold_false_alarm": float(apart[right].mean()),
        "corrupt_gold_false_alarm_untaught": float(apart[right & ~truth.taught].mean()),
        "slices_found": sum(any(f"tool: {t}:" in w for w in card["weak"]) for t in truth.untaught)
        / len(truth.untaught),
        "pass_rate_taught": float(rate[right & truth.taught].mean()),
        "pass_rate_untaught": float(rate[right & ~truth.taught].mean()),
    }


def _scored(model: str, truth: planted.World, *, by: str) -> tuple[Any, dict[str, Any]]:
    given = {"model": model, "device": "cpu", "by": by, "samples": SAMPLES, "answer_tokens": ANSWER_TOKENS}
    spec = Spec.model_validate(given)
    fitted = SELECTOR.fit(spec, sample=truth.shard, target=None, reference=None, seed=0)
    scores = SELECTOR.score(spec, fitted, truth.shard)
    return scores, SELECTOR.summary(spec, scores)


def speed(model: str, truth: planted.World, *, rows: int) -> dict[str, Any]:
    """Verified completions per CPU second, ours and one at a time."""
    local, asked = _opened(model), _questions(truth)[:rows]
    ours = _timed(lambda: attempt(local, asked, Sampling(SAMPLES, ANSWER_TOKENS, 1.0, 1)))
    few = asked[: max(4, rows // 6)]
    single = _timed(lambda: [_one_at_a_time(local, q) for q in few])
    fast, slow = SAMPLES * len(asked) / ours, SAMPLES * len(few) / single
    return {"verified_per_s": fast, "one_at_a_time_per_s": slow, "verified_per_s_speedup": fast / slow}


def _one_at_a_time(local: LocalModel, question: Question) -> int:
    prompt = local.prompts.prompt(ask_of(question))
    ids = torch.tensor([[*prompt.shared, *prompt.own]])
    passed = 0
    for _ in range(SAMPLES):
        with torch.inference_mode():
            made: Any = local.lm.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=ANSWER_TOKENS,
                use_cache=True, pad_token_id=local.lm.tokenizer.pad_token_id,
            )  # fmt: skip
        written = [t for t in made[0, ids.shape[1] :].tolist() if t not in local.stops]
        passed += question.judge(local.prompts.text(prompt.last, written)).passed
    return passed


def search_cost(model: str, truth: planted.World, *, rows: int) -> dict[str, Any]:
    """Tokens that each way of looking samples for a useful pair: the model's own right answer and its readable miss.

    Rows of untaught and taught tools with right golds, half and half; all ways may draw as many answers per row.
    """
    local, every = _opened(model), _questions(truth)
    right = truth.corrupt == ""
    half = rows // 2
    chosen = [*np.flatnonzero(right & ~truth.taught)[:half], *np.flatnonzero(right & truth.taught)[:half]]
    asked = [every[i] for i in chosen]
    made: dict[str, Any] = {}
    for by in ("tree", "best_of", "samples"):
        spec = Search.model_validate({"by": by, "samples": 16, "simulations": 4, "width": 4, "temperature": 1.3,
                                      "max_tokens": ANSWER_TOKENS})  # fmt: skip
        explored = explore(local, asked, spec, seed=1)
        useful = [
            p
            for e in explored
            for p in pairs(e, spec)
            if p.chosen is not None and p.rejected.attempt.verdict.error != "parse_error"
        ]
        tokens = sum(e.tokens for e in explored)
        made[f"useful_pairs_{by}"] = len(useful)
        made[f"tokens_per_useful_pair_{by}"] = tokens / len(useful) if useful else None
    return made


def _questions(truth: planted.World) -> list[Question]:
    found = questions(CHECK, CHECK.Spec(), truth.rows.to_dicts())
    return [q for q in found if isinstance(q, Question)]


def _opened(model: str) -> LocalModel:
    spec = lm.Spec(model=model, device="cpu")
    return LocalModel(lm.open_model(spec), lm.locate(spec, model, key="model"))


def _timed(work: Callable[[], Any]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin
