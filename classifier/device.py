"""Where a detector computes, and how accurately."""

from __future__ import annotations

import torch

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
    """ "32" or "bf16"; "auto" takes bf16 where the hardware multiplies it, since it trains as well and faster.

    On two cores of an AMD EPYC with avx512_bf16, EfficientNet-lite0 trained at 18.7 images/s in bf16 against 9.8 at 224
    pixels (44.5 against 47.2 at 128), ResNet-18 at 83 against 49, a small ViT at 2.0 against 1.7; inference gained 1.1
    to 3 times. A CPU without such instructions emulates them, slowly.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "32"
    return "32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context that computes in bf16 for precision "bf16", and changes nothing for "32"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
