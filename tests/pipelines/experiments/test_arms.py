"""The arms of a run differ in their synthetic faces only, and few train fakes stay the same few."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.config import validate
from core.errors import UserError
from core.manifest import Manifest
from pipelines.configuration import RunConfig
from pipelines.experiments.arms import ALL_FAKES, ARMS, Arm, base_trial, trials_of_run, trials_to_compare
from pipelines.inputs import keep_few_fakes
from tuning.trial import TrialSpec

MINIMAL = {"project": "p", "out": "o", "embedded": True, "datasets": {"train": ["a"]}}


def specs(**changes: object) -> tuple[RunConfig, TrialSpec]:
    config = validate(RunConfig, MINIMAL | changes, "here")
    return config, base_trial(config)


def arms_of_run(config: RunConfig, best: TrialSpec) -> dict[str, TrialSpec]:
    """The trials of a run with one seed, by arm."""
    trials = trials_of_run(config, best)
    assert {seed for _, seed in trials} == {config.detector.seed}
    return {arm: spec for (arm, _), spec in trials.items()}


def test_two_arms_differ_in_their_synthetic_faces_only() -> None:
    config, base = specs(study={"space": {"learning_rate": {"low": 1e-4, "high": 1e-2}}})
    best = base.with_parameters({"learning_rate": 0.005, "image_size": 64})
    arms = arms_of_run(config, best)
    assert list(arms) == ["class weights", "gan with class weights"]
    without, with_faces = arms.values()
    assert without.detector == with_faces.detector
    assert without.detector.balance == config.detector.balance
    assert with_faces.detector.learning_rate == 0.005
    # What made the trials cheap and was not searched stays behind.
    assert with_faces.detector.image_size == config.detector.image_size
    assert (without.synthetic_share, with_faces.synthetic_share) == (0, 0.5)


def test_the_reference_with_all_fakes_comes_where_they_were_made_rare() -> None:
    space = {"learning_rate": {"low": 1e-4, "high": 1e-2}}
    config, base = specs(keep_train_fakes=0.1, detector={"balance": "none"}, study={"space": space})
    arms = arms_of_run(config, base.with_parameters({"learning_rate": 0.005}))
    assert list(arms) == ["none", "gan", ALL_FAKES]
    assert arms[ALL_FAKES].synthetic_share == 0
    assert arms[ALL_FAKES].detector == config.detector
    assert Arm.parse(ALL_FAKES).all_fakes


def test_each_kind_of_synthetic_face_gets_an_arm() -> None:
    config, base = specs(
        synthetic_method="gan-matched", compare_methods=["self-blend", "gan-matched", "self-blend+gan"]
    )
    arms = arms_of_run(config, base)
    kinds = ["gan-matched", "self-blend", "self-blend+gan"]
    assert list(arms) == ["class weights", *(f"{kind} with class weights" for kind in kinds)]
    forged = list(arms.values())[1:]
    assert [spec.balancing().method for spec in forged] == kinds
    assert not arms["self-blend with class weights"].balancing().needs_generator
    assert len({(spec.detector.model_dump_json(), spec.psi) for spec in arms.values()}) == 1
    assert {spec.synthetic_share for spec in forged} == {0.5}
    assert {spec.balancing().seed for spec in forged} == {0}
    with pytest.raises(UserError, match="method 'swap' is not known"):
        specs(compare_methods=["swap"])


def test_a_searched_kind_and_balance_reach_the_arms() -> None:
    space = {"synthetic_method": {"choices": ["gan", "self-blend"]}, "balance": {"choices": ["none", "weights"]}}
    config, base = specs(study={"space": space})
    best = base.with_parameters({"synthetic_method": "self-blend", "synthetic_share": 0.3, "balance": "none"})
    arms = arms_of_run(config, best)
    assert list(arms) == ["none", "self-blend"]
    assert arms["self-blend"].balancing().method == "self-blend"
    assert arms["none"].synthetic_share == 0


def test_the_section_experiment_says_arms_and_seeds_of_a_run() -> None:
    config, base = specs(experiment={"arms": ["oversampling", "gan with class weights"], "seeds": [4, 7]})
    trials = trials_of_run(config, base)
    assert list(trials) == [(arm, seed) for arm in ("oversampling", "gan with class weights") for seed in (4, 7)]
    assert [spec.detector.balance for spec in trials.values()] == ["oversample", "oversample", "weights", "weights"]
    assert [spec.detector.seed for spec in trials.values()] == [4, 7, 4, 7]
    first, second = (trials["gan with class weights", seed].balancing().seed for seed in (4, 7))
    assert first != second
    with pytest.raises(UserError, match="name a second arm"):
        specs(experiment={"arms": ["none"]})
    with pytest.raises(
        UserError, match="there is no balance 'none' in the arm 'gan with none': it is class weights or"
    ):
        specs(experiment={"arms": ["none", "gan with none"]})


def test_run_and_compare_mean_the_same_by_an_arm() -> None:
    config, base = specs(experiment={"arms": list(ARMS), "seeds": [0, 1, 2]})
    assert trials_of_run(config, base) == trials_to_compare(config)


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
