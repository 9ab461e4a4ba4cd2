"""Awkward data: each case is a defined result, said in words, or one sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from classifier.config import DetectorConfig
from classifier.evaluation import Evaluation, evaluate, remark_on_training, remarks
from classifier.models.detector import Detector
from classifier.scoring import score
from core.errors import UserError
from core.manifest import Manifest


def rows(reals: int = 20, fakes: int = 20, name: str = "set", sources: int | None = None) -> pd.DataFrame:
    """Rows of `sources` sources a class, by default one each."""
    made = [
        {
            "sha256": f"{number:064x}",
            "path": f"{number}.png",
            "dataset": name,
            "label": label,
            "method": "pristine" if label == "real" else "gan",
            "identity": None,
            "source": f"{label}{number % (sources or 1000)}",
        }
        for label, count in (("real", reals), ("fake", fakes))
        for number in range(count)
    ]
    return pd.DataFrame(made)


def judged(table: pd.DataFrame, scores: np.ndarray | list[float]) -> Evaluation:
    return evaluate(table, scores, 0.5, replicates=200)


def test_swapped_labels_are_said_with_the_interval() -> None:
    table = rows()
    random = np.random.default_rng(0)
    good = np.clip((table["label"] == "fake") * 0.4 + 0.3 + random.normal(0, 0.1, 40), 0, 1).to_numpy()
    assert remarks(judged(table, good)) == []
    (told,) = remarks(judged(table, 1 - good))
    assert "the whole 95% interval of AUC" in told
    assert "swapped" in told
    interval = judged(table, 1 - good).results["set"].intervals["auc"]
    assert str(interval) in told


def test_below_half_by_chance_is_not_called_swapped() -> None:
    table = rows(6, 6)
    scores = np.where(table["label"] == "fake", 0.45, 0.5) + np.random.default_rng(2).normal(0, 0.15, 12)
    evaluation = judged(table, scores.clip(0, 1))
    assert evaluation.results["set"].metrics["auc"] < 0.5
    assert remarks(evaluation) == []


@pytest.mark.parametrize(("reals", "fakes", "only"), [(8, 0, "reals"), (0, 8, "fakes")])
def test_one_class(reals: int, fakes: int, only: str) -> None:
    evaluation = judged(rows(reals, fakes), [0.3] * 8)
    assert np.isnan(evaluation.results["set"].metrics["auc"])
    assert evaluation.results["set"].metrics["accuracy"] == (1.0 if reals else 0.0)
    (told,) = remarks(evaluation)
    assert f"has {only} only" in told


def test_all_scores_equal() -> None:
    evaluation = judged(rows(), [0.7] * 40)
    result = evaluation.results["set"]
    assert (result.metrics["auc"], result.metrics["recall"], result.metrics["fpr"]) == (0.5, 1.0, 1.0)
    assert result.metrics["eer"] == 0.5
    (told,) = remarks(evaluation)
    assert "all scores are equal" in told


def test_a_group_of_one_frame_counts_as_a_group() -> None:
    table = pd.concat([rows(9, 9, sources=3), rows(1, 1).assign(source=["real-alone", "fake-alone"])])
    table["sha256"] = [f"{number:064x}" for number in range(len(table))]
    scores = np.linspace(0.1, 0.9, len(table))
    evaluation = judged(table, scores)
    assert evaluation.results["set"].groups == 8
    assert not np.isnan(evaluation.results["set"].intervals["auc"].low)
    one_each = judged(rows(9, 9, sources=1), np.linspace(0.1, 0.9, 18))
    assert np.isnan(one_each.results["set"].intervals["auc"].low)
    (told,) = remarks(one_each)
    assert "no interval" in told


def test_scores_that_are_no_numbers_are_counted() -> None:
    scores = np.full(40, 0.5)
    scores[[7, 9]] = np.nan
    with pytest.raises(UserError, match=r"2 of 40 scores are no numbers \(first that of 7\.png\)"):
        judged(rows(), scores)


def test_an_arm_without_rows_is_named() -> None:
    with pytest.raises(UserError, match="no rows to evaluate"):
        judged(rows(0, 0).reindex(columns=rows(1, 1).columns), [])


def test_pictures_of_other_sizes_are_scored(
    small: Callable[..., DetectorConfig], write_faces: Callable[..., Manifest], tmp_path: Path
) -> None:
    """Small, large and oblong pictures, grey and with transparency, beside those of the network's own size."""
    manifest = write_faces(real=3, fake=3, splits=("test",))
    frame = manifest.rows.copy()
    for row, (size, mode) in enumerate([((7, 7), "RGB"), ((300, 200), "L"), ((64, 32), "RGBA"), ((1, 1), "RGB")]):
        file = manifest.files[row]
        Image.new(mode, size, 90).save(file)
        frame.loc[row, "sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    detector = Detector.create(small()).eval()
    scores = score(detector, Manifest.build(frame, manifest.root), tmp_path / "cache")
    assert scores.shape == (6,)
    assert np.isfinite(scores).all()


def test_training_that_only_ever_got_worse_on_val_is_said() -> None:
    def history(best: int, *aucs: float) -> dict[str, object]:
        return {"epochs": [{"epoch": n, "val_auc": auc} for n, auc in enumerate(aucs, 1)], "best_epoch": best}

    said = remark_on_training(history(1, 0.6, 0.4, 0.3, 0.35))
    assert said is not None
    assert "the first of 4 epochs was the best on val (AUC 0.600, the last 0.350)" in said
    assert remark_on_training(history(2, 0.6, 0.7, 0.3, 0.35)) is None
    assert remark_on_training(history(1, 0.6, 0.4)) is None
    assert remark_on_training({"epochs": [{"epoch": n} for n in range(1, 9)], "best_epoch": 1}) is None
