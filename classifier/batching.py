"""What to do where one class has fewer faces than the other, without making any; and which faces share a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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


def parents_of(
    hashes: Sequence[str], parents: Sequence[str], targets: NDArray[np.int64]
) -> dict[int, NDArray[np.int64]]:
    """For each fake, by row number, the reals among the rows that it was made from; fakes without any are left out.

    Args:
        hashes: [N] of the crops.
        parents: [N] hashes that a crop was composed from, joined by ";", "" for none.
        targets: [N], fake = 1.
    """
    reals = {digest: row for row, digest in reversed(list(enumerate(hashes))) if targets[row] == 0}
    found = {
        row: np.array([reals[each] for each in text.split(";") if each in reals], dtype=np.int64)
        for row, text in enumerate(parents)
        if text and targets[row] == 1
    }
    return {row: of for row, of in found.items() if len(of)}


def paired_parts(
    count: int, parents: Mapping[int, NDArray[np.int64]], batch_size: int, generator: torch.Generator
) -> list[NDArray[np.int64]]:
    """The batches of one epoch over `count` rows, in which every fake with parents stands beside one of them, by lot.

    A real comes as often as it is drawn for a fake of its own, and once where it is not. Batches are of even size, at
    most one face larger than `batch_size`, since no pair is torn.
    """
    drawn = {
        fake: int(of[int(torch.randint(len(of), (1,), generator=generator))]) for fake, of in sorted(parents.items())
    }
    beside = set(drawn.values())
    units = [(row, drawn[row]) if row in drawn else (row,) for row in range(count) if row not in beside]
    shuffled = [units[place] for place in torch.randperm(len(units), generator=generator).tolist()]
    rows = np.array([row for unit in shuffled for row in unit], dtype=np.int64)
    starts = np.cumsum([0, *(len(unit) for unit in shuffled)])
    parts = math.ceil(len(rows) / batch_size)
    wanted = np.arange(1, parts) * (len(rows) / parts)
    cuts = starts[np.searchsorted(starts, wanted, side="right") - 1]
    return [part for part in np.split(rows, cuts) if len(part)]
