"""An Optuna study over the whole chain: one MLflow parent run a study, one child a trial.

Launching is resuming: the same command goes on to the total number of trials. What a trial suggests depends only on
the seed and on the trials that finished before, so that a study that was killed ends as it would have ended.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tqdm import tqdm

from classifier.config import DetectorConfig
from faces.errors import UserError
from tracking.runs import run
from tracking.store import Store
from tuning.report import history_figure, importance, importance_figure
from tuning.samplers import SamplerName, sampler
from tuning.space import Choice, Range, Space, distributions
from tuning.trial import Materials, TrialSpec, train_and_log

# A study in which this many trials in a row fail has a fault that more trials do not mend.
MAX_FAILURES = 3

DEFAULT_SPACE: Space = {
    "learning_rate": Range(low=1e-4, high=3e-3, log=True),
    "augmentation": Range(low=0.0, high=1.0),
    "synthetic_share": Range(low=0.2, high=0.6, step=0.1),
    "psi": Choice(choices=(0.5, 0.7, 1.0)),
}


class StudyConfig(BaseModel):
    """A search: what is searched, by which sampler, for how many trials in all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("study", pattern=r"^[\w.-]+$")
    trials: int = Field(20, ge=1, description="total, those of earlier launches counted in")
    sampler: SamplerName = "gp"
    seed: int = Field(0, ge=0)
    space: dict[str, Range | Choice] = DEFAULT_SPACE


@dataclass(frozen=True)
class StudyResult:
    """The best trial and the history of all: number, state, value, params, run_id."""

    name: str
    run_id: str
    best: TrialSpec
    best_value: float
    history: pd.DataFrame
    importance: dict[str, float]


def study_name(config: StudyConfig, base: TrialSpec, materials: Materials) -> str:
    """The study's name and 8 hex digits over all that makes two studies incomparable (not the number of trials)."""
    text = config.model_dump_json(exclude={"trials", "name"}) + base.model_dump_json() + materials.digest
    return f"{config.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def storage_url(store: Store) -> str:
    """Where the studies of a tracking folder live."""
    return f"sqlite:///{(store.root / 'studies.db').resolve()}"


def launch(config: StudyConfig, base: TrialSpec, materials: Materials, parent: str | None = None) -> StudyResult:
    """Run trials until the study has `config.trials` finished ones.

    Raises:
        UserError: a parameter that no trial has, a sampler that cannot search this space, or trials that keep failing.
    """
    check_space(config.space, base)
    space = distributions(config.space)
    name = study_name(config, base, materials)
    with _quiet_optuna():
        sampler(config.sampler, space, config.seed, 0)  # refuses a wrong pair before anything is made
        study = optuna.create_study(
            study_name=name, storage=storage_url(materials.store), direction="maximize", load_if_exists=True
        )
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # Its process was killed. The trial is suggested again below, and goes on from its last checkpoint.
            study.tell(trial.number, state=TrialState.FAIL)
        tags = {"study": name, "sampler": config.sampler, "manifest": materials.manifest.digest}
        description = (
            f"{config.trials} trials by {config.sampler} over {', '.join(space)}; objective: mean AUC on val rows of "
            f"{', '.join(materials.validation_domains or materials.train_domains)}"
        )
        with run(
            materials.store,
            materials.experiment,
            name,
            key=f"study/{name}",
            parent=parent,
            tags=tags,
            params={"trials": config.trials, "sampler": config.sampler, "seed": config.seed},
            description=description,
        ) as active:
            _run_trials(study, config, base, materials, active.id)
            result = _result(study, name, active.id, base)
            active.metrics({"best_objective": result.best_value}, config.trials)
            active.figure(history_figure(result.history), "history.png")
            if result.importance:
                active.figure(importance_figure(result.importance), "importance.png")
            active.text("best.json", result.best.model_dump_json(indent=2))
            active.text("trials.csv", result.history.to_csv(index=False))
    return result


