"""Search spaces: what can be searched, what is refused, and which parameters a trial has."""

from __future__ import annotations

import optuna
import pytest
from pydantic import ValidationError

from core.errors import UserError
from tuning.config import DEFAULT_SPACE
from tuning.identity import check_space
from tuning.space import Choice, Range, Space, Span, check_point, combinations, distributions, in_order, suggest
from tuning.trial import TrialSpec

CHAIN: Space = {
    "a_depth": Range(low=1, high=3, when={"backbone": ("resnet50",)}),
    "backbone": Choice(choices=("resnet18", "resnet50")),
    "b_rate": Range(low=0.1, high=0.2, when={"a_depth": Span(low=2)}),
}


def test_whole_bounds_make_whole_numbers() -> None:
    space = distributions(
        {"n": Range(low=1, high=8, log=True), "x": Range(low=0.0, high=1), "c": Choice(choices=("a", 1))}
    )
    assert isinstance(space["n"], optuna.distributions.IntDistribution)
    assert isinstance(space["x"], optuna.distributions.FloatDistribution)
    assert space["c"] == optuna.distributions.CategoricalDistribution(("a", 1))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"low": 2, "high": 1}, "the range is empty"),
        ({"low": 0, "high": 1, "log": True}, "low 0 cannot be searched on a log scale"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "takes no step"),
        ({"low": 1, "high": 9, "step": 0}, "step 0 must be above 0"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Range.model_validate(values)


def test_a_parameter_exists_only_where_its_condition_holds() -> None:
    assert in_order(CHAIN) == ["backbone", "a_depth", "b_rate"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [suggest(study.ask(), CHAIN) for _ in range(40)]
    assert {frozenset(values) for values in drawn} == {
        frozenset({"backbone"}),
        frozenset({"backbone", "a_depth"}),
        frozenset({"backbone", "a_depth", "b_rate"}),
    }
    for values in drawn:
        assert ("a_depth" in values) == (values["backbone"] == "resnet50")
        assert ("b_rate" in values) == (int(values.get("a_depth", 0)) >= 2)


def test_one_value_is_as_good_as_a_list_of_one() -> None:
    assert Range.model_validate({"low": 1, "high": 2, "when": {"a": "b"}}).when == {"a": ("b",)}
    assert Range.model_validate({"low": 1, "high": 2, "when": {"a": {"low": 3}}}).when == {"a": Span(low=3)}


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ({"x": Range(low=1, high=2, when={"bakbone": ("a",)}), "backbone": Choice(choices=("a",))}, "mean backbone"),
        ({"x": Range(low=1, high=2, when={"c": ("z",)}), "c": Choice(choices=("a", "b"))}, "which it never is"),
        (
            {"x": Range(low=1, high=2, when={"y": (1,)}), "y": Range(low=1, high=2, when={"x": (1,)})},
            "lead back to themselves",
        ),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(space: Space, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        in_order(space)


def test_combinations_are_all_leaves_of_the_tree() -> None:
    space = CHAIN | {"b_rate": Choice(choices=(0.1, 0.2), when={"a_depth": Span(low=2)})}
    found = combinations(space)
    assert len(found) == 1 + 1 + 2 * 2
    assert {"backbone": "resnet18"} in found
    assert {"backbone": "resnet50", "a_depth": 3, "b_rate": 0.2} in found
    shuffled = combinations(space, seed=3)
    assert shuffled != found
    assert sorted(map(str, shuffled)) == sorted(map(str, found))
    assert combinations({"x": Range(low=0.0, high=1.0, step=0.25)}) == [{"x": x} for x in (0, 0.25, 0.5, 0.75, 1.0)]


def test_what_cannot_be_listed_is_refused_with_its_size() -> None:
    with pytest.raises(UserError, match=r"continuous parameter x .*sampler gp"):
        combinations({"x": Range(low=0.0, high=1.0)})
    with pytest.raises(UserError, match="1,000,000 combinations"):
        combinations({name: Range(low=1, high=100) for name in "abc"})


def test_a_space_is_checked_before_the_first_trial() -> None:
    check_space(DEFAULT_SPACE, TrialSpec())
    with pytest.raises(UserError, match=r"study\.space\.learning_rte .*did you mean learning_rate"):
        check_space({"learning_rte": Range(low=1, high=2)}, TrialSpec())
    with pytest.raises(UserError, match=r"study\.space\.synthetic_share: 1\.5 cannot be searched"):
        check_space({"synthetic_share": Range(low=0.1, high=1.5)}, TrialSpec())
    with pytest.raises(UserError, match=r"study\.space\.backbone"):
        check_space({"backbone": Choice(choices=("resnet18", "resnet19"))}, TrialSpec())
    with pytest.raises(UserError, match="'other' has no folder"):
        check_space({"generator": Choice(choices=("other",))}, TrialSpec())


def test_settings_of_the_forging_are_searched_by_their_own_names() -> None:
    spec = TrialSpec(synthetic_share=0.3).with_parameters({"synthetic_seed": 7, "balance": "none", "psi": 0.9})
    assert (spec.balancing().seed, spec.balancing().psi, spec.detector.balance) == (7, 0.9, "none")
    assert spec.parameters()["synthetic_seed"] == 7
    assert spec.with_parameters({"epochs": 3}).balancing().seed == 7


def test_a_starting_point_must_lie_in_the_space() -> None:
    check_point(CHAIN, {"backbone": "resnet50", "a_depth": 2}, "study.enqueue[0]")
    with pytest.raises(UserError, match=r"enqueue\[0\]\.bakbone .*did you mean backbone"):
        check_point(CHAIN, {"bakbone": "resnet50"}, "study.enqueue[0]")
    with pytest.raises(UserError, match=r"enqueue\[0\]\.b_rate: 0\.3 is not in"):
        check_point(CHAIN, {"b_rate": 0.3}, "study.enqueue[0]")


def test_values_that_only_go_with_another_searched_value_are_let_through() -> None:
    base = TrialSpec().with_parameters({"epochs": 3, "frozen_epochs": 1})
    check_space({"frozen_epochs": Choice(choices=(1, 4)), "epochs": Choice(choices=(3, 6))}, base)
    with pytest.raises(UserError, match="4 cannot be searched: frozen_epochs 4 is more than epochs 3"):
        check_space({"frozen_epochs": Choice(choices=(1, 4))}, base)
