"""What a probe measured, in words and as a table: the same in card, report and terminal.

A gain whose 95 % interval includes 0 is never called one: no difference was shown.
"""

from __future__ import annotations

from mixtura.pipeline.summary import ArmFacts, EvidenceFacts
from mixtura.pipeline.wording import count, share

Gain = tuple[float, float, float]  # mean and 95 % interval, bits per byte; positive is better than uniform

FEW_SEEDS = 5  # with fewer, a bootstrap over seeds hardly knows how much they differ
HEAD = (
    "picks of",
    "target, bits per byte",
    "gain over uniform (95 % interval)",
    "target after fine-tuning",
    "gain after fine-tuning (95 % interval)",
    "reference, bits per byte",
    "rows picked",
    "target rows reached",
)


def verdict(evidence: EvidenceFacts) -> str:
    """Whether each selection's picks beat uniform ones after the warm-up, in one sentence."""
    told = [_clause(a.name, a.gain) for a in evidence.arms if a.gain]
    if not told:
        return "No selection's picks were compared with uniform ones."
    return f"At {count(evidence.tokens, 'token')} and over {count(evidence.seeds, 'seed')}, {'; '.join(told)}."


def tuned_verdict(evidence: EvidenceFacts) -> str:
    """The same after fine-tuning; empty where that was not compared."""
    told = [_clause(a.name, a.tuned_gain) for a in evidence.arms if a.tuned_gain]
    if not told:
        return ""
    return f"After fine-tuning on {count(evidence.finetune_rows, 'target row')} as well, {'; '.join(told)}."


def method(evidence: EvidenceFacts) -> str:
    """How it was measured, and how far it can be trusted."""
    coarse = f"; {count(evidence.seeds, 'seed')} give a coarse one" if evidence.seeds < FEW_SEEDS else ""
    often = f", in each of {count(evidence.orders, 'order')}" if evidence.orders > 1 else ""
    return (
        f"The same model ({evidence.model}) was trained on picks of each selection, equally many tokens{often}, and "
        f"its loss measured on {count(evidence.heldout_rows, 'target row')} that no selector saw: fewer bits per byte "
        "are better. On reference rows, more than without the warm-up is what it forgot. "
        f"Each interval is over seeds and rows, and holds for one comparison alone{coarse}."
    )


def table(evidence: EvidenceFacts) -> list[list[str]]:
    """A line per arm under `HEAD`; `–` where there is nothing to say."""
    return [
        [
            arm.name,
            f"{arm.warmed:.3f}",
            _interval(arm.gain),
            f"{arm.tuned:.3f}",
            _interval(arm.tuned_gain),
            f"{arm.kept:.3f}",
            "–" if arm.rows is None else f"{arm.rows:,.0f}",
            "–" if arm.coverage is None else share(arm.coverage, 1),
        ]
        for arm in evidence.arms
    ]


def compared(evidence: EvidenceFacts) -> list[ArmFacts]:
    """The arms that have a gain."""
    return [a for a in evidence.arms if a.gain or a.tuned_gain]


def shown(gain: Gain) -> int:
    """1 where better than uniform picks, -1 where worse, 0 where the interval includes 0."""
    _, low, high = gain
    return 1 if low > 0 else -1 if high < 0 else 0


def bits(x: float) -> str:
    """A number of bits per byte: three decimals, or what is left of a smaller one, so that no gain reads as 0."""
    text = f"{x:.3f}"
    return (f"{x:.1g}" if x and not float(text) else text.removeprefix("-") if not x else text).replace("-", "−", 1)


def _clause(name: str, gain: Gain) -> str:
    mean, low, high = gain
    interval = f"95 % interval {bits(low)} to {bits(high)}"
    if not shown(gain):
        return f"for picks of {name} no difference from uniform ones is shown ({bits(mean)}, {interval})"
    word = "beat" if shown(gain) > 0 else "are worse than"
    return f"picks of {name} {word} uniform ones by {bits(abs(mean))} bits per byte ({interval})"


def _interval(gain: Gain | None) -> str:
    if gain is None:
        return "–"
    mean, low, high = (bits(x) for x in gain)
    return f"{mean} ({low} to {high})"
