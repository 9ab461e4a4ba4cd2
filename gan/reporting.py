"""Losses and speed between two reports: summed on the device, and looked at when a report is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Report = Callable[[Mapping[str, float], int], None]


def ignore(metrics: Mapping[str, float], step: int) -> None:
    """A report that goes nowhere."""


class Window:
    """What has been measured since the last report."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[Tensor, int]] = {}  # metric -> sum and count
        self.began = (0.0, 0)  # seconds and images at the last report, for images/s

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Count scalars in, without waiting for the device."""
        for name, metric in metrics.items():
            total, count = self.sums.get(name, (torch.zeros_like(metric), 0))
            self.sums[name] = (total + metric, count + 1)

    def close(self, seconds: float, images: int) -> dict[str, float]:
        """Means since the last report, and images/s; then the window is empty."""
        means = {name: (total / count).item() for name, (total, count) in self.sums.items()}
        before, shown = self.began
        means["images_per_second"] = (images - shown) / max(seconds - before, 1e-9)
        self.sums, self.began = {}, (seconds, images)
        return means

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in plain containers."""
        return {
            "window": {name: (total.item(), count) for name, (total, count) in self.sums.items()},
            "reported_at": self.began,
        }

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from a `state()`."""
        self.began = (state["reported_at"][0], state["reported_at"][1])
        self.sums = {
            name: (torch.tensor(total, device=device), count) for name, (total, count) in state["window"].items()
        }
