"""What a trial will cost, from one timed step, before anything is launched."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import ValidationError

from classifier.config import DetectorConfig
from classifier.models.backbones import head, pooled
from classifier.models.detector import Detector
from core.device import autocast, keep_freed_memory, pick_device, pick_precision
from tuning.config import StudyConfig
from tuning.space import Choice, Range
from tuning.trial import TrialSpec


@dataclass(frozen=True)
class Cost:
    """Seconds of one training step (head alone, everything) and of a whole trial, for one backbone."""

    backbone: str
    frozen_step: float
    full_step: float
    trial: float


def trial_costs(config: StudyConfig, base: TrialSpec, faces: int) -> list[Cost]:
    """For every backbone of the space, at the base's other settings.

    Args:
        faces: train rows that a trial passes over in an epoch; synthetic ones are added by the share searched.
    """
    share = _middle(config.space.get("synthetic_share"), base.synthetic_share)
    searched = config.space.get("backbone")
    backbones = searched.choices if isinstance(searched, Choice) else (base.detector.backbone,)
    costs = []
    for backbone in backbones:
        settings = {name: _middle(config.space.get(name), getattr(base.detector, name)) for name in _SCALE}
        whole = {name: int(value) for name, value in settings.items()}
        try:
            detector = DetectorConfig.model_validate(
                base.detector.model_dump() | whole | {"backbone": str(backbone), "weights": "none"}
            )
        except ValidationError:  # the middle of two ranges need not go together
            detector = base.detector.model_copy(update={"backbone": str(backbone), "weights": "none"})
        rows = faces * (1 + (share / (1 - share) if share else 0) / 2)
        steps = math.ceil(rows / detector.batch_size)
        frozen, full = step_seconds(detector, frozen=True), step_seconds(detector, frozen=False)
        epochs = detector.frozen_epochs * frozen + (detector.epochs - detector.frozen_epochs) * full
        costs.append(Cost(str(backbone), frozen, full, config.folds * steps * epochs * 1.2))  # a fifth for val
    return costs


_SCALE = ("epochs", "frozen_epochs", "batch_size", "image_size")


def step_seconds(config: DetectorConfig, *, frozen: bool) -> float:
    """One step on noise, the second of two: the first one warms up."""
    keep_freed_memory()
    device = pick_device(config.device)
    detector = Detector.create(config).to(device)
    module, precision = detector.module, pick_precision(config.precision, device, detector.module)
    module.requires_grad_(not frozen)
    head(module).requires_grad_(True)
    module.train(not frozen)
    side = config.image_size
    random = torch.Generator().manual_seed(0)
    faces = torch.randint(0, 256, (config.batch_size, 3, side, side), dtype=torch.uint8, generator=random).to(device)
    fake = (torch.arange(config.batch_size, device=device) % 2).float()
    seconds = math.inf
    for _ in range(2):
        began = time.perf_counter()
        with torch.set_grad_enabled(not frozen), autocast(device, precision):
            seen = pooled(module, detector.normalise(faces))
        loss = F.binary_cross_entropy_with_logits(head(module)(seen.float()).squeeze(1), fake)
        loss.backward()  # type: ignore[no-untyped-call]
        float(loss.detach())
        seconds = min(seconds, time.perf_counter() - began)
    return seconds


def described(space: Mapping[str, Range | Choice]) -> list[dict[str, str]]:
    """The space for people: one row a parameter."""
    rows = []
    for name, values in space.items():
        if isinstance(values, Choice):
            text = " | ".join(map(str, values.choices))
        else:
            how = ", log" if values.log else f", step {values.step}" if values.step is not None else ""
            text = f"{values.low} to {values.high}{how}"
        when = [
            f"{parent} is {' or '.join(map(str, wanted))}"
            if isinstance(wanted, tuple)
            else _bounded(parent, wanted.low, wanted.high)
            for parent, wanted in values.when.items()
        ]
        rows.append({"parameter": name, "values": text, "exists when": " and ".join(when)})
    return rows


def _bounded(name: str, low: float | None, high: float | None) -> str:
    """`2 <= epochs <= 5`, with the bounds that there are."""
    return (f"{low:g} <= " if low is not None else "") + name + (f" <= {high:g}" if high is not None else "")


def _middle(values: Range | Choice | None, otherwise: float) -> float:
    """A typical value of a searched number, or the one that is not searched."""
    if isinstance(values, Range):
        return math.sqrt(values.low * values.high) if values.log else (values.low + values.high) / 2
    if isinstance(values, Choice):
        numbers = [value for value in values.choices if isinstance(value, int | float)]
        return sum(numbers) / len(numbers) if numbers else otherwise
    return otherwise
