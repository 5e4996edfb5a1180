"""An answer's scores, from the attention mass of its rows on each kind of token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixtura.pipeline.attention.options import FIRST, KINDS, RESPONSE, USER

if TYPE_CHECKING:
    import torch


def account(masses: torch.Tensor, even: torch.Tensor) -> dict[str, float]:
    """The columns of one answer.

    Args:
        masses: f32[H, r, s], mass of each head and row of the answer on each of `KINDS`, in their order.
        even: f32[r, s], the same of attention spread evenly.

    Returns:
        The columns of `options.ATTENTION`, `even` (the baseline of `lift`), and `mass_KIND`, the mean over rows and
        heads, which sum to 1 where every row sees a key and no learned sink takes a part.

    Source: Wang et al. 2024 (arXiv:2411.02688), section 3.1, with the maximum inside the mean, as in the authors' code;
        `head` is the maximum outside (appendix B.3). Differs: only tokens of user messages count, where the code counts
        all but headers, newlines, start and end tokens, system prompts included. The other columns are ours.
    """
    user = masses[..., USER]
    beside_sink = (1 - masses[..., FIRST]).clamp(min=1e-9)
    said = (user + masses[..., RESPONSE]).clamp(min=1e-9)
    strongest = _strongest(user)
    baseline = float(even[:, USER].double().mean())
    return {
        "raw": strongest,
        "lift": strongest - baseline,
        "sinkless": _strongest(user / beside_sink),
        "share": _strongest(user / said),
        "head": float(user.double().mean(1).max()),
        "mean": float(user.double().mean()),
        "even": baseline,
    } | {f"mass_{kind}": float(masses[..., i].double().mean()) for i, kind in enumerate(KINDS)}


def _strongest(part: torch.Tensor) -> float:
    """The mean over rows of the largest over heads."""
    return float(part.max(0).values.double().mean())
