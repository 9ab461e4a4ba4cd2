"""From a study to a challenger: whose weights are taken, what the registry says of them, and calling it twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from core.errors import UserError
from core.manifest import Manifest
from pipelines.release.promotion import evaluate_gate
from pipelines.training import register_winner
from tests.tuning.conftest import base, context, manifest, runs, store
from tracking.registry import Registry
from tuning.config import StudyConfig
from tuning.identity import FinalTraining
from tuning.space import Range
from tuning.storage import load
from tuning.study import StudyResult, launch
from tuning.trial import TrialContext, TrialSpec

__all__ = ["base", "context", "manifest", "runs", "store"]


def searched(
    base: TrialSpec, context: TrialContext, manifest: Manifest, final: TrialSpec | None, **changes: Any
) -> tuple[StudyResult, optuna.Study]:
    """A study of two trials whose winner is trained by `final`."""
    space = {"learning_rate": Range(low=1e-4, high=1e-2, log=True)}
    config = StudyConfig.model_validate({"name": "s", "trials": 2, "sampler": "random", "space": space} | changes)
    path = manifest.write(Path(manifest.root) / "manifest.parquet")
    how = FinalTraining(final, path, ("b",)) if final is not None else None
    result = launch(config, base, context, final=how)
    return result, load(context.store.root, result.name)


def test_a_winner_at_full_cost_keeps_its_own_weights_and_passes_on_its_lineage(
    base: TrialSpec, context: TrialContext, manifest: Manifest, runs: Callable[[str], list[Any]], tmp_path: Path
) -> None:
    result, study = searched(base, context, manifest, base)
    planned = register_winner(study, dry_run=True)
    assert (planned.version, planned.trained, planned.recipe) == (None, False, result.best)
    before = len(runs(context.experiment))
    winner = register_winner(study)
    assert len(runs(context.experiment)) == before  # nothing was trained
    version = Registry(context.store).resolve("challenger")
    assert version.number == winner.version
    assert version.run_id == result.best_run
    wanted = {"study": result.name, "trial": str(winner.trial), "test_datasets": "b", "test_manifest": manifest.digest}
    assert wanted.items() <= version.tags.items()
    assert register_winner(study) == winner

    verdict = evaluate_gate(context.store, "challenger", cache=tmp_path / "cache")  # it finds the sealed rows
    assert set(verdict.by_dataset) <= {"b"}
    Registry(context.store).promote(version.number, {}, why="for the test")
    again = register_winner(study)
    assert (again.version, again.champion) == (winner.version, True)
    assert "challenger" not in Registry(context.store).resolve(str(again.version)).aliases


@pytest.mark.parametrize(
    ("final", "changes"), [({"epochs": 2}, {}), ({}, {"folds": 2}), ({}, {"fixed": {"epochs": 2}})]
)
def test_a_cheaper_winner_is_trained_once_at_full_cost(
    final: dict[str, int],
    changes: dict[str, Any],
    base: TrialSpec,
    context: TrialContext,
    manifest: Manifest,
    runs: Callable[[str], list[Any]],
) -> None:
    result, study = searched(base, context, manifest, base.with_parameters(final), **changes)
    winner = register_winner(study)
    assert winner.trained == ("fixed" not in changes)  # what all trials share is no cheaper
    assert winner.recipe.detector.learning_rate == result.best.detector.learning_rate
    assert winner.recipe.detector.epochs == (2 if final or "fixed" in changes else 1)
    assert register_winner(study) == winner
    trained = [run for run in runs(context.experiment) if run.info.run_name == "winner"]
    assert len(trained) == winner.trained
    for run in trained:
        assert run.data.tags["mlflow.parentRunId"] == result.run_id
        assert run.data.tags["study"] == result.name
        assert Registry(context.store).resolve(str(winner.version)).run_id == run.info.run_id


def test_a_study_of_before_says_what_to_do(base: TrialSpec, context: TrialContext, manifest: Manifest) -> None:
    _, study = searched(base, context, manifest, None, trials=1)
    with pytest.raises(UserError, match=r"launch it again with the same configuration .finished trials stay."):
        register_winner(study)
    _, study = searched(base, context, manifest, base, trials=1)
    assert register_winner(study).version
