"""When a study no longer pays, and which trials are better than which."""

from __future__ import annotations

import datetime
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from core.errors import UserError
from tuning.config import StudyConfig
from tuning.results import check_failures, figures, hours_spent, ranked, stop_reason

START = datetime.datetime(2026, 1, 1)


def trial(place: int, *values: float, state: TrialState = TrialState.COMPLETE, **attributes: Any) -> FrozenTrial:
    """One that took half an hour."""
    made = optuna.create_trial(
        state=state,
        values=list(values) or None,
        params={"x": place / 10, "n": place % 3},
        distributions={
            "x": optuna.distributions.FloatDistribution(0, 10),
            "n": optuna.distributions.IntDistribution(0, 3),
        },
        user_attrs={"place": place, "noise": 0.01} | attributes,
    )
    made.number = place
    made.datetime_start = START + datetime.timedelta(hours=place)
    if state.is_finished():
        made.datetime_complete = made.datetime_start + datetime.timedelta(minutes=30)
    return made


def test_a_study_ends_at_its_total() -> None:
    trials = [trial(0, 0.5), trial(1, state=TrialState.PRUNED), trial(2, state=TrialState.FAIL, error="e")]
    config = StudyConfig(trials=3)
    assert stop_reason(trials, config, 3) is None  # a failed one is made up for
    assert stop_reason([*trials, trial(3, 0.4)], config, 3) == "all 3 trials are done"


def test_hours_count_all_workers_and_launches() -> None:
    trials = [trial(i, 0.5) for i in range(4)]
    assert hours_spent(trials) == 2.0
    assert stop_reason(trials, StudyConfig(hours=2.5), 20) is None
    assert stop_reason(trials, StudyConfig(hours=2), 20) == "2.00 of 2 hours are spent"


def test_a_gain_within_the_noise_is_no_gain() -> None:
    config = StudyConfig(patience=3)
    flat = [trial(0, 0.7), trial(1, 0.8), trial(2, 0.79), trial(3, 0.805), trial(4, 0.78)]
    reason = stop_reason(flat, config, 20)
    assert reason == "the last 3 trials gained 0.0050 in mean_auc, within the noise of 0.0100"
    assert stop_reason([*flat[:4], trial(4, 0.83)], config, 20) is None
    assert stop_reason(flat[:3], config, 20) is None  # too early to say
    falling = StudyConfig(patience=3, objectives=("ece",))
    assert stop_reason([trial(0, 0.2), trial(1, 0.3), trial(2, 0.1), trial(3, 0.2)], falling, 20) is None


def test_three_failures_in_a_row_end_a_study_with_the_last_reason() -> None:
    failed = [trial(i, state=TrialState.FAIL, error=f"reason {i}") for i in range(4)]
    with pytest.raises(UserError, match="the last 3 trials of s failed: reason 3"):
        check_failures(failed, "s")
    check_failures([*failed[:2], trial(4, 0.5)], "s")


def test_what_no_other_beats_and_what_keeps_the_constraints_comes_first() -> None:
    config = StudyConfig(objectives=("mean_auc", "latency_ms"), constraints={"size_mb": 10})
    trials = [trial(0, 0.9, 30.0), trial(1, 0.8, 10.0), trial(2, 0.79, 20.0), trial(3, 0.95, 40.0)]
    trials[3].system_attrs["constraints:size_mb"] = 5.0
    assert [t.number for t in ranked(trials, config)] == [0, 1, 2, 3]
    study = optuna.create_study(directions=config.directions)
    study.add_trials(trials)
    assert [t.number for t in study.best_trials] == [0, 1]  # the Pareto front of the report


def test_every_figure_is_drawn() -> None:
    config = StudyConfig(objectives=("mean_auc", "latency_ms"))
    study = optuna.create_study(directions=config.directions)
    study.add_trials([trial(i, 0.5 + (i * 7 % 11) / 40, 30.0 - i) for i in range(12)])
    drawn = figures(study, config)
    assert set(drawn) == {f"{name}.png" for name in
                          ("history", "importance", "slices", "parallel", "cost", "contour", "pareto")}  # fmt: skip
    one = optuna.create_study(directions=config.directions)
    one.add_trials([trial(0, 0.5, 30.0)])
    assert set(figures(one, config)) == {"history.png", "pareto.png"}
