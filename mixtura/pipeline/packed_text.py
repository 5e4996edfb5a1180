"""Texts as arrays, so that what a builder learned (`contract.Fitted`) can hold them without pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def pack(name: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Texts as two arrays.

    Returns:
        `NAME.bytes` u8[total], UTF-8 of all of them; `NAME.ends` i64[n], where each ends.
    """
    encoded = [t.encode("utf-8", "surrogatepass") for t in texts]
    ends = np.cumsum([len(e) for e in encoded], dtype=np.int64)
    return {f"{name}.bytes": np.frombuffer(b"".join(encoded), np.uint8), f"{name}.ends": ends}


def unpack(arrays: Mapping[str, np.ndarray], name: str) -> list[str]:
    """What `pack` packed."""
    data, ends = arrays[f"{name}.bytes"].tobytes(), arrays[f"{name}.ends"].tolist()
    return [data[a:b].decode("utf-8", "surrogatepass") for a, b in zip([0, *ends[:-1]], ends, strict=True)]
