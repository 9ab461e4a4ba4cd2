"""Errors of configuration, each a sentence that names field and remedy; and what the package exports."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

import gan
from gan.config import PRESETS, GanConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 48}, "image_size 48 is not a power of two: take 32 or 64"),
        ({"image_size": 512}, "less than or equal to 256"),
        ({"minutes": 1, "kimg": 2}, "two budgets"),
        ({"minutes": 0}, "greater than 0"),
        ({"batch_size": 6}, "multiple of 4"),
        ({"preset": "huge"}, "'tiny', 'small' or 'base'"),
        ({"loss": "wasserstein"}, "'relativistic' or 'ns-r1'"),
        ({"gama": 1}, "Extra inputs"),
        ({"ada_target": 1.4}, "less than or equal to 1"),
    ],
)
def test_wrong_values_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GanConfig.model_validate(fields)


@pytest.mark.parametrize("preset", PRESETS)
def test_resolving_fills_from_the_preset_and_keeps_what_is_given(preset: str) -> None:
    config = GanConfig.model_validate({"preset": preset, "gamma": 0.07}).resolved()
    assert config.gamma == 0.07
    assert config.batch_size == PRESETS[preset].batch_size
    assert config.minutes == 20
    assert config.resolved() == config


def test_channels_follow_the_dial() -> None:
    assert GanConfig(preset="small", image_size=64).channels == {4: 128, 8: 128, 16: 128, 32: 64, 64: 32}


def test_package_alone_loads_no_torch_and_its_names_load_on_use() -> None:
    code = "import sys, gan; assert not {'torch', 'cv2', 'pandas'} & sys.modules.keys(); print(gan.load_generator)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(callable(getattr(gan, name)) for name in gan.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gan.nothing  # noqa: B018
