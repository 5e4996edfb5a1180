"""Others that solve entropic transport of a large pool to a small target, each to be timed by rows and iterations.

Every peer solves the whole pool, as the published method does: none can score a row that was not in its solve. All run
on one thread in f32, from their own start, and return the potential f of every pool row, up to a constant.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch

Peer = Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]
CHUNK = 4096  # rows of the streamed peer's tiles: the quickest of 512 to 16,384 here


def streamed_torch(x: np.ndarray, y: np.ndarray, epsilon: float, tolerance: float) -> np.ndarray:
    """Sinkhorn in the log domain as one would write it: chunks of rows, torch.logsumexp, two passes an iteration."""
    x_, y_ = torch.from_numpy(x), torch.from_numpy(y)
    n, m = len(x), len(y)
    f, g = torch.zeros(n), torch.zeros(m)
    for _ in range(1000):
        for rows in torch.arange(n).split(CHUNK):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            logits = (g - 2 + 2 * x_[part] @ y_.T) / epsilon
            f[part] = -epsilon * (torch.logsumexp(logits, 1) - np.log(m))
        columns = torch.full((m,), -torch.inf)
        for rows in torch.arange(n).split(CHUNK):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            logits = (f[part, None] - 2 + 2 * x_[part] @ y_.T) / epsilon
            columns = torch.logaddexp(columns, torch.logsumexp(logits, 0))
        new = -epsilon * (columns - np.log(n))
        error = float((torch.exp((g - new) / epsilon) - 1).abs().mean())  # of the mass that arrived under f and g
        if error <= tolerance:
            break
        g = new
    return f.double().numpy()


def pot_lazy(x: np.ndarray, y: np.ndarray, epsilon: float, tolerance: float) -> np.ndarray:
    """POT's solver that never holds n x M: `ot.bregman.empirical_sinkhorn(..., isLazy=True)`."""
    import ot

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log = ot.bregman.empirical_sinkhorn(
            torch.from_numpy(x),
            torch.from_numpy(y),
            epsilon,
            numIterMax=1000,
            stopThr=tolerance,
            isLazy=True,
            batchSize=CHUNK,
            log=True,
        )[-1]
    return epsilon * log["u"].double().numpy()


def geomloss_tensorized(
    x: np.ndarray, y: np.ndarray, epsilon: float, tolerance: float, device: str = "cpu"
) -> np.ndarray:
    """GeomLoss without KeOps: it holds n x M, and stops when its eps has fallen, whatever the error.

    Its cost is |x - y|^2 / 2 and its eps blur^2, so ours is twice its.
    """
    from geomloss import SamplesLoss

    del tolerance
    loss = SamplesLoss(
        "sinkhorn", p=2, blur=(epsilon / 2) ** 0.5, scaling=0.5, debias=False, potentials=True, backend="tensorized"
    )
    f, _ = loss(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device))
    return 2 * f.reshape(-1).double().cpu().numpy()


PEERS: dict[str, Peer] = {
    "streamed torch": streamed_torch,
    "POT lazy": pot_lazy,
    "GeomLoss tensorized": geomloss_tensorized,
}
