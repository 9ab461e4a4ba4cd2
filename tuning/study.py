"""An Optuna study over the whole chain: one MLflow parent run a study, one child a trial.

Launching is resuming: the same command goes on to the total number of trials. What a trial suggests depends only on
the seed and on the trials that finished before, so that a killed study of one worker ends as it would have ended.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import ValidationError
from tqdm import tqdm

from core.errors import UserError
from tracking.runs import fail_left_running, run
from tuning.cluster import run_on_cluster
from tuning.config import DEFAULT_SPACE, MAXIMISED, StudyConfig
from tuning.identity import (
    DEFINITION,
    check_space,
    definition,
    prepared,
    recall,
    refuse_other_of_same_name,
    remember,
    study_name,
    terms,
)
from tuning.queue import ENDED, ERROR, LOST, PLACE, WARM, Claims, finished, had_turn
from tuning.ranking import FOLDER, MODEL, NOISE, RUN, clean, feasible, ranked
from tuning.report import figures, importance
from tuning.samplers import pruner
from tuning.space import Value, in_order
from tuning.storage import PATIENCE_SECONDS, StudyStorage, load, names, patiently, quiet_optuna, shelf_for
from tuning.trial import TrialContext, TrialSpec, train_and_log
from tuning.workers import Evaluate, Outcome, supervise, work

__all__ = [
    "DEFAULT_SPACE",
    "StudyConfig",
    "StudyResult",
    "check_space",
    "history",
    "join",
    "launch",
    "load",
    "names",
    "study_name",
]


@dataclass(frozen=True)
class StudyResult:
    """The best trial and the history of all: number, state, value, params, run_id."""

    name: str
    run_id: str
    best: TrialSpec
    best_value: float
    history: pd.DataFrame
    importance: dict[str, float]
    ended: str = ""
    best_run: str = ""


def launch(
    config: StudyConfig,
    base: TrialSpec,
    materials: TrialContext,
    parent: str | None = None,
    *,
    workers: int = 1,
    new: bool = True,
    cluster: str | None = None,
) -> StudyResult:
    """Run trials until the study has `config.trials` finished ones, or another rule ends it.

    Args:
        workers: processes of this machine; 1 works in this process. Tasks at a time where there is a cluster.
        new: begin a study beside one of the same name that has another definition; False refuses.
        cluster: address of a Ray cluster that runs the trials, or auto.

    Raises:
        UserError: a configuration that no trial could be run with, or trials that keep failing.
    """
    base, materials = prepared(config, base, materials)
    name = study_name(config, base, materials)
    wanted = definition(config, base, materials)
    if not new:
        refuse_other_of_same_name(name, config, wanted, materials.store.root)
    shelf = shelf_for(materials.store.root, name, config.storage)
    with quiet_optuna():
        study = patiently(lambda: _open(name, config, shelf, wanted, materials), 0)
        tags = {"study": name, "sampler": config.sampler, "manifest": materials.manifest.digest}
        with run(
            materials.store,
            materials.experiment,
            name,
            key=f"study/{name}",
            parent=parent,
            tags=tags,
            params={"trials": config.trials, "sampler": config.sampler, "pruner": config.pruner, "seed": config.seed},
            description=_description(config, materials),
        ) as active:
            remember(study, config, base, materials, active.id)
            patiently(lambda: study.set_user_attr(ENDED, None))
            ended = _run(study, shelf, config, base, materials, active.id, workers, cluster)
            patiently(lambda: study.set_user_attr(ENDED, ended))
            if not study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
                # Only a trial that was given up, since every worker that took it was killed, leaves such a run behind.
                fail_left_running(materials.store, materials.experiment, active.id, LOST, "trial-")
            result = summarise(study, config, base, active.id, ended)
            active.metrics({"best_objective": result.best_value}, config.trials)
            for file, figure in figures(study, config).items():
                active.figure(figure, file)
            active.text("best.json", result.best.model_dump_json(indent=2))
            active.text("trials.csv", result.history.to_csv(index=False))
            winner = result.history.set_index("run_id")["trial"].get(result.best_run, "of the warm start")
            active.tags({"ended": ended, "winner": f"trial {winner}", "winner_run_id": result.best_run})
    return result


def _run(
    study: optuna.Study,
    shelf: StudyStorage,
    config: StudyConfig,
    base: TrialSpec,
    materials: TrialContext,
    run_id: str,
    workers: int,
    cluster: str | None,
) -> str:
    claims = Claims(study, shelf, terms(config))
    places = claims.terms.places
    if cluster is not None:
        run_on_cluster(cluster, shelf.address, study, places, workers)
        return work(claims, config, evaluator(study, config, base, materials, run_id))
    if workers == 1:
        with tqdm(
            total=places,
            initial=len(finished(study.get_trials())),
            desc=study.study_name,
            unit="trial",
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 15,
        ) as bar:

            def after(trials: Sequence[FrozenTrial]) -> None:
                bar.update(len(finished(trials)) - bar.n)
                best = ranked(trials, config)
                if best:
                    bar.set_postfix(best=f"{best[0].values[0]:.3f}")
                clean(trials, config, materials.store, materials.work)

            return work(claims, config, evaluator(study, config, base, materials, run_id), after=after)
    command = [sys.executable, "-m", "tuning", shelf.address, study.study_name]
    logs = materials.work / "studies" / study.study_name
    supervise([command] * workers, study, places, logs)
    # What the workers left undone, if anything: a worker that was killed at the very end.
    return work(claims, config, evaluator(study, config, base, materials, run_id))


def join(address: str, name: str) -> str:
    """Work on a study that was launched elsewhere until it ends; the sentence says why it did.

    Raises:
        UserError: there is no such study, or its data are not on this machine.
    """
    shelf = StudyStorage(address)
    with quiet_optuna():
        try:
            storage = shelf.storage(PATIENCE_SECONDS)
            study = patiently(lambda: optuna.load_study(study_name=name, storage=storage))
        except KeyError as error:
            raise UserError(f"no study is called {name!r} in {shelf.shown}: launch it first") from error
        config, base, materials, run_id = patiently(lambda: recall(study))
        claims = Claims(study, shelf, terms(config))

        def after(trials: Sequence[FrozenTrial]) -> None:
            with shelf.lock(f"{name}/clean"):
                clean(trials, config, materials.store, materials.work)

        return work(claims, config, evaluator(study, config, base, materials, run_id), after=after)


def _open(
    name: str, config: StudyConfig, shelf: StudyStorage, wanted: Mapping[str, Any], materials: TrialContext
) -> optuna.Study:
    storage = shelf.storage()
    with shelf.lock(name):
        study = optuna.create_study(study_name=name, storage=storage, directions=config.directions, load_if_exists=True)
        if study.user_attrs.get(DEFINITION) != wanted:
            study.set_user_attr(DEFINITION, dict(wanted))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(list(config.objectives))
        if config.warm_start is not None and WARM not in study.user_attrs:
            _warm_start(study, config, wanted, materials)
        return study


def _warm_start(study: optuna.Study, config: StudyConfig, wanted: Mapping[str, Any], materials: TrialContext) -> None:
    """Learn from an earlier study: by its trials where they measured the same, or else by starting at its best.

    Raises:
        UserError: the spaces differ.
    """
    assert config.warm_start is not None
    earlier = load(materials.store.root, config.warm_start, config.storage)
    before = earlier.user_attrs.get(DEFINITION, {})
    old = before.get("space", {})
    if old != wanted["space"]:
        unlike = [name for name in sorted({*old, *wanted["space"]}) if old.get(name) != wanted["space"].get(name)]
        raise UserError(
            f"study.warm_start: {earlier.study_name} searched another space ({', '.join(unlike)} differ): give both "
            "the same space, or leave warm_start out"
        )
    same = all(before.get(key) == wanted[key] for key in ("objectives", "folds", "constraints", "data", "detector"))
    complete = [t for t in earlier.get_trials() if t.state == TrialState.COMPLETE]
    for trial in complete if same else ():
        trial.user_attrs = {**trial.user_attrs, WARM: earlier.study_name}
        study.add_trial(trial)
    if not same:
        old_config = StudyConfig.model_validate(earlier.user_attrs["config"])
        for place, trial in enumerate(ranked(complete, old_config)[: min(3, config.trials)]):
            study.enqueue_trial(dict(trial.params), user_attrs={PLACE: place})
    study.set_user_attr(WARM, earlier.study_name)


def evaluator(
    study: optuna.Study, config: StudyConfig, base: TrialSpec, materials: TrialContext, run_id: str
) -> Evaluate:
    """What runs one trial: train, validate, log, and report to the pruner."""
    epochs = config.space.get("epochs")
    most = int(epochs.high) if epochs is not None and hasattr(epochs, "high") else base.detector.epochs
    # Wilcoxon's test is over folds; the others look at epochs.
    study.pruner = pruner(config.pruner, config.folds if config.pruner == "wilcoxon" else most * config.folds)

    def evaluate(trial: Trial, values: dict[str, Value], place: int) -> Outcome:
        try:
            spec = base.with_parameters(values)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UserError(f"these values do not go together: {reason}") from error
        report = _reporter(trial, config)
        trained = train_and_log(
            spec,
            materials,
            name=f"trial-{place:03d}",
            parent=run_id,
            tags={"study": study.study_name, "trial": str(place)},
            folds=config.folds,
            on_epoch=report if config.pruner in ("hyperband", "median") else None,
            on_fold=report if config.pruner == "wilcoxon" else None,
        )
        aims = [trained.measures[name] for name in config.objectives]
        unknown = [name for name, value in zip(config.objectives, aims, strict=True) if math.isnan(value)]
        if unknown:
            raise UserError(
                f"{unknown[0]} is not defined on the val rows of {', '.join(materials.judging_datasets)}: a class has "
                "under two groups there; take mean_auc, or add faces"
            )
        return Outcome(
            aims,
            {name: trained.measures[name] - bound for name, bound in config.constraints.items()},
            {
                RUN: trained.run_id,
                MODEL: trained.model_id,
                FOLDER: trained.folder,
                NOISE: trained.error,
                "seconds": round(trained.seconds, 2),
                "measures": {name: round(value, 6) for name, value in trained.measures.items()},
            },
        )

    return evaluate


def _reporter(trial: Trial, config: StudyConfig) -> Any:
    """Tells the pruner how it goes; what was reported before the trial's worker was killed is not told again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = set(trial.study._storage.get_trial(trial._trial_id).intermediate_values)

    def report(metrics: Mapping[str, float], step: int) -> None:
        value = metrics.get("mean_auc", metrics.get("val_auc"))
        if value is None or math.isnan(value) or step in told:
            return
        told.add(step)
        patiently(lambda: trial.report(value, step))
        if patiently(trial.should_prune):
            unit = "fold" if config.pruner == "wilcoxon" else "epoch"
            raise optuna.TrialPruned(f"pruned by {config.pruner} after {unit} {step + (unit == 'fold')}")

    return report


