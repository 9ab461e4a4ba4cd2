"""How far a training has come, and its file: all that an exact resume needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from faces.errors import UserError


@dataclass
class Progress:
    """Counters, the best weights so far and the metrics of each finished epoch; plain containers and tensors."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the epoch under way
    loss_sum: float = 0.0  # of the epoch under way, over its faces
    best: dict[str, Any] | None = None  # epoch, auc, loss, state
    history: list[dict[str, float]] = field(default_factory=list)

    def finish_epoch(
        self, metrics: dict[str, float], weights: Callable[[], dict[str, Tensor]], *, judged: bool
    ) -> None:
        """Keep the weights where they are better: by val_auc, then by val_loss. Where val is no judge, the last are."""
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        self.history.append(metrics)
        rank = (metrics["val_auc"], -metrics["val_loss"]) if judged else (float(self.epoch), 0.0)
        if self.best is None or rank > (self.best["auc"], -self.best["loss"]):
            self.best = {"epoch": self.epoch, "auc": rank[0], "loss": -rank[1], "state": weights()}


def write_state(file: Path, progress: Progress, **parts: object) -> None:
    """Write atomically; a kill leaves the old file or the new one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    shallow = {name: getattr(progress, name) for name in asdict(Progress())}
    torch.save({**parts, "progress": shallow}, temporary)
    temporary.replace(file)


def read_state(file: Path) -> dict[str, Any] | None:
    """What `write_state` wrote, or None where there is no file.

    Raises:
        UserError: it is damaged.
    """
    if not file.is_file():
        return None
    try:
        return cast("dict[str, Any]", torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # torch's reader of damaged files raises whatever its pickle machine stumbles over
        raise UserError(f"{file} is damaged and cannot be resumed from: delete it and train again") from error
