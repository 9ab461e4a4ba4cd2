"""Samplers and pruners: a seed and a history decide what is suggested, and a wrong pair says which one to take."""

from __future__ import annotations

from typing import Any, get_args

import optuna
import pytest

from core.errors import UserError
from tuning.config import StudyConfig, check_sampler
from tuning.space import (
    Choice,
    PrunerName,
    Range,
    SamplerName,
    Space,
    distributions,
    plan,
    pruner,
    sampler,
    suggest,
)

NUMBERS: Space = {"x": Range(low=0.0, high=1.0, step=0.25), "n": Range(low=1, high=4)}
CONDITIONAL: Space = {"c": Choice(choices=("a", "b")), "n": Range(low=1, high=4, when={"c": ("a",)})}


@pytest.mark.parametrize("name", get_args(SamplerName))
def test_a_killed_study_suggests_what_it_would_have_suggested(name: SamplerName) -> None:
    def suggestions(kill_after: int | None) -> list[dict[str, object]]:
        storage = optuna.storages.InMemoryStorage()
        asked: list[dict[str, object]] = []
        for _ in range(8):
            study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True, direction="maximize")
            done = [t for t in study.get_trials() if t.state == optuna.trial.TrialState.COMPLETE]
            study.sampler = sampler(name, NUMBERS, 3, len(done))
            trial = study.ask(distributions(NUMBERS))
            if kill_after == len(done):  # the process dies: the trial never ends, and is asked for again
                kill_after = None
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                study.sampler = sampler(name, NUMBERS, 3, len(done))
                trial = study.ask(distributions(NUMBERS))
            asked.append(dict(trial.params))
            study.tell(trial, -((trial.params["x"] - 0.5) ** 2) - trial.params["n"])
        return asked

    uninterrupted = suggestions(None)
    if name in ("cmaes", "nsga2"):  # these mix the trial's number into what they draw, which a killed trial has used up
        assert len(suggestions(2)) == len(uninterrupted)
    else:
        assert suggestions(2) == uninterrupted
        assert suggestions(6) == uninterrupted


@pytest.mark.parametrize("name", [name for name in get_args(SamplerName) if name not in ("cmaes", "grid")])
def test_a_conditional_space_can_be_searched(name: SamplerName) -> None:
    check_sampler(StudyConfig(sampler=name, space=CONDITIONAL, pruner="none"))
    study = optuna.create_study(direction="maximize")
    for place in range(9):
        study.sampler = sampler(name, CONDITIONAL, 0, place)
        trial = study.ask()
        values = suggest(trial, CONDITIONAL)
        assert ("n" in values) == (values["c"] == "a")
        study.tell(trial, float(values.get("n", 2)))


@pytest.mark.parametrize(
    ("name", "space", "options", "sentence"),
    [
        ("gp", NUMBERS, {"pruner": "hyperband"}, "take pruner none, or sampler tpe with pruner hyperband"),
        ("gp", NUMBERS, {"pruner": "wilcoxon", "folds": 5}, "gp ignores pruned trials"),
        ("tpe", NUMBERS, {"pruner": "median", "objectives": ("mean_auc", "size_mb")}, "take pruner none"),
        ("tpe", NUMBERS, {"pruner": "wilcoxon"}, "set folds to 5, or take pruner hyperband"),
        ("cmaes", CONDITIONAL, {}, "take sampler gp or tpe"),
        ("cmaes", {"n": Range(low=1, high=2), "x": Range(low=0.0, high=1.0, when={"n": (1,)})}, {}, "take sampler tpe"),
        ("cmaes", NUMBERS, {"objectives": ("mean_auc", "size_mb")}, "take nsga2 or gp"),
        ("cmaes", NUMBERS, {"constraints": {"ece": 0.1}}, "take sampler gp or tpe"),
        ("grid", CONDITIONAL, {}, "take sampler bruteforce"),
        ("grid", NUMBERS, {"trials": 19}, "would need 20 trials and study.trials is 19"),
        ("bruteforce", {"x": Range(low=0.0, high=1.0)}, {}, "take sampler gp"),
    ],
)
def test_a_wrong_pair_says_which_one_to_take(
    name: SamplerName, space: Space, options: dict[str, Any], sentence: str
) -> None:
    config = StudyConfig.model_validate({"sampler": name, "space": space, **options})
    with pytest.raises(UserError, match=sentence):
        check_sampler(config)


def test_a_listing_sampler_plans_every_combination_once() -> None:
    planned = plan("grid", NUMBERS, 1)
    assert planned is not None
    assert sorted((p["n"], p["x"]) for p in planned) == [(n, x) for n in range(1, 5) for x in (0, 0.25, 0.5, 0.75, 1)]
    assert plan("grid", NUMBERS, 1) == planned
    assert plan("grid", NUMBERS, 2) != planned
    assert plan("gp", NUMBERS, 1) is None


@pytest.mark.parametrize("name", get_args(PrunerName))
def test_every_pruner_lets_the_best_trial_through(name: Any) -> None:
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner(name, 9)
    )
    pruned = 0
    for number in range(30):
        trial = study.ask()
        quality = 1.0 if number == 20 else (number * 7 % 30) / 40
        for step in range(9):
            trial.report(quality + 0.01 * step, step)
            if trial.should_prune():
                pruned += 1
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, quality)
    assert study.best_trial.number == 20
    assert (pruned > 0) == (name != "none")


@pytest.mark.parametrize(
    ("given", "pruner_name"),
    [
        ({}, "hyperband"),
        ({"sampler": "gp"}, "none"),
        ({"folds": 5}, "none"),
        ({"objectives": ("mean_auc", "latency_ms")}, "none"),
        ({"constraints": {"ece": 0.1}}, "none"),
        ({"folds": 5, "pruner": "wilcoxon"}, "wilcoxon"),
    ],
)
def test_trials_are_pruned_by_default_where_that_can_be_judged(given: dict[str, object], pruner_name: str) -> None:
    config = StudyConfig.model_validate(given)
    assert config.pruner == pruner_name
    check_sampler(config)
