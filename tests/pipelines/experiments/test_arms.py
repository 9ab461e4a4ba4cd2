"""The arms of a run differ in their synthetic faces only, and few train fakes stay the same few."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.config import validate
from core.errors import UserError
from core.manifest import Manifest
from pipelines.configuration import RunConfig
from pipelines.experiments.arms import ALL_FAKES, WITH, WITHOUT, base_trial, keep_few_fakes, plan_arms
from pipelines.reports.run_report import difference_sentence
from tuning.trial import TrialSpec

MINIMAL = {"project": "p", "out": "o", "embedded": True, "datasets": {"train": ["a"]}}


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


def test_each_kind_of_synthetic_face_gets_an_arm() -> None:
    config, _ = specs(synthetic_method="gan-matched", compare_methods=["self-blend", "gan-matched", "self-blend+gan"])
    base = base_trial(config)
    arms = plan_arms(config, base, base)
    assert list(arms) == [WITHOUT, WITH, "with self-blend", "with self-blend and gan"]
    methods = [arms[name].balancing().method for name in list(arms)[1:]]
    assert methods == ["gan-matched", "self-blend", "self-blend+gan"]
    assert not arms["with self-blend"].balancing().needs_generator
    assert len({(spec.detector.model_dump_json(), spec.psi) for spec in arms.values()}) == 1
    assert {spec.synthetic_share for name, spec in arms.items() if name != WITHOUT} == {0.5}
    with pytest.raises(UserError, match="method 'swap' is not known"):
        specs(compare_methods=["swap"])


def test_a_difference_says_which_arm_it_is_of() -> None:
    figures = {"dataset": "a", "value": 0.1, "low": 0.05, "high": 0.2}
    assert difference_sentence({"arm": WITH, **figures}) == "a: the synthetic faces helped, AUC +0.100 [+0.050, +0.200]"
    assert difference_sentence({"arm": "with self-blend", **figures}).startswith("with self-blend, a: ")


def test_a_searched_kind_reaches_the_arm() -> None:
    space = {"synthetic_method": {"choices": ["gan", "self-blend"]}, "psi": {"choices": [0.5, 0.7]}}
    config, base = specs(study={"space": space})
    best = base.with_parameters({"synthetic_method": "self-blend", "synthetic_share": 0.3})
    arms = plan_arms(config, base, best)
    assert arms[WITH].balancing().method == "self-blend"
    assert arms[WITHOUT].synthetic_share == 0


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
