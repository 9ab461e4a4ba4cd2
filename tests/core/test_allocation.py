"""Memory that is freed and asked for again costs no page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A process of its own: what it sets is the whole process's.
_FAULTS = """
import resource, sys
from core.device import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no such dials")
import torch

def fill():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(16 << 20).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min([fill() for _ in range(12)][4:]))
"""


def faults(mode: str) -> int:
    found = subprocess.run([sys.executable, "-c", _FAULTS, mode], capture_output=True, text=True, check=False)
    if "no such dials" in found.stderr:
        pytest.skip("this C library has no mallopt")
    assert found.returncode == 0, found.stderr
    return int(found.stdout)


def test_freed_memory_is_kept_for_the_next_step() -> None:
    assert faults("keep") < faults("give back") / 10
