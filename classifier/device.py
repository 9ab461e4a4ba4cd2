"""Where a detector computes, and how accurately."""

from __future__ import annotations

import torch
from torch import nn

from faces.errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes the accelerator where there is one, or else the CPU.

    Raises:
        UserError: no such device here.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return found or torch.device("cpu")
    try:
        wanted = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is none that torch knows: give auto, cpu, cuda or mps") from error
    if wanted.type != "cpu" and (found is None or found.type != wanted.type):
        raise UserError(f"device {name!r} is not to be had here: give auto or cpu")
    if wanted.index is not None and wanted.type != "cpu" and wanted.index >= torch.accelerator.device_count():
        raise UserError(
            f"device {name!r} is not to be had here: the last one is {torch.accelerator.device_count() - 1}"
        )
    return wanted


def pick_precision(name: str, device: torch.device) -> str:
    """ "32" or "bf16"; "auto" takes bf16 where the hardware multiplies it.

    Scoring gains 1.2 to 1.8 times by it on two cores of an AMD EPYC with avx512_bf16, whatever the backbone. A CPU
    without such instructions emulates them, slowly.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "32"
    return "32"


def pick_training_precision(name: str, device: torch.device, module: nn.Module) -> str:
    """`pick_precision` for training: "auto" takes "32" on a CPU where the network has strided depthwise convolutions.

    Their backward pass is slow in bf16 there: four of them took half of a step of EfficientNet-lite0. In float32
    against bf16 it trained at 30 against 22 images/s (224 px), EfficientNet-B0 at 63 against 36 and MobileNetV3 at 106
    against 66 (128 px). Without them bf16 wins: ResNet-18 98 against 55, DenseNet-121 38 against 25, VGG-16 7.6 against
    4.6, Xception 22 against 15, a small ViT 23 against 17. (Two cores of an AMD EPYC, one run each.)
    """
    if name == "auto" and device.type == "cpu" and any(map(_strided_depthwise, module.modules())):
        return "32"
    return pick_precision(name, device)


def _strided_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1 and max(layer.stride) > 1


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context that computes in bf16 for precision "bf16", and changes nothing for "32"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
