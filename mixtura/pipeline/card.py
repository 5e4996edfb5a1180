"""The data card: a Hugging Face dataset card that says what the mixture is, where it came from and what was lost.

`datasets`, TRL and the Hub read the YAML block at its top; people read the rest. It is made from the summary alone, so
the same mixture gives the same bytes and two builds can be diffed line by line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from mixtura.pipeline import evidence, marks
from mixtura.pipeline.summary import (
    BuildFacts,
    EvidenceFacts,
    LeakFacts,
    MarkFacts,
    SampleFacts,
    SelectionFacts,
    SourceFacts,
    StageFacts,
    Summary,
)
from mixtura.pipeline.wording import by_count, count, number, share

# Licence ids that the Hub knows (its documentation, "Licenses"); anything else is `other`.
HUB_LICENSES = re.compile(
    r"""apache-2\.0 | mit | openrail | bigscience-openrail-m | bsd(-[23]-clause(-clear)?)? | c-uda | cc | cc0-1\.0
    | cc-by-(2\.0|2\.5|3\.0|4\.0) | cc-by-sa-[34]\.0 | cc-by-nc-[234]\.0 | cc-by-nd-4\.0 | cc-by-nc-nd-[34]\.0
    | cc-by-nc-sa-[234]\.0 | cdla-sharing-1\.0 | cdla-permissive-[12]\.0 | wtfpl | ecl-2\.0 | epl-[12]\.0 | eupl-1\.[12]
    | agpl-3\.0 | gfdl | gpl(-[23]\.0)? | lgpl(-2\.1|-3\.0)? | isc | mpl-2\.0 | ms-pl | odc-by | odbl | artistic-2\.0
    | osl-3\.0 | pddl | ofl-1\.1 | ncsa | unlicense | zlib | unknown""",
    re.VERBOSE,
)
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
SIZES_ABOVE = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))
RULES = {
    "cover": "the highest scores, slice by slice, as targets that are served stop paying",
    "gumbel": "a seeded draw that favours high scores",
    "round_robin": "turns: each target takes its nearest row that is left",
    "threshold": "a threshold",
    "top": "the highest scores",
}


def render_card(summary: Summary) -> str:
    """The card as Markdown with a YAML block.

    Args:
        summary: of a finished mixture; its books must balance.

    Returns:
        Text of `README.md`, ending in one newline.

    Raises:
        CountError: the summary's books do not balance.
    """
    summary.check()
    parts = [
        "---\n" + yaml.safe_dump(front_matter(summary), sort_keys=False, allow_unicode=True, width=1000) + "---",
        f"# {summary.name}",
        _opening(summary),
        "## Load it\n\n" + _loading(summary),
        "## What is in it\n\n" + _composition(summary),
        *(
            ["## What was built\n\n" + "\n\n".join(_build(b) for b in summary.builds) + _leaks(summary.leaks)]
            if summary.builds
            else []
        ),
        "## Why these rows\n\n" + "\n\n".join(_selection(s) for s in summary.selections) + _aims(summary),
        *(["## Marked answers\n\n" + _marks(summary.marks)] if summary.marks else []),
        *(["## Does it help?\n\n" + _evidence(summary.evidence)] if summary.evidence else []),
        "## What was lost, and why\n\n" + _losses(summary),
        "## Where it came from\n\n" + _provenance(summary),
        "## Limits\n\n" + _limits(summary),
        "## Build it again\n\n" + _rebuild(summary),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(summary: Summary) -> dict[str, Any]:
    """Metadata of the Hub and of `datasets`: licence, language, size and the files of each split."""
    head: dict[str, Any] = {"pretty_name": summary.name}
    licenses = sorted({hub_license(name) for name, rows in summary.licenses.items() if rows}) or ["unknown"]
    head["license"] = licenses[0] if len(licenses) == 1 else licenses
    languages = sorted(t for t, n in summary.languages.items() if n and re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)*", t))
    if languages:
        head["language"] = languages
    head["task_categories"] = ["text-generation"]
    head["size_categories"] = [size_category(summary.total.rows)]
    head["tags"] = ["mixtura", *sorted({s.selector for s in summary.selections})]
    files = [{"split": name, "path": f"{name}/*.parquet"} for name, tally in summary.splits.items() if tally.rows]
    head["configs"] = [{"config_name": "default", "default": True, "data_files": files}] if files else []
    if summary.target and summary.target.heldout_rows:
        heldout = [{"split": "heldout", "path": "target/heldout.parquet"}]
        head["configs"].append({"config_name": "target", "data_files": heldout})
    return head


def hub_license(name: str) -> str:
    """The Hub's id of a licence: `CC BY 4.0` and `CC-BY-4.0` are `cc-by-4.0`, an unlisted one is `other`."""
    word = re.sub(r"[\s_]+", "-", name.strip().lower()) or "unknown"
    word = re.sub(r"-(only|or-later)$", "", word)
    return word if HUB_LICENSES.fullmatch(word) else "other"


