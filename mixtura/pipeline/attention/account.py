"""An answer's scores, from the attention mass of its rows on each kind of token."""

from __future__ import annotations

import torch

from mixtura.pipeline.attention.options import FIRST, KINDS, RESPONSE, USER


def account(masses: torch.Tensor, even: torch.Tensor, peaks: torch.Tensor) -> dict[str, float]:
    """The columns of one answer.

    Args:
        masses: f32[H, r, s], mass of each head and row of the answer on each of `KINDS`, in their order.
        even: f32[r, s], the same of attention spread evenly.
        peaks: f32[H, r], the largest mass on one token of the user.

    Returns:
        The columns of `options.ATTENTION`, `even` (the baseline of `lift`), and `mass_KIND`, the mean over rows and
        heads, which sum to 1 where every row sees a key and no learned sink takes a part.

    Source: Wang et al. 2024 (arXiv:2411.02688), section 3.1, with the maximum inside the mean, as in the authors' code;
        `head` is the maximum outside (appendix B.3). Differs: only tokens of user messages count, where the code counts
        all but headers, newlines, start and end tokens, system prompts included. The other columns
        are ours; `peak` asks for what a head that copies does (Wu et al. 2024, Retrieval Head, arXiv:2404.15574), but
        not that the token be the one that is written.
    """
    masses = masses.double()
    user = masses[..., USER]
    beside_sink = (1 - masses[..., FIRST]).clamp(min=1e-9)
    said = (user + masses[..., RESPONSE]).clamp(min=1e-9)
    by_head = torch.stack([user, user / beside_sink, user / said])  # [3, H, r]
    raw, sinkless, share = by_head.amax(1).mean(1).tolist()
    mean = masses.mean((0, 1)).tolist()
    baseline = float(even[:, USER].double().mean())
    columns = {
        "raw": raw,
        "lift": raw - baseline,
        "sinkless": sinkless,
        "share": share,
        "head": float(user.mean(1).max()),
        "mean": mean[USER],
        "peak": float(peaks.double().amax(0).mean()),
        "even": baseline,
    }
    return columns | {f"mass_{kind}": value for kind, value in zip(KINDS, mean, strict=True)}
