"""Packages export their public names, and cost nothing until one is used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PACKAGES = ("core", "metrics", "faces", "gan", "classifier", "tuning")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_the_packages_alone_import_nothing_heavy() -> None:
    heavy = ("torch", "timm", "mlflow", "optuna", "pandas", "numpy", "cv2", "sklearn")
    program = f"import sys, {', '.join(PACKAGES)}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
