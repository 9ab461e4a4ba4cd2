"""What moves the weights: groups that learn at their own pace, the course of the pace, and the average of the way."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from classifier.finetuning import layers


def optimizer(
    module: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> torch.optim.AdamW:
    """AdamW with a group for new weights (marked by `head`) and each layer's, each with and without weight decay.

    `scale` of a group is layer_decay ** (layers above it, the head not counted), as BEiT and timm have it. At 1 there
    are four groups. Biases and the scales of norms do not decay (Goyal et al. 2017,
    section 5.3, and timm's default since).
    """
    depth = layers(module)
    top = max(depth.values(), default=0)
    groups: dict[tuple[bool, float, bool], list[Tensor]] = {
        (head, 1.0, decays): [] for head in (True, False) for decays in (True, False)
    }
    for name, parameter in module.named_parameters():
        scale = layer_decay ** (top - depth[name]) if name in depth else 1.0
        groups.setdefault((name not in depth, scale, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "weight_decay": weight_decay * decays, "head": is_head, "scale": scale}
            for (is_head, scale, decays), members in groups.items()
        ],
        lr=learning_rate,
    )


def set_learning_rate(adam: torch.optim.AdamW, learning_rate: float, backbone_factor: float) -> None:
    """The rate of this step: for new weights as given, for the backbone times its factor and its layer's scale."""
    for group in adam.param_groups:
        # Jobs of before layers had scales saved groups without them.
        group["lr"] = learning_rate * (1.0 if group["head"] else backbone_factor * group.get("scale", 1.0))


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
