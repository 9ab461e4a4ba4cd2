"""Freed memory is used again: the kernel need not zero it."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from faces.allocation import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
def test_a_large_block_costs_page_faults_once() -> None:
    assert keep_freed_memory()
    blocks = [torch.ones(25_000_000) for _ in range(3)]  # 100 MB each
    del blocks
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(25_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 25_000  # 5 * 24,414 pages if mapped anew


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory.__wrapped__()
