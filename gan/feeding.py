"""Faces on their way to the device: from the memory map batch by batch, or resident there where they fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faces.loading import Crops

# Share of a GPU's free memory that the faces may take; the networks need the rest.
RESIDENT_SHARE = 0.25
_CHUNK = 1024

Feeder = Callable[[NDArray[np.int64]], Tensor]


def feeder(crops: Crops, device: torch.device, *, resident: bool | None = None) -> Feeder:
    """A function from indices [B] to those faces, uint8 [B, 3, S, S].

    Args:
        crops: decoded faces.
        device: where they are needed.
        resident: whether to keep all of them on the device; by default on a GPU whose memory has room for it.
    """
    if resident is None:
        resident = device.type == "cuda" and _bytes(crops) <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    if not resident:
        return crops.batch
    size = crops.pixels.shape[1]
    held = torch.empty((len(crops), 3, size, size), dtype=torch.uint8, device=device)
    for start in range(0, len(crops), _CHUNK):
        stop = min(start + _CHUNK, len(crops))
        held[start:stop] = crops.batch(np.arange(start, stop)).to(device)
    return lambda indices: held[torch.from_numpy(indices).to(device, non_blocking=True)]


def _bytes(crops: Crops) -> int:
    return len(crops) * int(np.prod(crops.pixels.shape[1:]))
