"""Evaluations: what is counted, averaged, pooled and compared; and that they come back from disk as they went."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from classifier.evaluation import (
    ALL,
    MEAN,
    TABLE_COLUMNS,
    WITH_INTERVALS,
    Evaluation,
    compare,
    evaluate,
    per_source,
    score_table,
)
from core.errors import UserError
from core.manifest import Manifest
from metrics.binary import NAMES, compute
from metrics.intervals import bootstrap_all, paired_difference


def make_manifest(seed: int = 0, people: int = 24) -> tuple[Manifest, np.ndarray]:
    """Two datasets: in `clips` people are filmed and forged in two ways; `photos` knows no identities."""
    random = np.random.default_rng(seed)
    rows, scores = [], []
    for person in range(people):
        ease = random.normal()
        for method in ("pristine", "face-swap", "gan"):
            fake = method != "pristine"
            for frame in range(3):
                identity = f"c{person}"
                rows.append(
                    {"dataset": "clips", "method": method, "identity": identity, "source": f"{identity}-{method}"}
                )
                scores.append((1.5 if method == "gan" else 0.7) * fake + 0.5 * ease + random.normal() - 0.5 + 0 * frame)
        rows.append({"dataset": "photos", "method": ("pristine", "face-swap")[person % 2], "source": f"p{person}"})
        scores.append(2.0 * (person % 2) - 1 + random.normal())
    for number, row in enumerate(rows):
        row |= {
            "path": f"{number}.png",
            "label": "real" if row["method"] == "pristine" else "fake",
            "split": "test",
            "width": 80,
            "height": 90,
            "codec": "png",
            "sha256": f"{number:064x}",
        }
    return Manifest.build(rows, Path("nowhere")), 1 / (1 + np.exp(-np.array(scores)))


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return make_manifest()[0]


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    return make_manifest()[1]


@pytest.fixture(scope="module")
def evaluation(manifest: Manifest, scores: np.ndarray) -> Evaluation:
    return evaluate(manifest.rows, scores, 0.45, replicates=200, seed=3)


def test_each_data_set_has_its_metrics_counts_and_intervals(
    evaluation: Evaluation, manifest: Manifest, scores: np.ndarray
) -> None:
    assert evaluation.datasets == ["clips", "photos"]
    for name, result in evaluation.results.items():
        keep = (manifest.rows["dataset"] == name).to_numpy(dtype=bool) | (name == ALL)
        t, s, g = manifest.targets[keep], scores[keep], manifest.groups[keep]
        assert tuple(result.metrics) == NAMES
        assert result.metrics == pytest.approx(compute(t, s, 0.45))
        assert (result.real, result.fake, result.groups) == ((t == 0).sum(), (t == 1).sum(), len(set(g)))
        assert result.confusion == (
            (((t == 0) & (s < 0.45)).sum(), ((t == 0) & (s >= 0.45)).sum()),
            (((t == 1) & (s < 0.45)).sum(), ((t == 1) & (s >= 0.45)).sum()),
        )
        assert tuple(result.intervals) == WITH_INTERVALS
        auc = bootstrap_all(t, s, g, ("auc",), replicates=200, seed=3)["auc"]
        assert result.intervals["auc"].value == result.metrics["auc"] == auc.value
        assert (result.intervals["auc"].low, result.intervals["auc"].high) == pytest.approx((auc.low, auc.high))
    assert evaluation.results["photos"].groups == 24  # without identity, the source
    assert evaluation.mean("auc") == pytest.approx(
        np.mean([evaluation.results[name].metrics["auc"] for name in ("clips", "photos")])
    )


def test_a_method_is_measured_against_all_reals_of_its_data_set(
    evaluation: Evaluation, manifest: Manifest, scores: np.ndarray
) -> None:
    rows = manifest.rows
    keep = ((rows["dataset"] == "clips") & rows["method"].isin(["pristine", "gan"])).to_numpy(dtype=bool)
    expected = roc_auc_score(manifest.targets[keep], scores[keep])
    assert set(evaluation.results["clips"].by_method) == {"face-swap", "gan"}
    assert evaluation.results["clips"].by_method["gan"] == pytest.approx(expected)
    assert evaluation.results["photos"].by_method["face-swap"] == evaluation.results["photos"].metrics["auc"]


def test_the_roc_curve_has_the_auc_and_lies_in_its_band(evaluation: Evaluation) -> None:
    for result in evaluation.results.values():
        roc = result.roc
        assert (roc.fpr[0], roc.tpr[0], roc.fpr[-1], roc.tpr[-1]) == (0, 0, 1, 1)
        assert np.trapezoid(roc.tpr, roc.fpr) == pytest.approx(result.metrics["auc"], abs=0.01)
        assert len(roc.fpr) == len(roc.threshold) == len(roc.low) <= 200
        assert roc.threshold[0] > 1
    fpr, tpr, low, high = (np.array(getattr(evaluation.results["clips"].roc, n)) for n in ("fpr", "tpr", "low", "high"))
    inside = (low <= tpr) & (tpr <= high)
    assert inside[fpr > 0].mean() > 0.9


def test_a_long_roc_curve_is_thinned_without_changing_it() -> None:
    random = np.random.default_rng(0)
    n = 4000
    rows = pd.DataFrame(
        {
            "sha256": [f"{i:064x}" for i in range(n)],
            "dataset": "one",
            "label": np.where(np.arange(n) % 2, "fake", "real"),
            "method": np.where(np.arange(n) % 2, "gan", "pristine"),
            "identity": pd.NA,
            "source": [f"s{i // 10}" for i in range(n)],
        }
    )
    s = np.clip(0.35 + 0.2 * (np.arange(n) % 2) + 0.15 * random.normal(size=n), 0, 1)
    result = evaluate(rows, s, 0.5, replicates=20).results["one"]
    assert 100 < len(result.roc.fpr) <= 200
    assert np.trapezoid(result.roc.tpr, result.roc.fpr) == pytest.approx(result.metrics["auc"], abs=1e-3)


def test_one_data_set_is_all(manifest: Manifest, scores: np.ndarray) -> None:
    keep = (manifest.rows["dataset"] == "photos").to_numpy(dtype=bool)
    found = evaluate(manifest.rows[keep], scores[keep], 0.5, replicates=20)
    assert found.results[ALL] == found.results["photos"]


def test_the_order_of_rows_does_not_matter(manifest: Manifest, scores: np.ndarray, evaluation: Evaluation) -> None:
    order = np.random.default_rng(0).permutation(len(manifest))
    again = evaluate(manifest.rows.iloc[order], scores[order], 0.45, replicates=200, seed=3)
    for name, result in again.results.items():
        assert result.metrics == pytest.approx(evaluation.results[name].metrics)
        assert result.intervals["auc"].low == pytest.approx(evaluation.results[name].intervals["auc"].low)


def test_by_source_the_probabilities_of_its_frames_are_averaged(manifest: Manifest, scores: np.ndarray) -> None:
    table = per_source(score_table(manifest.rows, scores))
    one = table[table["source"] == "c7-gan"]
    keep = (manifest.rows["source"] == "c7-gan").to_numpy(dtype=bool)
    assert one["score"].to_list() == [pytest.approx(scores[keep].mean())]
    assert one["group"].to_list() == ["c7"]
    found = evaluate(manifest.rows, scores, 0.45, by="source", replicates=100)
    assert (found.results["clips"].real, found.results["clips"].fake) == (24, 48)
    assert found.results["clips"].groups == 24
    frames = evaluate(manifest.rows, scores, 0.45, replicates=100).results["clips"]
    assert found.results["clips"].metrics["auc"] > frames.metrics["auc"]
    # Jensen: with as many frames in each source, the mean cannot have a worse proper score
    assert found.results["clips"].metrics["brier"] <= frames.metrics["brier"]
    assert found.results["clips"].metrics["log_loss"] <= frames.metrics["log_loss"]


def test_a_forgery_that_shares_its_source_s_name_stays_apart(manifest: Manifest, scores: np.ndarray) -> None:
    rows = manifest.rows.assign(source=manifest.rows["identity"].fillna(manifest.rows["source"]))
    table = per_source(score_table(rows, scores))
    assert len(table[table["group"] == "c3"]) == 3  # pristine, face-swap and gan


def test_it_comes_back_from_json(evaluation: Evaluation) -> None:
    assert Evaluation.from_json(evaluation.to_json()) == evaluation


def test_a_data_set_of_fakes_only_comes_back_with_what_is_undefined(manifest: Manifest, scores: np.ndarray) -> None:
    keep = (manifest.rows["method"] != "pristine").to_numpy(dtype=bool)
    found = evaluate(manifest.rows[keep], scores[keep], 0.5, replicates=50)
    text = found.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = Evaluation.from_json(text)
    assert again.to_json() == text
    result = again.results["clips"]
    assert math.isnan(result.metrics["auc"])
    assert math.isnan(result.by_method["gan"])
    assert result.roc.fpr == ()
    assert result.intervals["recall"].low < result.metrics["recall"] < result.intervals["recall"].high
    assert math.isnan(found.mean("auc"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"results": {}}', '{"results": {"x": {}}}'])
def test_something_else_is_not_an_evaluation(text: str) -> None:
    with pytest.raises(UserError, match="not an evaluation"):
        Evaluation.from_json(text)


def test_every_dataset_has_every_figure(evaluation: Evaluation) -> None:
    assert all(set(result.metrics) == set(NAMES) for result in evaluation.results.values())
    assert sum(len(result.by_method) for result in evaluation.results.values()) == 2 + 1 + 2
    clips = evaluation.results["clips"]
    assert (clips.intervals["auc"].value, clips.real) == (clips.metrics["auc"], 72)
    assert "brier" not in clips.intervals


def test_nothing_to_evaluate_is_a_user_s_mistake(manifest: Manifest) -> None:
    with pytest.raises(UserError, match="no rows to evaluate"):
        evaluate(manifest.rows.iloc[:0], [], 0.5)


def test_a_reserved_name_is_refused(manifest: Manifest, scores: np.ndarray) -> None:
    with pytest.raises(UserError, match="called 'mean'"):
        evaluate(manifest.rows.assign(dataset="mean"), scores, 0.5, replicates=5)


def test_scores_must_match_the_rows(manifest: Manifest, scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="rows"):
        score_table(manifest.rows, scores[1:])


def worse(scores: np.ndarray) -> np.ndarray:
    return np.clip(0.7 * scores + 0.3 * np.random.default_rng(9).random(len(scores)), 0, 1)


def test_stored_tables_are_compared_on_the_same_rows(manifest: Manifest, scores: np.ndarray, tmp_path: Path) -> None:
    a, b = score_table(manifest.rows, scores), score_table(manifest.rows, worse(scores))
    assert tuple(a.columns) == TABLE_COLUMNS
    a.to_parquet(tmp_path / "a.parquet")
    b.sample(frac=1, random_state=0).to_parquet(tmp_path / "b.parquet")  # in any order
    found = compare(pd.read_parquet(tmp_path / "a.parquet"), pd.read_parquet(tmp_path / "b.parquet"), replicates=200)
    assert list(found) == ["clips", "photos", MEAN, ALL]
    keep = (manifest.rows["dataset"] == "clips").to_numpy(dtype=bool)
    expected = paired_difference(
        manifest.targets[keep], scores[keep], worse(scores)[keep], manifest.groups[keep], replicates=200
    )
    assert found["clips"].value == pytest.approx(expected.value)
    assert (found["clips"].low, found["clips"].high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found[MEAN].value == pytest.approx((found["clips"].value + found["photos"].value) / 2)
    assert found["clips"].probability > 0.5


def test_sources_are_compared_after_averaging(manifest: Manifest, scores: np.ndarray) -> None:
    a, b = score_table(manifest.rows, scores), score_table(manifest.rows, worse(scores))
    frames, sources = (compare(a, b, by=by, replicates=50)["clips"] for by in ("frame", "source"))
    expected = [
        evaluate(manifest.rows, s, 0.5, by="source", replicates=5).results["clips"].metrics["auc"]
        for s in (scores, worse(scores))
    ]
    assert sources.value == pytest.approx(expected[0] - expected[1])
    assert sources.value != frames.value


def test_a_data_set_of_one_class_has_no_part_in_the_mean(manifest: Manifest, scores: np.ndarray) -> None:
    keep = ((manifest.rows["dataset"] == "clips") | (manifest.rows["label"] == "fake")).to_numpy(dtype=bool)
    a, b = score_table(manifest.rows[keep], scores[keep]), score_table(manifest.rows[keep], worse(scores)[keep])
    found = compare(a, b, replicates=50)
    assert math.isnan(found["photos"].value)
    assert found[MEAN] == found["clips"]


def test_different_rows_are_refused(manifest: Manifest, scores: np.ndarray) -> None:
    a = score_table(manifest.rows, scores)
    with pytest.raises(UserError, match="2 only in a, 0 only in b"):
        compare(a, a.iloc[2:])
    with pytest.raises(UserError, match="1 only in a, 1 only in b"):
        compare(a, a.assign(label=["fake" if i == 0 else label for i, label in enumerate(a["label"])]))
    with pytest.raises(UserError, match="empty"):
        compare(a.iloc[:0], a.iloc[:0])
    with pytest.raises(UserError, match="no column group"):
        compare(a.drop(columns="group"), a)
