"""What is installed is what was tested: every package of every extra has its version in constraints.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
    pairs = [line.split("==") for line in lines]
    names = [canonicalize_name(name) for name, _ in pairs]
    assert len(set(names)) == len(names)
    return dict(zip(names, (version for _, version in pairs), strict=True))


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_every_package_of_every_extra_is_pinned_within_its_range(extra: str) -> None:
    pinned = pins()
    wanted = [Requirement(text) for text in EXTRAS[extra]]
    for each in wanted:
        if canonicalize_name(each.name) == "counterforge":
            continue
        assert canonicalize_name(each.name) in pinned, each
        assert each.specifier.contains(pinned[canonicalize_name(each.name)]), each
