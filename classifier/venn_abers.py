"""How sure one score is: Venn-Abers intervals from the val scores that a model keeps beside its weights.

For a new logit s, isotonic regressions are fitted on the val logits with (s, real) and with (s, fake) added; their
values at s are the two ends p0 <= p1 (Vovk, Petej & Fedorova 2015, "Large-scale probabilistic predictors with and
without guarantees of validity"). One of the two is calibrated exactly, if s and the val rows are exchangeable. Frames
of one person are not: so each draw takes one row of each person (or source) and class, and the ends are means over
draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as encode
from sklearn.isotonic import IsotonicRegression

from core.errors import UserError
from core.files import write_bytes

VAL = "val.safetensors"
_DRAWS = 20
_NAMES = ("logits", "targets", "groups")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ValScores:
    """What a model said about its N val rows.

    Attributes:
        logits: float [N], not divided by the temperature.
        targets: int [N], fake = 1.
        groups: int [N], numbers of the identities or else sources.
    """

    logits: NDArray[np.float32]
    targets: NDArray[np.int64]
    groups: NDArray[np.int64]

    @classmethod
    def of(cls, logits: ArrayLike, targets: ArrayLike, groups: ArrayLike) -> ValScores:
        """With `groups` by any names [N]."""
        numbers = np.unique(np.asarray(groups), return_inverse=True)[1]
        return cls(np.asarray(logits, np.float32), np.asarray(targets, np.int64), numbers.astype(np.int64))

    def save(self, folder: Path) -> None:
        """Write `val.safetensors` beside the model's weights."""
        write_bytes(folder / VAL, encode({name: torch.from_numpy(getattr(self, name)) for name in _NAMES}))

    @classmethod
    def read(cls, folder: Path) -> ValScores | None:
        """What `save` wrote; None in models of before val scores were kept, or that had no val rows.

        Raises:
            UserError: the file is damaged.
        """
        if not (folder / VAL).is_file():
            return None
        try:
            tensors = load_file(folder / VAL)
            arrays = [tensors[name].numpy() for name in _NAMES]
            if {array.shape for array in arrays} != {(len(arrays[0]),)} or not np.isfinite(arrays[0]).all():
                raise ValueError("it is not three finite vectors of one length")
            if not np.isin(arrays[1], (0, 1)).all():
                raise ValueError("a target is neither 0 nor 1")
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise UserError(f"{folder / VAL} is damaged ({error}): take the model anew") from error
        return cls(arrays[0].astype(np.float32), arrays[1].astype(np.int64), arrays[2].astype(np.int64))


class VennAbers:
    """Maps logits to [p0, p1], the interval of P(fake).

    Args:
        val: of the model.
        seed: of the draws of one row a group.
    """

    def __init__(self, val: ValScores, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        key = val.groups * 2 + val.targets
        groups, counts = np.unique(key, return_counts=True)
        order = np.argsort(key, kind="stable")
        starts = np.cumsum(counts) - counts
        draws = _DRAWS if counts.max(initial=1) > 1 else 1
        picked = [order[starts + random.integers(0, counts)] for _ in range(draws)] if len(groups) else []
        self._draws = [(val.logits[rows].astype(np.float64), val.targets[rows]) for rows in picked]
        self.possible = len(np.unique(val.targets)) == 2
        self.groups = len(np.unique(val.groups))  # what the interval rests on

    def __call__(self, logits: ArrayLike) -> Floats:
        """[N, 2] low and high of P(fake) for N logits; nan where val has one class only."""
        values, back = np.unique(np.asarray(logits, dtype=np.float64), return_inverse=True)
        ends = np.full((len(values), 2), np.nan)
        if self.possible:
            for number, value in enumerate(values):
                ends[number] = np.mean([_ends(value, *draw) for draw in self._draws], axis=0)
        return ends[back]


def _ends(value: float, logits: Floats, targets: NDArray[np.int64]) -> tuple[float, float]:
    scores = np.append(logits, value)
    p0, p1 = (IsotonicRegression().fit(scores, np.append(targets, assumed)).predict([value])[0] for assumed in (0, 1))
    return float(p0), float(p1)
