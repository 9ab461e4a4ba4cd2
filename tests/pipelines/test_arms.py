"""The arms of a run differ in their synthetic faces only, and few train fakes stay the same few."""

from __future__ import annotations

from pathlib import Path

import pytest

from faces.manifest import Manifest
from pipelines.arms import ALL_FAKES, WITH, WITHOUT, keep_few_fakes, plan_arms
from pipelines.config import validate
from pipelines.settings import RunConfig
from tuning.trial import TrialSpec

MINIMAL = {"project": "p", "out": "o", "embedded": True, "domains": {"train": ["a"]}}


def specs(**changes: object) -> tuple[RunConfig, TrialSpec]:
    config = validate(RunConfig, MINIMAL | changes, "here")
    return config, TrialSpec(detector=config.detector, synthetic_share=config.synthetic_share, psi=config.psi)


def test_two_arms_differ_in_their_synthetic_faces_only() -> None:
    config, base = specs(study={"space": {"learning_rate": {"low": 1e-4, "high": 1e-2}}})
    best = base.with_parameters({"learning_rate": 0.005, "image_size": 64})
    arms = plan_arms(config, base, best)
    assert set(arms) == {WITHOUT, WITH}
    assert arms[WITHOUT].detector == arms[WITH].detector
    assert arms[WITH].detector.learning_rate == 0.005
    # What made the trials cheap and was not searched stays behind.
    assert arms[WITH].detector.image_size == config.detector.image_size
    assert (arms[WITHOUT].synthetic_share, arms[WITH].synthetic_share) == (0, 0.5)


def test_the_reference_with_all_fakes_comes_where_they_were_made_rare() -> None:
    config, base = specs(keep_train_fakes=0.1)
    arms = plan_arms(config, base, base)
    assert arms[ALL_FAKES].synthetic_share == 0
    assert arms[ALL_FAKES].detector == config.detector


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    rows = []
    for number in range(600):
        rows.append(
            {
                "path": f"{number}.png",
                "label": "fake" if number % 2 else "real",
                "dataset": "a" if number % 3 else "b",
                "method": "m",
                "source": f"s{number}",
                "split": "train" if number % 5 else "test",
                "width": 9,
                "height": 9,
                "codec": "png",
                "sha256": f"{number:064x}",
            }
        )
    return Manifest.build(rows, tmp_path)


def test_only_train_fakes_of_the_named_data_set_become_few(manifest: Manifest) -> None:
    few = keep_few_fakes(manifest, ("a",), 0.1)
    before = manifest.select(dataset="a", split="train", label="fake")
    after = few.select(dataset="a", split="train", label="fake")
    assert 0.05 < len(after) / len(before) < 0.16
    assert len(manifest) - len(few) == len(before) - len(after)
    assert set(after.rows["sha256"]) <= set(keep_few_fakes(manifest, ("a",), 0.3).rows["sha256"])
