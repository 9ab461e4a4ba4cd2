"""An Optuna study over the whole chain: one MLflow parent run a study, one child a trial.

Launching is resuming: the same command goes on to the total number of trials. What a trial suggests depends only on
the seed and on the trials that finished before, so that a killed study of one worker ends as it would have ended.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
import pandas as pd
import torch
import torch.nn.functional as F
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from classifier.config import DetectorConfig
from classifier.models.backbones import head, pooled
from classifier.models.detector import Detector
from core.device import autocast, keep_freed_memory, pick_device, pick_precision
from core.errors import UserError
from tracking.runs import fail_left_running, run
from tuning import identity
from tuning.config import MAXIMISED, StudyConfig
from tuning.identity import DEFINITION, FinalTraining, unequal
from tuning.queue import ENDED, ERROR, LOST, SLOT, WARM, TrialQueue, concluded, slot_of
from tuning.results import RUN, clean, feasible, figures, importance, ranked
from tuning.space import Choice, Range, in_order, stable
from tuning.storage import StudyStorage, load, patiently, quiet_optuna, storage_of
from tuning.trial import TrialContext, TrialSpec
from tuning.worker import Evaluate, evaluator, progress, run_on_cluster, supervise, work


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
    context: TrialContext,
    parent: str | None = None,
    *,
    workers: int = 1,
    new: bool = True,
    cluster: str | None = None,
    final: FinalTraining | None = None,
) -> StudyResult:
    """Run trials until the study has `config.trials` finished ones, or another rule ends it.

    Args:
        workers: processes of this machine; 1 works in this process. Tasks at a time where there is a cluster.
        new: begin a study beside one of the same name that has another definition; False refuses.
        cluster: address of a Ray cluster that runs the trials, or auto.
        final: how the winner is trained, for `counterforge study register`.

    Raises:
        UserError: a configuration that no trial could be run with, or trials that keep failing.
    """
    base = identity.check_study(config, base)
    context = replace(context, generators={key: path.resolve() for key, path in config.generators.items()})
    wanted = identity.definition(config, base, context)
    name = identity.study_name(config, wanted)
    if not new:
        identity.refuse_other_of_same_name(name, config, wanted, context.store.root)
    storage = storage_of(context.store.root, name, config.storage)
    with quiet_optuna():
        study = patiently(lambda: _open(name, config, storage, wanted, context), 0)
        with run(
            context.store,
            context.experiment,
            name,
            key=f"study/{name}",
            parent=parent,
            tags={"study": name, "sampler": config.sampler, "manifest": context.manifest.digest},
            params={"trials": config.trials, "sampler": config.sampler, "pruner": config.pruner, "seed": config.seed},
            description=_description(config, context),
        ) as active:
            identity.remember(study, config, base, context, active.id, final)
            patiently(lambda: study.set_user_attr(ENDED, None))
            queue, evaluate = TrialQueue(study, storage, config), evaluator(study, config, base, context, active.id)
            ended = _run(queue, evaluate, context, workers, cluster)
            patiently(lambda: study.set_user_attr(ENDED, ended))
            if not study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
                # Only a trial that was given up, since every worker that took it was killed, leaves such a run behind.
                fail_left_running(context.store, context.experiment, active.id, LOST, "trial-")
            result = summarise(study, config, base, active.id, ended)
            active.metrics({"best_objective": result.best_value}, config.trials)
            for file, figure in figures(study, config).items():
                active.figure(figure, file)
            active.text("best.json", result.best.model_dump_json(indent=2))
            active.text("trials.csv", result.history.to_csv(index=False))
            winner = result.history.set_index("run_id")["trial"].get(result.best_run, "of the warm start")
            active.tags({"ended": ended, "winner": f"trial {winner}", "winner_run_id": result.best_run})
    return result


def _run(queue: TrialQueue, evaluate: Evaluate, context: TrialContext, workers: int, cluster: str | None) -> str:
    study, address = queue.study, queue.storage.address
    if cluster is not None:
        run_on_cluster(cluster, address, study, queue.slots, workers)
    elif workers > 1:
        supervise(address, workers, study, queue.slots, context.work / "studies" / study.study_name)
    else:
        with progress(study, queue.slots) as update:

            def after(trials: Sequence[FrozenTrial]) -> None:
                best = ranked(trials, queue.config)
                update(trials, f"{best[0].values[0]:.3f}" if best else "")
                clean(trials, queue.config, context.store, context.work)

            return work(queue, evaluate, after=after)
    # What the workers left undone, if anything: a worker that was killed at the very end.
    return work(queue, evaluate)


def _open(
    name: str, config: StudyConfig, storage: StudyStorage, wanted: Mapping[str, Any], context: TrialContext
) -> optuna.Study:
    opened = storage.open()
    with storage.lock(name):
        study = optuna.create_study(study_name=name, storage=opened, directions=config.directions, load_if_exists=True)
        if study.user_attrs.get(DEFINITION) != wanted:
            study.set_user_attr(DEFINITION, dict(wanted))
            with stable():
                study.set_metric_names(list(config.objectives))
        if config.warm_start is not None and WARM not in study.user_attrs:
            _warm_start(study, config, wanted, context)
        return study


def _warm_start(study: optuna.Study, config: StudyConfig, wanted: Mapping[str, Any], context: TrialContext) -> None:
    """Learn from an earlier study of the same space: by its trials if they measured the same, or else by its best."""
    assert config.warm_start is not None
    earlier = load(context.store.root, config.warm_start, config.storage)
    before = earlier.user_attrs.get(DEFINITION, {})
    if unlike := unequal(before.get("space", {}), wanted["space"]):
        raise UserError(
            f"study.warm_start: {earlier.study_name} searched another space ({', '.join(unlike)} differ): give both "
            "the same space, or leave warm_start out"
        )
    complete = earlier.get_trials(states=(TrialState.COMPLETE,))
    if {"objectives", "folds", "constraints", "data", "detector"} & {*unequal(before, wanted)}:
        old_config = StudyConfig.model_validate(earlier.user_attrs["config"])
        for slot, trial in enumerate(ranked(complete, old_config)[: min(3, config.trials)]):
            study.enqueue_trial(dict(trial.params), user_attrs={SLOT: slot})
    else:
        for trial in complete:
            trial.user_attrs = {**trial.user_attrs, WARM: earlier.study_name}
            study.add_trial(trial)
    study.set_user_attr(WARM, earlier.study_name)


def summarise(study: optuna.Study, config: StudyConfig, base: TrialSpec, run_id: str, ended: str) -> StudyResult:
    """The best trial and the history; a `UserError` where no trial was finished, or none keeps the constraints."""
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
    spec, best_run = base.with_parameters(best.params), str(best.user_attrs.get(RUN, ""))
    shares = importance(study)
    return StudyResult(study.study_name, run_id, spec, best.values[0], history(study), shares, ended, best_run)


def history(study: optuna.Study) -> pd.DataFrame:
    """One row a trial that had its turn: trial, state, value, run_id, error and a column for each parameter."""
    rows: list[dict[str, Any]] = []
    aims = ["value", *(study.metric_names or [])[1:]]  # the first objective goes by this name
    for trial in concluded(study.get_trials(deepcopy=False)):
        values = trial.values if trial.state == TrialState.COMPLETE else [None] * len(aims)
        row = {"trial": slot_of(trial), "state": trial.state.name, **dict(zip(aims, values, strict=True))}
        row |= trial.params | {"run_id": trial.user_attrs.get(RUN), "error": trial.user_attrs.get(ERROR)}
        rows.append(row)
    return pd.DataFrame(rows)


def _description(config: StudyConfig, context: TrialContext) -> str:
    aims = ", ".join(f"{'highest' if MAXIMISED[name] else 'lowest'} {name}" for name in config.objectives)
    bounds = "".join(f", {name} at most {bound:g}" for name, bound in config.constraints.items())
    folds = f", over {config.folds} folds by group" if config.folds > 1 else ""
    fixed = f" Fixed: {json.dumps(config.fixed)}." if config.fixed else ""
    return (
        f"{config.trials} trials by {config.sampler} (pruner {config.pruner}) over "
        f"{', '.join(in_order(config.space))}. "
        f"Aim: {aims}{bounds}, on val rows of {', '.join(context.judging_datasets)}{folds}.{fixed} "
        "The children are its trials; sort them by `objective`. Figures and trials.csv are under Artifacts."
    )


# --- what it will cost

_SCALE = ("epochs", "frozen_epochs", "batch_size", "image_size")


@dataclass(frozen=True)
class Cost:
    """Seconds of one training step (head alone, everything) and of a whole trial, for one backbone."""

    backbone: str
    frozen_step: float
    full_step: float
    trial: float


def trial_costs(config: StudyConfig, base: TrialSpec, faces: int) -> list[Cost]:
    """For every backbone of the space, at the base's other settings.

    `faces` are the train rows that a trial passes over in an epoch; synthetic ones are added by the share searched.
    """
    share = _middle(config.space.get("synthetic_share"), base.synthetic_share)
    searched, costs = config.space.get("backbone"), []
    for backbone in searched.choices if isinstance(searched, Choice) else (base.detector.backbone,):
        own = {"backbone": str(backbone), "weights": "none"}
        whole = {name: int(_middle(config.space.get(name), getattr(base.detector, name))) for name in _SCALE}
        try:
            detector = DetectorConfig.model_validate(base.detector.model_dump() | whole | own)
        except ValidationError:  # the middle of two ranges need not go together
            detector = base.detector.model_copy(update=own)
        rows = faces * (1 + (share / (1 - share) if share else 0) / 2)
        steps = math.ceil(rows / detector.batch_size)
        frozen, full = step_seconds(detector, frozen=True), step_seconds(detector, frozen=False)
        epochs = detector.frozen_epochs * frozen + (detector.epochs - detector.frozen_epochs) * full
        costs.append(Cost(str(backbone), frozen, full, config.folds * steps * epochs * 1.2))  # a fifth for val
    return costs


def step_seconds(config: DetectorConfig, *, frozen: bool) -> float:
    """One step on noise, the second of two: the first one warms up."""
    keep_freed_memory()
    device = pick_device(config.device)
    detector = Detector.create(config).to(device)
    module, precision = detector.module, pick_precision(config.precision, device, detector.module)
    module.requires_grad_(not frozen)
    head(module).requires_grad_(True)
    module.train(not frozen)
    side = config.image_size
    random = torch.Generator().manual_seed(0)
    faces = torch.randint(0, 256, (config.batch_size, 3, side, side), dtype=torch.uint8, generator=random).to(device)
    fake = (torch.arange(config.batch_size, device=device) % 2).float()
    seconds = math.inf
    for _ in range(2):
        began = time.perf_counter()
        with torch.set_grad_enabled(not frozen), autocast(device, precision):
            seen = pooled(module, detector.normalise(faces))
        loss = F.binary_cross_entropy_with_logits(head(module)(seen.float()).squeeze(1), fake)
        loss.backward()  # type: ignore[no-untyped-call]
        float(loss.detach())
        seconds = min(seconds, time.perf_counter() - began)
    return seconds


def _middle(values: Range | Choice | None, otherwise: float) -> float:
    """A typical value of a searched number, or the one that is not searched."""
    if isinstance(values, Range):
        return math.sqrt(values.low * values.high) if values.log else (values.low + values.high) / 2
    if isinstance(values, Choice):
        numbers = [value for value in values.choices if isinstance(value, int | float)]
        return sum(numbers) / len(numbers) if numbers else otherwise
    return otherwise
