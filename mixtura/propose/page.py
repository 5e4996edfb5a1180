"""The proposal's page: one file, no script, nothing fetched."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2

if TYPE_CHECKING:
    from mixtura.propose.session import Proposal

SHOWN_CHARS = 400


def render(proposal: Proposal, file: str) -> str:
    """The page.

    Args:
        proposal: what was drafted; its texts are escaped.
        file: name of the task pool file.
    """
    return _template().render(p=proposal, file=file, rungs=_rungs(proposal), n=_grouped, cut=_cut, css=_css())


def _rungs(proposal: Proposal) -> list[dict[str, Any]]:
    tried = proposal.clusters.rungs
    top = max(max(r.silhouette for r in tried), 1e-9)
    return [
        {
            "clusters": r.clusters,
            "silhouette": r.silhouette,
            "width": round(max(0.0, 100 * r.silhouette / top), 1),
            "taken": i == proposal.clusters.taken,
        }
        for i, r in enumerate(tried)
    ]


def _grouped(count: int) -> str:
    return f"{count:,}"


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN_CHARS else flat[: SHOWN_CHARS - 1] + "…"


def _css() -> str:
    return files("mixtura.pipeline.report").joinpath("report.css").read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    source = files("mixtura.propose").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
