"""Search spaces and samplers: what a study can search, and that a seed and a history decide what it suggests."""

from __future__ import annotations

from typing import get_args

import optuna
import pytest
from pydantic import ValidationError

from faces.errors import UserError
from tuning.samplers import SamplerName, grid, sampler
from tuning.space import Choice, Range, distributions
from tuning.study import DEFAULT_SPACE, check_space
from tuning.trial import TrialSpec

NUMBERS = distributions({"x": Range(low=0.0, high=1.0, step=0.25), "n": Range(low=1, high=4)})


def test_whole_bounds_make_whole_numbers() -> None:
    space = distributions(
        {"n": Range(low=1, high=8, log=True), "x": Range(low=0.0, high=1), "c": Choice(choices=("a", 1))}
    )
    assert isinstance(space["n"], optuna.distributions.IntDistribution)
    assert isinstance(space["x"], optuna.distributions.FloatDistribution)
    assert space["c"] == optuna.distributions.CategoricalDistribution(("a", 1))


@pytest.mark.parametrize(
    "values", [{"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}, {"low": 1, "high": 9, "log": True, "step": 2}]
)
def test_a_range_that_makes_no_sense_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Range.model_validate(values)


@pytest.mark.parametrize("name", get_args(SamplerName))
def test_a_killed_study_suggests_what_it_would_have_suggested(name: SamplerName) -> None:
    def suggestions(kill_after: int | None) -> list[dict[str, object]]:
        storage = optuna.storages.InMemoryStorage()
        asked: list[dict[str, object]] = []
        for _ in range(8):
            study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True, direction="maximize")
            done = [t for t in study.get_trials() if t.state == optuna.trial.TrialState.COMPLETE]
            study.sampler = sampler(name, NUMBERS, 3, len(done))
            trial = study.ask(NUMBERS)
            if kill_after == len(done):  # the process dies: the trial never ends, and is asked for again
                kill_after = None
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                study.sampler = sampler(name, NUMBERS, 3, len(done))
                trial = study.ask(NUMBERS)
            asked.append(dict(trial.params))
            study.tell(trial, -((trial.params["x"] - 0.5) ** 2) - trial.params["n"])
        return asked

    uninterrupted = suggestions(None)
    if name == "grid":  # a killed trial of a grid is taken up again later: all of the grid is visited, in some order
        assert {tuple(sorted(p.items())) for p in uninterrupted} <= {
            (("n", n), ("x", x)) for n in range(1, 5) for x in (0, 0.25, 0.5, 0.75, 1)
        }
    elif name == "cmaes":  # CMA-ES mixes the trial's number into its seed, which a killed trial has used up
        assert len(suggestions(2)) == len(uninterrupted)
    else:
        assert suggestions(2) == uninterrupted
        assert suggestions(6) == uninterrupted


def test_the_grid_lists_every_value_and_refuses_what_has_none() -> None:
    assert grid(NUMBERS) == {"n": [1, 2, 3, 4], "x": [0.0, 0.25, 0.5, 0.75, 1.0]}
    with pytest.raises(UserError, match=r"continuous parameter x .*sampler gp"):
        grid(distributions({"x": Range(low=0.0, high=1.0)}))


def test_cmaes_refuses_choices_and_says_which_sampler_takes_them() -> None:
    with pytest.raises(UserError, match="take sampler gp or tpe"):
        sampler("cmaes", distributions({"c": Choice(choices=(1, 2))}), 0, 0)


def test_a_space_is_checked_before_the_first_trial() -> None:
    check_space(DEFAULT_SPACE, TrialSpec())
    with pytest.raises(UserError, match=r"study\.space\.learning_rte .*did you mean learning_rate"):
        check_space({"learning_rte": Range(low=1, high=2)}, TrialSpec())
    with pytest.raises(UserError, match=r"study\.space\.synthetic_share: 1\.5 cannot be searched"):
        check_space({"synthetic_share": Range(low=0.1, high=1.5)}, TrialSpec())
    with pytest.raises(UserError, match=r"study\.space\.backbone"):
        check_space({"backbone": Choice(choices=("resnet18", "resnet19"))}, TrialSpec())