def check_space(space: Mapping[str, Range | Choice], base: TrialSpec) -> None:
    """Refuse parameters that no trial has, and values that no trial takes, before the first trial starts.

    Raises:
        UserError: with the nearest right name.
    """
    known = [*DetectorConfig.model_fields, "synthetic_share", "psi"]
    for name, values in space.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise UserError(f"study.space.{name} is not a parameter of a trial: {remedy}")
        for value in values.choices if isinstance(values, Choice) else (values.low, values.high):
            try:
                base.with_parameters({name: value})
            except ValidationError as error:
                reason = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise UserError(f"study.space.{name}: {value!r} cannot be searched: {reason}") from error


def _run_trials(study: optuna.Study, config: StudyConfig, base: TrialSpec, materials: Materials, parent: str) -> None:
    space = distributions(config.space)
    finished, failures = len(_finished(study)), 0
    with tqdm(total=config.trials, initial=finished, desc=study.study_name, unit="trial", file=sys.stderr) as bar:
        while finished < config.trials:
            position = len(_counted(study))
            study.sampler = sampler(config.sampler, space, config.seed, position)
            trial = study.ask(space)
            try:
                spec = base.with_parameters(trial.params)
                trained = train_and_log(
                    spec, materials, name=f"trial-{position:03d}", parent=parent, tags={"study": study.study_name}
                )
            except UserError as error:
                failures += 1
                trial.set_user_attr("error", str(error))
                study.tell(trial, state=TrialState.FAIL)
                tqdm.write(f"trial {position} failed: {error}", file=sys.stderr)
                if failures == MAX_FAILURES:
                    raise UserError(f"{failures} trials in a row failed, the last with: {error}") from error
                continue
            failures = 0
            trial.set_user_attr("run_id", trained.run_id)
            trial.set_user_attr("model_id", trained.model_id)
            study.tell(trial, trained.objective)
            finished = len(_finished(study))
            bar.update(finished - bar.n)
            bar.set_postfix(best=f"{study.best_value:.3f}", last=f"{trained.objective:.3f}")


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _counted(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that had their turn: finished, or failed by their own fault and not because their process was killed."""
    trials = study.get_trials(deepcopy=False)
    return [t for t in trials if t.state.is_finished() and (t.state != TrialState.FAIL or "error" in t.user_attrs)]


def _result(study: optuna.Study, name: str, run_id: str, base: TrialSpec) -> StudyResult:
    best = study.best_trial
    return StudyResult(
        name=name,
        run_id=run_id,
        best=base.with_parameters(best.params),
        best_value=study.best_value,
        history=history(study),
        importance=importance(study),
    )


def history(study: optuna.Study) -> pd.DataFrame:
    """One row a trial that had its turn: trial, state, value, run_id, error and a column for each parameter."""
    rows: list[dict[str, Any]] = []
    for position, trial in enumerate(_counted(study)):
        attributes = trial.user_attrs
        rows.append(
            {
                "trial": position,
                "state": trial.state.name,
                "value": trial.value,
                **trial.params,
                "run_id": attributes.get("run_id"),
                "error": attributes.get("error"),
            }
        )
    return pd.DataFrame(rows)


def load(store: Store, name: str) -> optuna.Study:
    """A study of the tracking folder by its name, or by the beginning of it if that is unambiguous.

    Raises:
        UserError: there is none, or there are several.
    """
    known = names(store)
    found = [name] if name in known else [each for each in known if each.startswith(name)]
    if len(found) != 1:
        problem = "several studies begin with" if found else "no study is called"
        raise UserError(f"{problem} {name!r} in {store.root}: there is {', '.join(found or known) or 'none yet'}")
    with _quiet_optuna():
        return optuna.load_study(study_name=found[0], storage=storage_url(store))


def names(store: Store) -> list[str]:
    """The names of all studies of a tracking folder."""
    if not (store.root / "studies.db").is_file():
        return []
    with _quiet_optuna():
        return sorted(optuna.get_all_study_names(storage_url(store)))


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Optuna reports by our progress bar and not by its own log lines."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
