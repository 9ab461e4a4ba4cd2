"""What moves the weights: groups that learn at their own pace, the course of the pace, and the average of the way."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from classifier.backbones import head_keys


def optimizer(module: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with four groups, each marked by `head`: head and backbone, with and without weight decay.

    Biases and the scales of norms do not decay (Goyal et al. 2017, section 5.3, and timm's default since).
    """
    above = set(head_keys(module))
    groups: dict[tuple[bool, bool], list[Tensor]] = {(h, d): [] for h in (True, False) for d in (True, False)}
    for name, parameter in module.named_parameters():
        groups[name in above, parameter.ndim > 1].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "weight_decay": weight_decay * decays, "head": is_head}
            for (is_head, decays), members in groups.items()
        ],
        lr=learning_rate,
    )


def set_learning_rate(adam: torch.optim.AdamW, learning_rate: float, backbone_factor: float) -> None:
    """The rate of this step: for the head as given, for the backbone times its factor."""
    for group in adam.param_groups:
        group["lr"] = learning_rate * (1.0 if group["head"] else backbone_factor)


def schedule(step: int, total: int, warmup_share: float) -> float:
    """Factor of the learning rate in (0, 1] at step 0 <= step < total: a linear warm-up, then half a cosine."""
    warm = math.ceil(warmup_share * total)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def averaged(module: nn.Module, decay: float) -> AveragedModel:
    """Weights and norms' statistics averaged over the steps n, by min(decay, (1 + n) / (10 + n)): short at first."""

    def average(old: Tensor, new: Tensor, n: Tensor | int) -> Tensor:
        now = min(decay, (1 + int(n)) / (10 + int(n)))
        return old.lerp(new, 1 - now) if old.is_floating_point() else new

    return AveragedModel(module, avg_fn=average, use_buffers=True)