def size_category(rows: int) -> str:
    """The Hub's word for a number of rows."""
    return next((word for limit, word in SIZES + SIZES_ABOVE if rows < limit), "n>1B")


def _opening(s: Summary) -> str:
    pool = sum(x.pool_rows for x in s.sources if not x.builder)
    read = sum(x.read for x in s.sources if not x.builder)
    made = sum(b.rows for b in s.builds)
    built = f"{count(made, 'row')} more were built out of them. " if made else ""
    aim = f", chosen to resemble {s.target.rows:,} target rows" if s.target else ""
    return (
        f"A training mixture of **{count(s.total.rows, 'row')}** and **{count(s.total.tokens, 'token')}**{aim}. "
        f"{count(read, 'record')} were read from {count(sum(not x.builder for x in s.sources), 'source')}; "
        f"{pool:,} of them were fit to be chosen. {built}"
        f"Built by Mixtura {s.version} with seed {s.seed}, recipe `{s.fingerprint}`. "
        "`report.html` shows the same with plots and with rows in full; "
        "`mixtura why . ROW_ID` tells the life of any record."
    )


def _loading(s: Summary) -> str:
    shape = {
        "text": "Rows are documents: `text`.",
        "messages": "Rows are conversations: `messages`, a list of `role` and `content`.",
        "preference": "Rows are preference pairs: `prompt`, `chosen` and `rejected`.",
    }[s.form]
    return (
        f"{shape} TRL, LLaMA-Factory and Axolotl read the folder unchanged.\n\n"
        "```python\nfrom datasets import load_dataset\n\n"
        'mixture = load_dataset("PATH/TO/THIS/FOLDER")\n```\n\n'
        "Or train on it with the trainer that comes along: `mixtura train PATH/TO/THIS/FOLDER`."
    )


def _composition(s: Summary) -> str:
    tokens = "Tokens are words." if s.tokenizer == "words" else f"Tokens are counted by {code(s.tokenizer)}."
    splits = grid(
        ["split", "rows", "tokens", "bytes"],
        [[name, f"{t.rows:,}", f"{t.tokens:,}", f"{t.bytes:,}"] for name, t in s.splits.items()],
    )
    pool_rows, pool_tokens = sum(x.pool_rows for x in s.sources), sum(x.pool_tokens for x in s.sources)
    sources = grid(
        ["source", "pool rows", "mixture rows", "rows: pool → mixture", "mixture tokens", "tokens: pool → mixture"],
        [
            [
                x.name,
                f"{x.pool_rows:,}",
                f"{x.picked_rows:,}",
                f"{share(x.pool_rows, pool_rows)} → {share(x.picked_rows, s.total.rows)}",
                f"{x.picked_tokens:,}",
                f"{share(x.pool_tokens, pool_tokens)} → {share(x.picked_tokens, s.total.tokens)}",
            ]
            for x in s.sources
        ],
    )
    languages = _listed("Languages", {k or "not stated": v for k, v in s.languages.items()})
    licenses = _listed("Licences of the rows", s.licenses)
    return "\n\n".join(p for p in (splits, tokens, sources, languages, licenses) if p)


