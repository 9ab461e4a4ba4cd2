"""Faces on their way to the device: in which order, from the memory map batch by batch or resident where they fit."""

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


def picture_indices(seed: int, start: int, count: int, faces: int) -> NDArray[np.int64]:
    """Which faces stand at places `start` ... `start + count - 1` of an endless shuffled sequence.

    Every `faces` places hold each face once. The sequence is a function of the seed, so nothing has to be remembered.
    """
    places = np.arange(start, start + count)
    epochs = places // faces
    orders = {epoch: np.random.default_rng((seed, int(epoch))).permutation(faces) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][place % faces] for epoch, place in zip(epochs, places, strict=True)], np.int64)


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
