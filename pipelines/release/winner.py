"""From a study to the registry: its winner, trained at full cost, becomes the challenger."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from mlflow.exceptions import MlflowException

from pipelines.release.promotion import register_candidate
from tracking.registry import CHAMPION, Registry
from tracking.store import Store
from tuning.identity import recall, recall_final
from tuning.queue import WARM, slot_of
from tuning.ranking import MODEL, ranked
from tuning.study import summarise
from tuning.trial import TrialSpec, train_and_log


@dataclass(frozen=True)
class Winner:
    """The best trial of a study, its recipe at full cost, and the version of the registry that it became."""

    study: str
    trial: int
    recipe: TrialSpec
    trained: bool  # at full cost; False where the weights of the trial itself are taken
    version: int | None = None  # None after a dry run
    champion: bool = False  # it is the champion already, and stays so


def register_winner(study: optuna.Study, *, dry_run: bool = False) -> Winner:
    """Register the winner of a study as `challenger`, with study and trial as lineage.

    Its recipe is trained again where the trials were cheaper than the final detector or trained on folds, or where the
    trial's weights were not kept. Calling it again resumes, and in the end finds the same version.

    Raises:
        UserError: no trial was finished, the study does not say how its winner is trained, or its data are not here.
    """
    config, base, context, run_id = recall(study)
    final = recall_final(study)
    result = summarise(study, config, base, run_id, "")
    best = ranked(study.get_trials(deepcopy=False), config)[0]
    recipe = final.base.with_parameters({**config.fixed, **best.params})
    lineage = {"study": best.user_attrs.get(WARM, study.study_name), "trial": str(slot_of(best))}
    model_id, objective = str(best.user_attrs[MODEL]), best.user_attrs["measures"]["mean_auc"]
    own = recipe == result.best and config.folds == 1 and _is_kept(context.store, model_id)
    winner = Winner(study.study_name, slot_of(best), recipe, trained=not own)
    if dry_run:
        return winner
    if not own:
        trained = train_and_log(recipe, context, name="winner", parent=run_id, tags={**lineage, "arm": "study winner"})
        model_id, objective = trained.model_id, trained.objective
    registry = Registry(context.store)
    known = next((version for version in registry.versions() if version.model_id == model_id), None)
    if known is not None and CHAMPION in known.aliases:
        return Winner(study.study_name, winner.trial, recipe, winner.trained, known.number, champion=True)
    version = register_candidate(
        context.store,
        model_id,
        final.manifest,
        project=context.experiment,
        datasets=final.datasets,
        tags={**lineage, "arm": "study winner", "objective": objective},
    )
    return Winner(study.study_name, winner.trial, recipe, winner.trained, version)


def _is_kept(store: Store, model_id: str) -> bool:
    try:
        return str(store.client.get_logged_model(model_id).status) == "READY"
    except MlflowException:  # deleted, as that of a trial that was not among the best of an earlier study
        return False
