"""Where to compute, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from faces.errors import UserError


def pick_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, or else the CPU.

    Raises:
        UserError: the name is no device, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is not known to torch: use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not on this machine ({torch.cuda.device_count()} CUDA devices): use auto")
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is computed in hardware: on CPUs AVX512_BF16 or AMX (through oneDNN), on GPUs Ampere or later.

    A CPU without the instructions also runs bfloat16, several times slower than float32: it must not be picked there.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Autocast to bfloat16 if `precision` says so, or says `auto` and the device is fast at it; else float32."""
    enabled = precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