def _selection(x: SelectionFacts) -> str:
    pick = {k: v for k, v in x.pick.items() if v not in (None, {}) and k != "rule"}
    lines = [
        f"**{x.name}** — selector `{x.selector}` ({md(x.paper)}) scored {count(x.pool_rows, 'row')} and picked "
        f"{count(x.picked_rows, 'row')} with {count(x.picked_tokens, 'token')} "
        f"by {RULES.get(x.pick.get('rule', ''), 'its rule')} (`{x.score_kind}`)."
    ]
    lines += [f"- {word}: {code(value)}" for word, value in (("pick", pick), ("options", x.options)) if value]
    learned = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in x.facts.items() if not _nested(v)}
    lines += [f"- learned: {code(learned)}"] if learned else []
    lines += [f"- {word}: {_reasons(x.facts[word])}" for word in ("states", "errors") if x.facts.get(word)]
    if weak := x.facts.get("weak"):  # sentences of a selector that lets a model try
        lines.append("- where the model is weaker than elsewhere:" + "".join(f"\n  - {md(s)}" for s in weak))
    return lines[0] + "".join(f"\n{line}" if i else f"\n\n{line}" for i, line in enumerate(lines[1:]))


def _build(x: BuildFacts) -> str:
    lines = [
        f"**{md(x.name)}** — builder `{x.builder}` ({md(x.paper)}) made {count(x.rows, 'row')} of "
        f"{x.used:,} of the {count(x.parents, 'row')} of {', '.join(md(s) for s in x.sources)}. Each row names its "
        "parents in `parents`, and stays in their split.",
        "",
    ]
    options = {k: v for k, v in x.options.items() if v is not None}
    lines += [f"- options: {code(options)}"] if options else []
    lines += [f"- rows that gave nothing, or not all that they could: {_reasons(x.refused)}"] if x.refused else []
    learned = {k: v for k, v in x.facts.items() if not _nested(v)}
    lines += [f"- learned: {code(learned)}"] if learned else []
    return "\n".join(lines).rstrip()


def _leaks(x: LeakFacts | None) -> str:
    if x is None:
        return ""
    counts = {
        "requests that several splits ask word for word": x.exact,
        f"clusters of near-duplicate parents ({x.near_duplicates}) in several splits": x.near,
        "parents with rows in several splits": x.shared_parents,
        "examples shown in a row that are parents of another": x.context,
    }
    found = ", ".join(f"{n:,} {what}" for what, n in counts.items())
    verdict = "No leak between the splits was found" if not x.total else "**There are leaks between the splits**"
    return f"\n\n{verdict} in {count(x.rows, 'built row')} of {count(x.parents, 'parent')}: {found}."


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {md(reason)}" for reason, n in by_count(dropped))


def _nested(value: Any) -> bool:
    return isinstance(value, (dict, list))  # left to the report: a card is read line by line


def _aims(s: Summary) -> str:
    lines = [_sample("Target", s.target), _sample("Reference", s.reference), _sample("Moved away from", s.avoid)]
    lines += [f"Encoder: {md(s.encoder)}."] if s.encoder else []
    return "".join(f"\n\n{line}" for line in lines if line)


def _sample(word: str, x: SampleFacts | None) -> str:
    if x is None:
        return ""
    aside = f" {x.heldout_rows:,} more were set aside for evaluation; no selector saw them." if x.heldout_rows else ""
    files = ", ".join(code(f) for f in x.files)
    return f"{word}: {x.rows:,} rows of {files} (licence {md(x.license)}, revision {md(x.revision or 'none')}).{aside}"


def _evidence(x: EvidenceFacts) -> str:
    said = " ".join(s for s in (evidence.verdict(x), evidence.tuned_verdict(x)) if s)
    return f"{md(said)}\n\n{grid(evidence.HEAD, evidence.table(x))}\n\n{md(evidence.method(x))}"


