"""What to do where one class has fewer faces than the other, without making any."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def class_weights(targets: NDArray[np.int64]) -> Tensor:
    """[2] float32 weights of real and fake in the loss: N / (2 N_c) (King & Zeng 2001), of mean 1 over the rows."""
    counts = np.bincount(targets, minlength=2)
    return torch.from_numpy((len(targets) / (2 * counts)).astype(np.float32))


def epoch_order(targets: NDArray[np.int64], balance: str, generator: torch.Generator) -> NDArray[np.int64]:
    """The row numbers of one epoch, shuffled.

    For "oversample" both classes come as often as the larger one: each row of the smaller one as many times as fits,
    and a random part of them once more. Otherwise every row comes once.
    """
    rows = np.arange(len(targets), dtype=np.int64)
    if balance == "oversample":
        size = int(np.bincount(targets, minlength=2).max())
        rows = np.concatenate([_repeated(rows[targets == label], size, generator) for label in (0, 1)])
    shuffled: NDArray[np.int64] = rows[torch.randperm(len(rows), generator=generator).numpy()]
    return shuffled


def _repeated(rows: NDArray[np.int64], size: int, generator: torch.Generator) -> NDArray[np.int64]:
    extra: NDArray[np.int64] = torch.randperm(len(rows), generator=generator).numpy()[: size % len(rows)]
    repeated: NDArray[np.int64] = np.concatenate([np.tile(rows, size // len(rows)), rows[extra]])
    return repeated