def summarise(study: optuna.Study, config: StudyConfig, base: TrialSpec, run_id: str, ended: str) -> StudyResult:
    """The best trial and the history.

    Raises:
        UserError: no trial was finished, or none keeps the constraints.
    """
    trials = study.get_trials(deepcopy=False)
    order = ranked(trials, config)
    if not order:
        raise UserError(f"no trial of {study.study_name} was finished ({ended}): raise study.trials or study.hours")
    best = order[0]
    if not feasible(best):
        short = ", ".join(f"{name} <= {bound:g}" for name, bound in config.constraints.items())
        closest = min(order, key=lambda t: max(t.constraints.values()))
        reached = ", ".join(f"{name} {closest.user_attrs['measures'][name]:.3g}" for name in config.constraints)
        raise UserError(
            f"no trial of {study.study_name} keeps {short}; the closest one has {reached}: loosen study.constraints "
            "or widen the space"
        )
    return StudyResult(
        name=study.study_name,
        run_id=run_id,
        best=base.with_parameters(best.params),
        best_value=best.values[0],
        history=history(study),
        importance=importance(study),
        ended=ended,
        best_run=str(best.user_attrs.get(RUN, "")),
    )


def history(study: optuna.Study) -> pd.DataFrame:
    """One row a trial that had its turn: trial, state, value, run_id, error and a column for each parameter."""
    rows: list[dict[str, Any]] = []
    objectives = study.metric_names or ["value"]
    for trial in had_turn(study.get_trials(deepcopy=False)):
        attributes = trial.user_attrs
        values = trial.values if trial.state == TrialState.COMPLETE else None
        more = dict(zip(objectives[1:], (values or [None] * len(objectives))[1:], strict=True))
        rows.append(
            {
                "trial": attributes.get(PLACE, trial.number),
                "state": trial.state.name,
                "value": values[0] if values else None,
                **more,
                **trial.params,
                "run_id": attributes.get(RUN),
                "error": attributes.get(ERROR),
            }
        )
    return pd.DataFrame(rows)


def _description(config: StudyConfig, materials: TrialContext) -> str:
    aims = ", ".join(f"{'highest' if MAXIMISED[name] else 'lowest'} {name}" for name in config.objectives)
    bounds = "".join(f", {name} at most {bound:g}" for name, bound in config.constraints.items())
    folds = f", over {config.folds} folds by group" if config.folds > 1 else ""
    fixed = f" Fixed: {json.dumps(config.fixed)}." if config.fixed else ""
    return (
        f"{config.trials} trials by {config.sampler} (pruner {config.pruner}) over "
        f"{', '.join(in_order(config.space))}. "
        f"Aim: {aims}{bounds}, on val rows of {', '.join(materials.judging_datasets)}{folds}.{fixed} "
        "The children are its trials; sort them by `objective`. Figures and trials.csv are under Artifacts."
    )
