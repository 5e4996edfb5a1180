"""`mixtura show` and `mixtura why`: read a mixture's summary and ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from mixtura.cli.terminal import console, table
from mixtura.errors import InputError
from mixtura.pipeline import marks
from mixtura.pipeline.evidence import verdict
from mixtura.pipeline.summary import Summary
from mixtura.pipeline.wording import beginning, number, share, visible
from mixtura.rows import plain_text

PRICED = {"nearest_target_id", "share", "price", "distance", "score_without_prices"}  # in an account by nudge
BESIDE = {"phrasing", "penalty"}  # in one too, where it heeds more than the distance
TEXT = 90  # characters of a target row's text


def show(mixture: Path) -> None:
    """Print composition, books and files of a mixture."""
    summary = summary_of(mixture)
    total = summary.total
    console.print(f"[bold]{summary.name}[/]  {total.rows:,} rows, {total.tokens:,} tokens, as {summary.form}\n")
    table(["split", "rows", "tokens", "bytes"], [(n, s.rows, s.tokens, s.bytes) for n, s in summary.splits.items()])
    console.print()
    table(
        ["source", "licence", "read", "quarantined", "dropped", "pool", "picked"],
        [
            (s.name, s.license, s.read, s.quarantined, sum(s.dropped.values()), s.pool_rows, s.picked_rows)
            for s in summary.sources
        ],
    )
    console.print()
    table(
        ["stage", "read", "written", "lost"],
        [(s.stage, s.read, s.written, _lost(s.dropped, s.quarantined)) for s in summary.stages],
    )
    console.print()
    table(
        ["selection", "selector", "scored", "picked", "tokens"],
        [(s.name, s.selector, s.pool_rows, s.picked_rows, s.picked_tokens) for s in summary.selections],
    )
    if summary.marks:
        console.print(f"\n{marks.verdict(summary.marks)}", markup=False, soft_wrap=True)
    if summary.evidence:
        console.print(f"\n{verdict(summary.evidence)}", markup=False, soft_wrap=True)
    console.print(f"\n[dim]report {mixture}/report.html · ledger {mixture}/ledger.parquet[/]")


def why(mixture: Path, row: str) -> None:
    """Print every record of the ledger whose id begins so, or the one at `FILE@OFFSET`, which finds quarantine too.

    Raises:
        InputError: no record is meant, or more than can be read.
    """
    summary = summary_of(mixture)
    found = pl.scan_parquet(mixture / "ledger.parquet").filter(_meant(row)).collect()
    if not found.height:
        step = "Ids are in the mixture's column id and in ledger.parquet; FILE@OFFSET names a record by its place"
        raise InputError(f"mixture {summary.name!r}", "must hold a record with this id", got=row, next_step=step)
    if (ids := found["raw_id"].n_unique()) > 20:
        raise InputError("row id", f"must name fewer records: {ids:,} begin so", got=row, next_step="Give more digits")
    for record in found.sort(pl.col("fate") != "written", "source", "file", "offset").iter_rows(named=True):
        _tell(record, mixture)


def _meant(row: str) -> pl.Expr:
    """Which records a user's word means."""
    file, at, offset = row.rpartition("@")
    if at and offset.isdigit():
        return (pl.col("file") == file) & (pl.col("offset") == int(offset))
    if not row:
        return pl.lit(False)
    return pl.col("id").str.starts_with(row) | pl.col("raw_id").str.starts_with(row)


def summary_of(mixture: Path) -> Summary:
    """The summary of a finished mixture.

    Raises:
        InputError: the folder is not a mixture.
    """
    if not (mixture / "manifest.json").is_file():
        raise InputError(f"{str(mixture)!r}", "must be a mixture's folder, which holds a manifest.json")
    return Summary.from_json((mixture / "summary.json").read_text(encoding="utf-8"))


def _tell(record: dict[str, Any], mixture: Path) -> None:
    fate = {"written": "green", "dropped": "yellow", "quarantined": "red"}[record["fate"]]
    name = record["id"] or record["raw_id"] or "(no id: it was never a row)"
    console.print(f"[bold]{name}[/]  [{fate}]{record['fate']}[/]")
    console.print(f"  read        source {record['source']}, file {record['file']}, offset {record['offset']:,}")
    if record["raw_id"] and record["id"] and record["raw_id"] != record["id"]:
        console.print(f"  cleaned     changed by normalisation; as read it was {record['raw_id']}")
    if record["tokens"] is not None:
        console.print(f"  size        {record['tokens']:,} tokens")
    for column, value in record.items():
        if column.startswith("score.") and value is not None:
            console.print(f"  score       {value:.6g} by {column.removeprefix('score.')}")
    if record["survivor"]:
        near = f", similarity {record['similarity']:.3f}" if record["similarity"] is not None else ""
        console.print(f"  in favour   of {record['survivor']}{near}")
    if record["selection"]:
        console.print(f"  picked      by {record['selection']}, rank {record['rank']:,}")
    if record["fate"] == "written":
        console.print(f"  written     to {record['split']}")
        if record["selection"]:  # a target row was never scored
            _account(record, mixture)
    else:
        detail = f" ({record['detail']})" if record["detail"] else ""
        console.print(f"  ended       at {record['stage']}: {record['reason']}{detail}")


