"""The MLflow UI in a real browser: the study, its children, the pictures, and the registered model with its alias."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tuning.conftest import base, context, manifest, store
from tracking.registry import Registry
from tracking.ui import serve, share_view
from tuning.config import StudyConfig
from tuning.space import Range
from tuning.study import StudyResult, launch
from tuning.trial import TrialContext, TrialSpec

__all__ = ["base", "context", "manifest", "store"]
pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MODELS = "workflowType=machine_learning"  # the view for models, as `counterforge ui` names its pages
SHOTS = os.environ.get("COUNTERFORGE_SCREENSHOTS")  # a folder: where the pictures of the docs come from


@pytest.fixture
def page() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport={"width": 1360, "height": 850})
        opened.set_default_timeout(180_000)
        yield opened
        browser.close()


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(1500)
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def study(base: TrialSpec, context: TrialContext) -> StudyResult:
    """Four trials, and the best one registered as the champion."""
    config = StudyConfig(
        name="faces",
        trials=4,
        sampler="random",
        space={
            "learning_rate": Range(low=1e-4, high=1e-2, log=True),
            "weight_decay": Range(low=1e-4, high=1e-1, log=True),
        },
    )
    result = launch(config, base, context)
    best = result.history.loc[result.history["value"].idxmax(), "run_id"]
    client = context.store.client
    (model,) = client.search_logged_models([context.store.experiment(context.experiment)], f"source_run_id = '{best}'")
    registry = Registry(context.store)
    version = registry.register(model.model_id, {"study": result.name})
    registry.promote(version.number, {"reason": "the test"}, why="for the test")
    return result


def test_the_ui_shows_study_children_pictures_and_champion(
    page: Any, base: TrialSpec, context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracking.ui._START_SECONDS", 400)  # this is no test of speed
    context = replace(context, experiment="faces")
    result = study(base, context)
    experiment = context.store.experiment(context.experiment)
    with serve(context.store.root) as server:
        page.goto(f"{server.address}/#/experiments/{experiment}/runs?{MODELS}")
        page.get_by_role("link", name="Model registry").wait_for()
        page.get_by_text(result.name).first.wait_for()
        page.get_by_label("Close").first.click()  # the assistant's panel
        page.get_by_role("row").filter(has_text=result.name).locator("svg").first.click()  # the plus before its name
        for place in range(4):
            page.get_by_text(f"trial-{place:03d}").first.wait_for()
        shot(page, "mlflow-runs")
        assert share_view(context.store, experiment)
        page.goto(f"{server.address}/#/experiments/{experiment}/runs?{MODELS}&viewStateShareKey=counterforge")
        page.locator("[role=columnheader]").filter(has_text="objective").first.wait_for()
        shot(page, "mlflow-view")
        page.goto(f"{server.address}/#/experiments/{experiment}/runs/{result.run_id}?{MODELS}")
        page.get_by_text("4 trials by random", exact=False).first.wait_for()  # the note
        shot(page, "mlflow-study")
        page.goto(
            f"{server.address}/#/experiments/{experiment}/runs/{result.run_id}/artifacts/figures/history.png?{MODELS}"
        )
        page.get_by_text("history.png").first.wait_for()
        page.locator("img[src*='history.png'], img[src^='blob:'], img[src^='data:image']").first.wait_for()
        shot(page, "mlflow-figures")
        page.goto(f"{server.address}/#/models/counterforge-detector?{MODELS}")
        page.get_by_text("champion", exact=False).first.wait_for()
        shot(page, "mlflow-champion")
