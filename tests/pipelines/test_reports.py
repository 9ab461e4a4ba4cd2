"""The report of a study: its figures, the sealed score beside the val score, fresh seeds, and the openings counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from core.errors import UserError
from pipelines.reports import review_study, write_study_report
from tests.tuning.conftest import base, context, manifest, runs, store
from tuning.config import StudyConfig
from tuning.space import Choice, Range
from tuning.storage import load
from tuning.study import launch
from tuning.trial import TrialContext, TrialSpec

__all__ = ["base", "context", "manifest", "runs", "store"]


def test_a_report_shows_how_optimistic_the_choice_was(
    base: TrialSpec, context: TrialContext, runs: Callable[[str], list[Any]]
) -> None:
    config = StudyConfig(
        name="reviewed",
        trials=6,
        sampler="random",
        objectives=("mean_auc", "size_mb"),
        space={
            "learning_rate": Range(low=1e-4, high=1e-2, log=True),
            "weight_decay": Range(low=1e-4, high=1e-1, log=True),
            "balance": Choice(choices=("none", "weights")),
        },
    )
    result = launch(config, base, context)
    study = load(context.store.root, result.name)
    found = review_study(study, seeds=2)
    table = found.optimism
    assert set(table["dataset"]) == {"a", "b"}
    assert table["seed"].nunique() == 3
    first = table.iloc[0]
    assert first["low"] <= first["test"] <= first["high"]
    assert first["optimism"] == pytest.approx(first["val"] - first["test"])
    assert found.result.best_value == result.best_value
    assert found.openings == {"a": 1, "b": 1}
    commands = ["counterforge study register <winner>"]
    page = write_study_report(study, found, commands=commands).read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert "http" not in page
    assert "counterforge study register &lt;winner&gt;" in page
    assert "Under 2 fresh seeds" in page
    by_name = {run.info.run_name: run for run in runs(context.experiment)}
    parent = by_name[result.name]
    assert parent.data.tags["reviewed"] == "yes"
    names = {file.path for file in context.store.client.list_artifacts(parent.info.run_id, "figures")}
    assert {f"figures/{name}.png" for name in ("history", "slices", "parallel", "pareto", "cost", "contour")} <= names
    assert {run.data.tags["mlflow.parentRunId"] for name, run in by_name.items() if name != result.name} == {
        parent.info.run_id
    }
    again = review_study(study, seeds=2, sealed=False)
    assert again.openings == {"a": 1, "b": 1}  # left shut this time
    assert again.optimism["test"].isna().all()


def test_a_study_without_a_finished_trial_has_no_report(base: TrialSpec, context: TrialContext) -> None:
    config = StudyConfig(name="barren", trials=1, sampler="random", space={"image_size": Choice(choices=(32,))})
    with pytest.raises(UserError, match="keeps size_mb"):
        launch(config.model_copy(update={"constraints": {"size_mb": 0.001}}), base, context)
    (name,) = [n for n in _names(context) if n.startswith("barren")]
    with pytest.raises(UserError, match=r"keeps size_mb <= 0\.001"):
        review_study(load(context.store.root, name))


def _names(context: TrialContext) -> list[str]:
    from tuning.storage import names

    return names(context.store.root)
