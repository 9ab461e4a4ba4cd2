"""A study with real detectors: its trials, its runs, and what stays of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from tuning.config import StudyConfig
from tuning.identity import needs_generator
from tuning.space import Choice, Range, Space
from tuning.storage import load, names
from tuning.study import launch
from tuning.trial import TrialContext, TrialSpec, training_set

RATE = {"learning_rate": Range(low=1e-4, high=1e-2, log=True)}


def config(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate({"name": "s", "trials": 3, "sampler": "random", "space": RATE} | changes)


def test_a_study_is_one_parent_and_one_child_a_trial(
    base: TrialSpec, context: TrialContext, runs: Callable[[str], list[Any]]
) -> None:
    result = launch(config(enqueue=({"learning_rate": 0.005},), keep=1), base, context)
    children = [run for run in runs(context.experiment) if "mlflow.parentRunId" in run.data.tags]
    assert sorted(run.info.run_name for run in children) == ["trial-000", "trial-001", "trial-002"]
    assert {run.info.status for run in runs(context.experiment)} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {result.run_id}
    assert result.history["learning_rate"][0] == 0.005
    assert result.best_value == result.history["value"].max()
    winner = context.store.client.get_run(result.run_id).data.tags["winner"]
    assert winner == f"trial {result.history.loc[result.history['value'].idxmax(), 'trial']}"
    # Of the weights only those of the best trial stay; the figures of all do.
    kept = sorted(context.work.glob("detectors/*/weights.safetensors"))
    best = result.history.loc[result.history["value"].idxmax(), "run_id"]
    (record,) = [json.loads(path.read_text()) for path in kept[0].parent.glob("trained-*.json")]
    assert (len(kept), record["run_id"]) == (1, best)
    models = context.store.client.search_logged_models([children[0].info.experiment_id])
    assert [model.model_id for model in models] == [record["model_id"]]

    again = launch(config(enqueue=({"learning_rate": 0.005},), trials=4, keep=1), base, context)
    assert (again.name, again.run_id) == (result.name, result.run_id)
    assert again.history["value"].tolist()[:3] == result.history["value"].tolist()
    assert len(runs(context.experiment)) == 5


def test_pruned_trials_end_as_killed_and_failed_ones_say_why(
    base: TrialSpec, context: TrialContext, runs: Callable[[str], list[Any]]
) -> None:
    spec = base.with_parameters({"epochs": 3})
    space: Space = {"learning_rate": Range(low=1e-6, high=1e-1, log=True), "frozen_epochs": Choice(choices=(3, 4))}
    space["epochs"] = Choice(choices=(3,))
    points = [{"learning_rate": 0.05, "frozen_epochs": 3}, {"learning_rate": 0.05, "frozen_epochs": 4}]
    points += [{"learning_rate": 0.01 * (i + 1), "frozen_epochs": 3} for i in range(4)]
    points += [{"learning_rate": 1e-6, "frozen_epochs": 3}]
    result = launch(config(space=space, enqueue=points, trials=6, sampler="tpe", pruner="median"), spec, context)
    table = result.history.set_index("trial")
    assert table["state"][1] == "FAIL"
    assert "frozen_epochs 4 is more than epochs 3" in table["error"][1]
    assert len(table) == 7  # the failed one is made up for
    by_name = {run.info.run_name: run for run in runs(context.experiment)}
    for slot, state in table["state"].items():
        if state == "PRUNED":
            child = by_name[f"trial-{slot:03d}"]
            assert child.info.status == "KILLED"
            assert "pruned by median after epoch" in child.data.tags["killed_because"]


def test_a_trial_that_breaks_in_training_is_failed_in_mlflow_too(
    base: TrialSpec, context: TrialContext, runs: Callable[[str], list[Any]]
) -> None:
    rows = context.manifest.rows
    few = replace(
        context,
        manifest=context.manifest.where(((rows["label"] == "real") | (rows["split"] != "train")).to_numpy(dtype=bool)),
    )
    with pytest.raises(UserError, match=r"the last 3 trials of s-.* failed: the train split holds only real faces"):
        launch(config(trials=9), base, few)
    children = [run for run in runs(context.experiment) if run.info.run_name.startswith("trial-")]
    assert [child.info.status for child in children] == ["FAILED"] * 3
    assert all("only real faces" in child.data.tags["error"] for child in children)


def test_several_aims_make_a_front_and_constraints_bind(base: TrialSpec, context: TrialContext) -> None:
    space = {"image_size": Choice(choices=(32, 48)), **RATE}
    aims = {"objectives": ("mean_auc_low", "latency_ms"), "constraints": {"size_mb": 100}, "sampler": "nsga2"}
    result = launch(config(space=space, trials=4, **aims), base, context)
    assert {"value", "latency_ms"} <= set(result.history.columns)
    study = load(context.store.root, result.name)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert all(-100 < t.constraints["size_mb"] < 0 for t in study.get_trials())
    with pytest.raises(UserError, match=r"keeps size_mb <= 0\.1; the closest one has size_mb"):
        launch(config(trials=1, constraints={"size_mb": 0.1}), base, context)


def test_folds_go_by_group_and_average(base: TrialSpec, context: TrialContext) -> None:
    parts = [training_set(base, context, fold, 3)[0] for fold in range(3)]
    held = [set(part.select(split="val").rows["source"]) for part in parts]
    assert set.union(*held) == set(context.manifest.select(dataset="a", split=("train", "val")).rows["source"])
    assert sum(map(len, held)) == len(set.union(*held))
    result = launch(config(folds=3, trials=1), base, context)
    (trial,) = load(context.store.root, result.name).get_trials()
    assert trial.user_attrs["noise"] > 0
    assert len(list(context.work.glob("detectors/*/fold-*/weights.safetensors"))) == 3


def test_a_changed_definition_is_refused_in_one_sentence_or_begun_anew(base: TrialSpec, context: TrialContext) -> None:
    first = launch(config(name="changed", trials=1), base, context)
    wider = config(name="changed", trials=1, space={"learning_rate": Range(low=1e-5, high=1e-2, log=True)})
    with pytest.raises(UserError, match=f"{first.name} has another definition .space differs in learning_rate.*--new"):
        launch(wider, base, context, new=False)
    with pytest.raises(UserError, match="the faces or the generator have changed"):
        launch(config(name="changed", trials=1), base, replace(context, train_datasets=("a", "b")), new=False)
    second = launch(wider, base, context, new=True)
    assert second.name != first.name
    assert launch(wider, base, context, new=False).name == second.name  # it exists by now
    assert {first.name, second.name} <= set(names(context.store.root))


def test_a_warm_start_learns_from_the_same_space_only(base: TrialSpec, context: TrialContext) -> None:
    first = launch(config(trials=2), base, context)
    second = launch(config(name="t", trials=1, sampler="tpe", warm_start=first.name), base, context)
    study = load(context.store.root, second.name)
    assert sum("warm_start" in t.user_attrs for t in study.get_trials()) == 2
    assert second.best_value >= first.best_value  # the earlier ones measured the same
    assert len(second.history) == 1
    elsewhere = replace(context, validation_datasets=())
    third = launch(config(name="u", trials=2, warm_start=first.name), base, elsewhere)
    best = first.history.sort_values("value", ascending=False)["learning_rate"].tolist()
    assert third.history["learning_rate"].tolist() == best  # other data: its best values are tried first
    with pytest.raises(UserError, match=r"searched another space .learning_rate, psi differ"):
        launch(config(name="v", space={"psi": Range(low=0.5, high=1.0)}, warm_start=first.name), base, context)


def test_two_workers_finish_the_exact_total(
    base: TrialSpec, context: TrialContext, runs: Callable[[str], list[Any]]
) -> None:
    result = launch(config(trials=5), base, context, workers=2)
    assert result.history["trial"].tolist() == list(range(5))
    assert len(runs(context.experiment)) == 6
    study = load(context.store.root, result.name)
    assert len({t.user_attrs["worker"] for t in study.get_trials()}) == 2
    assert len(study.get_trials()) == 5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fixed": {"epochz": 3}}, "study.fixed.epochz is not a parameter of a trial: did you mean epochs"),
        ({"enqueue": [{"learning_rate": 1.0}]}, r"study.enqueue\[0\].learning_rate: 1.0 is not in"),
        ({"generators": {"g": Path("nowhere")}}, "no generator in nowhere"),
        ({"storage": "mysql://u:secret@h/d"}, r"study.storage mysql://u:\*\*\*@h/d is no PostgreSQL address"),
        ({"storage": "postgresql://u:secret@127.0.0.1:9/d"}, r"u:\*\*\*@127.0.0.1:9/d cannot be opened"),
        ({"sampler": "gp", "pruner": "median"}, "take pruner none"),
        ({"warm_start": "none"}, "no study is called 'none'"),
    ],
)
def test_bad_input_is_one_sentence(
    changes: dict[str, Any], sentence: str, base: TrialSpec, context: TrialContext
) -> None:
    with pytest.raises(UserError, match=sentence):
        launch(config(**changes), base, context)


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({"space": RATE, "fixed": {"synthetic_share": 0.0}}, False),
        ({"space": RATE, "fixed": {"synthetic_share": 0.5}}, True),
        ({"space": RATE, "fixed": {"synthetic_share": 0.5, "synthetic_method": "self-blend"}}, False),
        ({"space": RATE, "fixed": {"synthetic_share": 0.5, "generator": "other"}}, False),
        ({"space": RATE | {"synthetic_share": {"low": 0.0, "high": 0.5}}}, True),
        (
            {
                "space": RATE | {"synthetic_method": {"choices": ["self-blend", "self-blend+gan"]}},
                "fixed": {"synthetic_share": 0.5},
            },
            True,
        ),
        ({"space": RATE, "enqueue": ({"synthetic_share": 0.4},)}, True),
    ],
)
def test_a_generator_is_needed_only_where_a_trial_may_take_faces_from_it(
    changes: dict[str, Any], needed: bool, base: TrialSpec
) -> None:
    assert needs_generator(config(**changes), base.with_parameters({"synthetic_share": 0.0})) is needed
