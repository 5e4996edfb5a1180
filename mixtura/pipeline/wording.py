"""Counts, shares and scores in words, the same in card, report and terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

CONTROLS = {i: 0x2400 + i for i in range(32) if i not in (9, 10)} | {0x7F: 0x2421}  # to their visible pictures
CONTROLS |= {i: 0xFFFD for i in (*range(0x80, 0xA0), *range(0xD800, 0xE000))}


def visible(text: str) -> str:
    """Text with control characters as their pictures (NUL as ␀), so that pages parse and a terminal obeys nothing."""
    return re.sub(r"\r\n", "\n", text).translate(CONTROLS)


def beginning(text: str, most: int) -> str:
    """The beginning of a text on one line, at most so many characters, with `…` where it goes on."""
    text = re.sub(r"\s+", " ", text[: 4 * most]).strip()
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def count(n: int, noun: str) -> str:
    """`1 row`, `12,000 rows`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def share(part: float, whole: float) -> str:
    """A percentage that is never rounded to 0 or to 100 unless it is that; `–` where there is no whole."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if percent <= 0 or percent >= 100:
        return f"{percent:.0f} %"
    return "< 0.1 %" if percent < 0.05 else "> 99.9 %" if percent >= 99.95 else f"{percent:.1f} %"


def number(x: float) -> str:
    """Three significant digits without an exponent where that is short: `0.0123`, `12.3`, `12,300`, `1.23e-07`."""
    if not math.isfinite(x):
        return str(x)
    if x == 0:
        return "0"
    size = math.floor(math.log10(abs(x)))
    if size < -4 or size > 8:
        return f"{x:.2e}".replace("-", "−", 1) if x < 0 else f"{x:.2e}"
    text = f"{x:,.{max(0, 2 - size)}f}"
    return text.replace("-", "−")


def bytes_of(n: int) -> str:
    """`812 B`, `1.2 MB`: powers of 1,000."""
    size = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.95:
            return f"{n} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Items that are not 0, the largest first, ties by name."""
    return sorted(((k, n) for k, n in counts.items() if n), key=lambda x: (-x[1], x[0]))
