"""The words by which a recipe asks for measures of context, and the columns that answer. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

Measure = Literal["attention", "gain", "barred"]
Way = Literal["auto", "rows", "indicator", "lse", "naive"]
Withhold = Literal["passage", "user"]
Column = Literal["raw", "lift", "sinkless", "share", "head", "mean", "peak", "gain", "barred"]

KINDS = ("first", "template", "system", "user", "tool", "response")  # whose token it is; `first` is position 0
FIRST, TEMPLATE, SYSTEM, USER, TOOL, RESPONSE = range(len(KINDS))

ATTENTION = {
    "raw": "the paper's: the head that looks most at the user's tokens, row by row, averaged over the answer",
    "lift": "raw, less what attention spread evenly over the visible tokens would give",
    "sinkless": "as raw, of the attention that does not fall on the first token",
    "share": "as raw, of the attention to user and answer together",
    "head": "the one head that looks most at the user's tokens over the whole answer",
    "mean": "all heads alike",
    "peak": "as raw, of the one token of the user's that gets most: attention that picks, whatever the prompt's length",
}
GIVES: dict[Measure, tuple[str, ...]] = {
    "attention": (*ATTENTION, "even", *(f"mass_{kind}" for kind in KINDS)),
    "gain": ("loss", "gain"),
    "barred": ("loss", "barred"),
}