def _marks(x: MarkFacts) -> str:
    spread = ", ".join(f"{p} %: {number(v)}" for p, v in x.quantiles.items())
    told = [
        marks.CONTROLS.get(x.control or "", ""),
        f"{md(marks.verdict(x))} The score is by {md(x.paper)}, {code(x.options)}.",
        grid(marks.HEAD, marks.table(x)),
        " ".join(s for s in (f"Quantiles of the scores: {spread}." if spread else "", md(marks.border(x))) if s),
        md(marks.unmarkable(x)),
        f"The indicator stands behind the user's message, after a space, in {count(x.messages, 'message')}; everything "
        "else is as the source gave it. The column `marks` has the score of each answer.",
        f"**How to use it.** {md(marks.inference(x))} `mixtura train` makes it one token. Other trainers read it as "
        "plain text; to make it one token there, before training:",
        f"```python\ntokenizer.add_tokens([{json.dumps(x.indicator)}])\n"
        "model.resize_token_embeddings(len(tokenizer))\n```",
    ]
    return "\n\n".join(t for t in told if t)


def _losses(s: Summary) -> str:
    made = any(x.made for x in s.stages)
    stages = grid(
        ["stage", "read", *(["made"] if made else []), "dropped", "quarantined", "written"],
        [[x.stage, *_books(x, made)] for x in s.stages],
    )
    reasons = [[x.stage, r, f"{n:,}", share(n, x.read + x.made)] for x in s.stages for r, n in by_count(x.dropped)]
    why = grid(["stage", "reason", "rows", "of what the stage read"], reasons) if reasons else "Nothing was dropped."
    rule = f"Near-duplicates are {md(s.near_duplicates)}. " if s.near_duplicates else ""
    return (
        f"Every record ends in one place: read{' + made' if made else ''} = written + dropped + quarantined, "
        "checked at each stage.\n\n"
        f"{stages}\n\n{why}\n\n{rule}`ledger.parquet` has a line for each record with its reason."
    )


def _books(x: StageFacts, made: bool) -> list[str]:
    counts = [x.read, *([x.made] if made else []), sum(x.dropped.values()), x.quarantined, x.written]
    return [f"{n:,}" for n in counts]


def _provenance(s: Summary) -> str:
    return grid(
        ["source", "licence", "revision", "files", "bytes", "read", "quarantined", "dropped", "pool"],
        [_source(x) for x in s.sources],
    )


def _source(x: SourceFacts) -> list[str]:
    counts = (x.files, x.bytes, x.read, x.quarantined, sum(x.dropped.values()), x.pool_rows)
    revision = f"made by builder {x.builder}" if x.builder else x.revision or "not stated"
    return [x.name, x.license, revision, *(f"{n:,}" for n in counts)]


def _limits(s: Summary) -> str:
    limits = [
        "A selection is only as good as the target that steers it; rows unlike the target are rare here on purpose."
        if s.target
        else "No target steered this mixture.",
        "Rows were chosen by score, not read by people: errors, bias and personal data of the sources remain.",
    ]
    if unknown := sum(n for name, n in s.licenses.items() if hub_license(name) == "unknown"):
        limits.append(f"The licence of {count(unknown, 'row')} is not known. Find it out before you publish.")
    if silent := s.languages.get("", 0):
        limits.append(f"The language of {count(silent, 'row')} is not stated by its source.")
    if not s.near_duplicates:
        limits.append("Near-duplicates were not removed.")
    return "\n".join(f"- {line}" for line in limits)


def _rebuild(s: Summary) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", s.recipe_yaml)), default=0))
    return (
        "The recipe, resolved. Over the same input files it gives the same bytes.\n\n"
        f"{fence}yaml\n{s.recipe_yaml.rstrip()}\n{fence}"
    )


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column and words to the left, numbers to the right."""
    rows = [list(r) for r in rows]
    right = [bool(rows) and all(re.fullmatch(r"[\d.,%→<\s–-]+", r[i]) for r in rows) for i in range(len(head))]
    lines = [head, ["---:" if r else "---" for r in right], *([md(c) for c in r] for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def md(text: str) -> str:
    """Free text as one line of Markdown that means nothing but itself: no table cell, tag, link or emphasis."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"([\\`*_\[\]|<>#])", r"\\\1", text)


def code(value: Any) -> str:
    """A value as inline code; a mapping or list as JSON with sorted keys."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    text = re.sub(r"\s+", " ", text)
    tick = "`" * (1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{tick}{pad}{text}{pad}{tick}"


def _listed(word: str, counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{md(k)} ({n:,})" for k, n in by_count(counts))
    return f"{word}: {listed}." if listed else ""
