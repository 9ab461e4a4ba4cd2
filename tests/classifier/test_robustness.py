"""The robustness ladder with a detector of checkerboards, with an ensemble, and with anything that scores."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from classifier.config import DetectorConfig
from classifier.figures import robustness_figure
from classifier.models.detector import Detector
from classifier.models.ensemble import Ensemble
from classifier.robustness import CLEAN, Ladder, robustness
from classifier.scoring import score
from core.errors import UserError
from core.manifest import Manifest

FEW = {"jpeg": (80, 10), "blur": (0.5, 6.0), "noise": (1, 40)}


class Weave:
    """Scores by the strength of the checkerboard that the fakes of these tests have."""

    config = SimpleNamespace(image_size=32)
    mean = torch.zeros(3, 1, 1)
    threshold = 0.5
    digest = "weave"

    def __init__(self) -> None:
        self.calls = 0

    def eval(self) -> Weave:
        return self

    def probability(self, images: Tensor) -> Tensor:
        self.calls += 1
        assert images.dtype == torch.uint8
        sign = 1 - 2 * (torch.arange(32)[:, None] + torch.arange(32)).remainder(2)
        weave = (images.float() * sign).mean(dim=(1, 2, 3)).abs()
        return torch.sigmoid((weave - 4) * 2)


@pytest.fixture
def rows(write_faces: Callable[..., Manifest]) -> Manifest:
    return write_faces(real=12, fake=12, splits=("test",))


def test_figures_fall_along_the_ladder(rows: Manifest, tmp_path: Path) -> None:
    ladder = robustness(Weave(), rows, tmp_path, ladders=FEW, replicates=100)
    assert len(ladder.rungs) == 1 + 6
    clean, blurred = ladder.clean("set"), ladder.along("set", "blur")
    assert clean.auc.value == 1.0
    assert (clean.fpr.value, clean.recall.value) == (0.0, 1.0)
    assert [rung.step for rung in blurred] == [0, 1, 2]
    # All pictures lose their weave: nothing is called fake any more, whatever the ranks are.
    assert blurred[-1].recall.value == 0.0
    assert ladder.worst("set").auc.value == min(rung.auc.value for rung in ladder.rungs)
    assert ladder.most_false_alarms("set").fpr.value == max(rung.fpr.value for rung in ladder.rungs)
    assert [rung.kind for rung in ladder.rungs] == [CLEAN, "jpeg", "jpeg", "blur", "blur", "noise", "noise"]
    assert all(rung.auc.low <= rung.auc.value for rung in ladder.rungs)
    assert len(json.loads(ladder.to_json())["rungs"]) == 7


def test_the_same_call_gives_the_same_figures_in_any_order_and_batch(rows: Manifest, tmp_path: Path) -> None:
    first = robustness(Weave(), rows, tmp_path, ladders=FEW, replicates=50)
    assert robustness(Weave(), rows, tmp_path, ladders=FEW, replicates=50) == first
    shuffled = Manifest(rows.rows.sample(frac=1, random_state=1).reset_index(drop=True), rows.root)
    assert robustness(Weave(), shuffled, tmp_path, ladders=FEW, replicates=50, batch_size=5) == first
    other = robustness(Weave(), rows, tmp_path, ladders={"noise": (40,)}, replicates=50, seed=1)
    assert other.clean("set").auc.value == first.clean("set").auc.value


def test_finished_rungs_are_not_scored_again(rows: Manifest, tmp_path: Path) -> None:
    store, whole = tmp_path / "store", Weave()
    first = robustness(whole, rows, tmp_path, ladders=FEW, store=store, replicates=50)
    assert whole.calls == 7
    rungs = sorted(store.glob("*/*.npy"))
    assert len(rungs) == 7
    rungs[0].unlink()
    rungs[1].write_bytes(b"torn")
    again = Weave()
    assert robustness(again, rows, tmp_path, ladders=FEW, store=store, replicates=50) == first
    assert again.calls == 2
    changed = Weave()
    changed.digest = "another"
    robustness(changed, rows, tmp_path, ladders=FEW, store=store, replicates=50)
    assert changed.calls == 7


def test_a_detector_and_an_ensemble_climb_as_they_score(
    rows: Manifest, small: Callable[..., DetectorConfig], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    members = [Detector.create(small(seed=seed)) for seed in (0, 1)]
    ensemble = Ensemble(members, [0.5, 0.5], threshold=0.4)
    for model in (members[0], ensemble):
        ladder = robustness(model, rows, tmp_path, ladders={"gamma": (0.5,)}, replicates=50)
        targets, scores = rows.targets, score(model, rows, tmp_path)
        wins = (scores[targets == 1][:, None] > scores[targets == 0]).mean()
        assert ladder.clean("set").auc.value == pytest.approx(wins, abs=1e-6)
        assert ladder.threshold == model.threshold


def test_one_class_has_errors_but_no_auc(rows: Manifest, tmp_path: Path) -> None:
    ladder = robustness(Weave(), rows.select(label="real"), tmp_path, ladders={"blur": (1.0,)}, replicates=50)
    assert math.isnan(ladder.worst("set").auc.value)
    assert ladder.worst("set").kind == CLEAN
    assert ladder.clean("set").fpr.value == 0
    assert json.loads(ladder.to_json())["rungs"][0]["auc"]["value"] is None
    assert robustness_figure(ladder).axes


def test_no_rows_are_refused(rows: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rows to degrade"):
        robustness(Weave(), rows.where(np.zeros(len(rows), dtype=bool)), tmp_path)


def test_the_figure_has_a_column_a_degradation(rows: Manifest, tmp_path: Path) -> None:
    ladder = robustness(Weave(), rows, tmp_path, ladders=FEW, replicates=50)
    figure = robustness_figure(ladder)
    assert len(figure.axes) == 6
    figure.savefig(tmp_path / "ladder.png")
    assert robustness_figure(Ladder(0.5, ladder.rungs[:1])).axes  # clean alone