def _account(record: dict[str, Any], mixture: Path) -> None:
    """The selector's own account, from the row in the mixture."""
    files = sorted((mixture / record["split"]).glob("*.parquet")) if (mixture / record["split"]).is_dir() else []
    if not files:
        return
    rows = pl.scan_parquet(files).filter(pl.col("id") == record["id"]).collect()
    if rows.height and "marks" in rows.columns:
        _marked(rows["marks"][0], mixture)
    if not rows.height or not rows["why"][0]:
        return
    account = json.loads(rows["why"][0])
    if set(account) >= PRICED:
        _priced(account, rows["score"][0], mixture)
        account = {k: v for k, v in account.items() if k not in {*PRICED, *BESIDE, "serves"}}
    for reason, value in account.items():
        _because(f"{reason.replace('_', ' ')}: {f'{value:.4g}' if isinstance(value, float) else value}")


def _marked(found: pl.Series | None, mixture: Path) -> None:
    """Each answer of the row, its score, and whether the message before it carries the indicator."""
    facts = summary_of(mixture).marks
    if found is None or facts is None:
        return
    for answer in found.to_list():
        scores = "has no score" if answer["score"] is None else f"scores {number(answer['score'])}"
        carries = f"marked with {facts.indicator}" if answer["marked"] else "not marked"
        said = f"  answer      turn {answer['turn'] + 1} {scores}: {carries}"
        console.print(said, markup=False, soft_wrap=True)


def _priced(account: dict[str, Any], score: float, mixture: Path) -> None:
    """Nudge's account in words: which targets the row serves, what the first of them pays, what the prices changed."""
    serves = account.get("serves") or [[account["nearest_target_id"], account["share"]]]
    texts = _target_texts(mixture, [target for target, *_ in serves])
    _because("it serves these rows of the target; the share says how much of it each takes:")
    for target, *part in serves:
        said = f"“{visible(beginning(texts[target], TEXT))}”" if target in texts else "(its text is not here)"
        console.print(
            f"              {share(part[0], 1) if part else '':>7}  {said}  {target}", markup=False, soft_wrap=True
        )
    price, away = account["price"], number(account["distance"])
    place = "above the average of 0: the reference lacks it" if price > 0 else "not above the average of 0"
    _because(f"the first of them pays a price of {number(price)}, {place}")
    _because(f"the first of them lies at a distance of {away}: 0 is the same, 2 has nothing in common with it")
    plain, priced = account["score_without_prices"], score + account.get("penalty", 0.0)
    _because(f"prices {_moved(plain, priced)}: {number(priced)} with them, {number(plain)} without, by nearness alone")
    if "phrasing" in account:
        like = "more" if account["phrasing"] > 0 else "less"
        by = number(abs(account["phrasing"]))
        _because(f"it is worded {like} like the target than what it serves of it, by {by} nats an n-gram")
    if "penalty" in account:
        _because(f"what is beside its distance {_moved(priced, score)}: {number(score)} with it")


def _moved(before: float, after: float) -> str:
    """What was done to a score, in words."""
    if before == after:
        return "did not change its score"
    return f"{'raised' if after > before else 'lowered'} its score by {number(abs(after - before))}"


def _because(words: str) -> None:
    console.print(f"  because     {visible(words)}", markup=False, soft_wrap=True)


def _target_texts(mixture: Path, ids: list[str]) -> dict[str, str]:
    """Id → text of target rows, those that the mixture holds."""
    files = sorted((mixture / "target").glob("*.parquet"))
    if not files:
        return {}
    rows = pl.scan_parquet(files).filter(pl.col("id").is_in(ids)).collect()
    return dict(zip(rows["id"], plain_text(rows), strict=True))


def _lost(dropped: dict[str, int], quarantined: int) -> str:
    parts = [f"{n:,} {r}" for r, n in dropped.items()]
    return ", ".join(parts + ([f"{quarantined:,} quarantined"] if quarantined else []))
