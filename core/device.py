"""Where to compute, how accurately, and from which seed: device, precision, memory, streams of random numbers."""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import nn

from core.errors import UserError

Precision = Literal["auto", "float32", "bfloat16"]


def pick_device(name: str = "auto") -> torch.device:
    """The device `auto` (the first CUDA device, or else the CPU), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: torch knows no such device, or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is not known to torch: use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"device {name!r} is not available (this machine has {count} CUDA devices): use auto")
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


def pick_precision(name: str, device: torch.device, trained: nn.Module | None = None) -> str:
    """ "float32" or "bfloat16"; "auto" takes bfloat16 where the hardware multiplies it.

    Scoring gains 1.2 to 1.8 times by it on two cores of an AMD EPYC with avx512_bf16, whatever the backbone.

    Args:
        trained: a detector that is to be trained. On a CPU, "auto" takes float32 if it has strided depthwise
            convolutions: their backward pass is slow in bfloat16 there, and four of them took half of a step of
            EfficientNet-lite0. In float32 against bfloat16 it trained at 30 against 22 images/s (224 px),
            EfficientNet-B0 at 63 against 36 and MobileNetV3 at 106 against 66 (128 px). Without them bfloat16 wins:
            ResNet-18 98 against 55, DenseNet-121 38 against 25, VGG-16 7.6 against 4.6, Xception 22 against 15, a
            small ViT 23 against 17. (Two cores of an AMD EPYC, one run each.)
    """
    if name != "auto":
        return name
    if trained is not None and device.type == "cpu" and any(map(_strided_depthwise, trained.modules())):
        return "float32"
    return "bfloat16" if has_fast_bfloat16(device) else "float32"


def _strided_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1 and max(layer.stride) > 1


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context that computes in bfloat16 where `pick_precision` says so, and changes nothing for float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=pick_precision(precision, device) == "bfloat16")


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # names and numbers of glibc's malloc.h


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc's allocator reuse large blocks, for this whole process; elsewhere nothing changes.

    By itself it maps each block above 32 MB anew and hands it back when freed, so the kernel zeroes every large
    activation of every step page by page. On two cores EfficientNet-lite0 trained at 12 images/s at 224 px by itself,
    and at 27 with this; the process keeps the memory of its largest step until it ends.

    Returns:
        Whether the allocator took it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


# What the random numbers of a step are for: each has a stream of its own.
FLIPS, LATENTS, SHOWN, FORGED, PAIRED = range(5)


def derived_seed(*entropy: int) -> int:
    """A 63-bit seed from a few integers, such that neighbours give unrelated streams (NumPy's SeedSequence)."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialise weights from a seed, and leave torch's global generator as it was: nn.Parameter takes no generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed))
        yield
