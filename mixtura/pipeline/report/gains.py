"""Does it help: what a probe measured of each selection's picks, as a sentence, intervals on one axis, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mixtura.pipeline import evidence
from mixtura.pipeline.evidence import Gain
from mixtura.pipeline.report import plots
from mixtura.pipeline.report.plots import Axis, Mark
from mixtura.pipeline.summary import EvidenceFacts


def told(facts: EvidenceFacts, marks: Mapping[str, Mark]) -> dict[str, Any]:
    """All that the section shows; arms that the mixture has no selection for are drawn in ink."""
    arms = evidence.compared(facts)
    gains = {"After the warm-up": [a.gain for a in arms], "After fine-tuning": [a.tuned_gain for a in arms]}
    ends = [0.0, *(end for column in gains.values() for g in column if g for end in g)]
    edge = 0.05 * (max(ends) - min(ends)) or 0.1
    axis = Axis(min(ends) - edge, max(ends) + edge)
    own = [marks.get(a.name, Mark(a.name, a.name, "many")) for a in arms]
    drawn = {head: [(m, g) for m, g in zip(own, column, strict=True) if g] for head, column in gains.items()}
    return {
        "said": [_unbroken(s) for s in (evidence.verdict(facts), evidence.tuned_verdict(facts)) if s],
        "plots": {head: intervals(items, axis, label=head) for head, items in drawn.items() if items},
        "head": [_unbroken(name) for name in evidence.HEAD],
        "table": evidence.table(facts),
        "method": evidence.method(facts),
    }


def intervals(items: Sequence[tuple[Mark, Gain]], axis: Axis, *, label: str) -> Markup:
    """One line per series with its mean on its interval, and a rule at 0.

    Args:
        items: series, then mean, low and high.
        axis: common to all lines; it holds 0.
        label: what a screen reader says.
    """
    zero = Markup('<i class="level" style="left:{}%"></i>').format(f"{axis.at(0):.2f}")
    lines = []
    for mark, (mean, low, high) in items:
        start, middle, end = (axis.at(x) for x in (low, mean, high))
        lines.append(
            Markup(
                '<div class="line" title="{0}: {1}, 95 % interval {2} to {3}"><span class="name"><bdi>{0}</bdi></span>'
                '<span class="track">{4}<i class="stem {5}" style="left:{6}%;width:{7}%"></i>'
                '<i class="dot {5}" style="left:{8}%"></i></span></div>'
            ).format(
                mark.label,
                *(evidence.bits(x) for x in (mean, low, high)),
                zero,
                mark.css,
                f"{start:.2f}",
                f"{end - start:.2f}",
                f"{middle:.2f}",
            )
        )
    foot = Markup('<div class="line axis"><span class="name"></span><span class="track">{}</span></div>')
    return Markup('<div class="dumbbells intervals" role="img" aria-label="{}">{}{}</div>').format(
        label, Markup("").join(lines), foot.format(plots.ticks(axis, plots.plain))
    )


def _unbroken(words: str) -> str:
    """No line may end between a number and its sign of per cent."""
    return words.replace(" %", "\N{NO-BREAK SPACE}%")
