"""Which weights of a network learn in which epoch, and how far each layer's rate lies below the top's.

New weights (the head, and forensic branches) always learn. Below them, once the frozen epochs are over:

- full: everything.
- gradual: layer by layer from the top (Howard & Ruder 2018); everything in the last half of those epochs.
- norms: scales and shifts of the normalisation layers alone, whose statistics follow the faces (Frankle et al. 2021
  for batch norms; LayerNorms are what has been tuned of CLIP for detectors).
- head: nothing.
"""

from __future__ import annotations

import math

import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from classifier.config import DetectorConfig
from classifier.models.backbones import head_keys
from classifier.models.forensics import ForensicNetwork, backbone_of

_NORMS = (nn.LayerNorm, nn.GroupNorm, _BatchNorm)


def new_keys(module: nn.Module) -> set[str]:
    """Names of the parameters that no pretraining knows."""
    names = set(head_keys(module))
    if isinstance(module, ForensicNetwork):
        names |= {f"branches.{name}" for name, _ in module.branches.named_parameters()}
    return names


def layers(module: nn.Module) -> dict[str, int]:
    """The layer of each parameter that is not new, 0 at the picture, as timm counts them for that network."""
    backbone = backbone_of(module)
    prefix = "" if backbone is module else "backbone."
    matcher = backbone.group_matcher(coarse=False)  # type: ignore[operator]
    found = group_parameters(backbone, matcher, reverse=True)
    new = new_keys(module)
    return {f"{prefix}{name}": int(layer) for name, layer in found.items() if f"{prefix}{name}" not in new}


def learning(module: nn.Module, config: DetectorConfig, epoch: int) -> set[str]:
    """Names of the parameters that learn in an epoch, counted from 0."""
    names = new_keys(module)
    if epoch < config.head_epochs:
        return names
    if config.finetune == "norms":
        return names | _norms(module)
    depth = layers(module)
    lowest = 0
    if config.finetune == "gradual":
        top = max(depth.values()) + 1
        opening = max(math.ceil((config.epochs - config.head_epochs) / 2), 1)
        lowest = top - math.ceil(top * min((epoch - config.head_epochs + 1) / opening, 1))
    return names | {name for name, layer in depth.items() if layer >= lowest}


def prepare(module: nn.Module, config: DetectorConfig, epoch: int) -> None:
    """Switch gradients on for what learns in this epoch; the norms of all else keep their statistics."""
    names = learning(module, config, epoch)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in names)
    module.train()
    if epoch < config.head_epochs:
        backbone_of(module).eval()
        return
    for child in module.modules():
        own = list(child.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            child.training = False  # of this one alone: its children may learn


def _norms(module: nn.Module) -> set[str]:
    return {
        f"{path}.{name}" if path else name
        for path, child in module.named_modules()
        if isinstance(child, _NORMS)
        for name, _ in child.named_parameters(recurse=False)
    }


def optimizer(
    module: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> torch.optim.AdamW:
    """AdamW with a group for new weights (marked by `head`) and each layer's, each with and without weight decay.

    `scale` of a group is layer_decay ** (layers above it, the head not counted), as BEiT and timm have it. At 1 there
    are four groups. Biases and the scales of norms do not decay (Goyal et al. 2017, section 5.3, and timm's default
    since).
    """
    # timm's param_groups_layer_decay gives the same scales but for one factor, and cannot take its place: it leaves out
    # what is frozen when it is called, puts new weights (branches, too) into no groups of their own, whose rate differs
    # from the backbone's, and its groups are not those of saved jobs.
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
