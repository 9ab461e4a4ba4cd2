"""What every benchmark records beside its figures, and how it hands its record over."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from core.files import write_text


def hardware(device: str, threads: int) -> dict[str, Any]:
    """The machine as the figures depend on it."""
    import torch

    machine: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "bfloat16_in_hardware": _fast_bfloat16(device),
        "load_at_start": round(os.getloadavg()[0], 2),
    }
    if device.startswith("cuda"):
        machine["gpu"] = torch.cuda.get_device_name(device)
    return machine


def versions(*packages: str) -> dict[str, str]:
    """Of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in ("torch", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hand_over(record: Mapping[str, Any], out: Path | None) -> None:
    """Print the record as one JSON object, last on standard output, and write it to `out`."""
    text = json.dumps({**record, "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}, indent=1)
    if out is not None:
        write_text(out, text + "\n")
    print(text, flush=True)


def refuse(sentence: str) -> None:
    """End with exit 2 and one sentence: what, where, what to do."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def peak_memory_mib() -> float:
    """The most memory that this process has held at once.

    `ru_maxrss` starts, in a process that was just spawned, from what its parent held; Linux's VmHWM does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _fast_bfloat16(device: str) -> bool:
    import torch

    from core.device import has_fast_bfloat16

    return has_fast_bfloat16(torch.device(device))
