"""Figures: that they say the numbers they were given, stand awkward input, and leave pyplot alone."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from sklearn.metrics import average_precision_score, precision_recall_curve

from classifier.evaluation import Evaluation, evaluate, score_table
from classifier.figures import (
    confusion_matrices,
    evaluation_figures,
    generalisation_matrix,
    precision_recall_curves,
    reliability_diagram,
    roc_curves,
    score_histograms,
)


def make_rows(datasets: int = 2, people: int = 20, *, fakes_only: str = "") -> tuple[pd.DataFrame, np.ndarray]:
    """Rows and scores of datasets d0, d1, ...; one of them may hold fakes only."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(datasets):
        for person in range(people):
            for fake in range(f"d{number}" == fakes_only, 2):
                method = ("pristine", "face-swap", "gan")[fake * (1 + person % 2)]
                label = "fake" if fake else "real"
                rows.append((f"d{number}", label, method, f"{number}-{person}", f"{number}-{person}-{fake}"))
    frame = pd.DataFrame(rows, columns=["dataset", "label", "method", "identity", "source"])
    frame = frame.assign(sha256=[f"{i:064x}" for i in range(len(frame))])
    scores = 0.35 + 0.3 * (frame["label"] == "fake").to_numpy() + 0.2 * random.normal(size=len(frame))
    return frame, np.clip(scores, 0, 1)


def evaluated(**options: object) -> Evaluation:
    return evaluate(*make_rows(**options), 0.5, replicates=30)  # type: ignore[arg-type]


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def pixels(figure: Figure) -> np.ndarray:
    """The figure as it is drawn; drawing must not warn, say of labels that do not fit."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


@pytest.fixture(autouse=True)
def _pyplot_is_left_alone() -> Iterator[None]:
    yield
    assert pyplot.get_fignums() == []


pytestmark = pytest.mark.filterwarnings("error")


def test_roc_curves_name_each_data_set_and_its_interval() -> None:
    evaluation = evaluated()
    figure = roc_curves(evaluation)
    for name in ("d0", "d1"):
        auc = evaluation.results[name].intervals["auc"]
        assert f"{name}  {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]" in texts(figure)
    assert pixels(figure).shape[1] == 600


def test_a_data_set_of_one_class_has_no_curve() -> None:
    assert "d1" not in texts(roc_curves(evaluated(fakes_only="d1")))
    assert "no dataset holds both" in texts(roc_curves(evaluated(datasets=1, fakes_only="d0")))


def test_a_band_is_left_out_where_it_is_unknown() -> None:
    figure = roc_curves(evaluated(datasets=1, people=1))
    assert "[" not in texts(figure).split("d0")[1].splitlines()[0]
    pixels(figure)


def test_more_data_sets_than_colours_are_told_apart_by_dashes() -> None:
    figure = roc_curves(evaluated(datasets=9, people=3))
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
    assert len(looks) == len(set(looks)) == 9


def test_precision_recall_curves_are_scikit_learns_and_start_from_guessing() -> None:
    rows, scores = make_rows()
    table = score_table(rows, scores)
    figure = precision_recall_curves(table, threshold=0.5)
    (axes,) = figure.axes
    for name, of in table.groupby("dataset"):
        targets = (of["label"] == "fake").to_numpy(dtype=int)
        ap = average_precision_score(targets, of["score"])
        (line,) = (line for line in axes.lines if str(line.get_label()) == f"{name}  AP {ap:.3f}")
        precision, recall, _ = precision_recall_curve(targets, of["score"])
        drawn = dict(zip(np.round(line.get_xdata(), 12), line.get_ydata(), strict=True))
        assert set(drawn) == set(np.round(recall[recall > 0], 12))
        best = {r: precision[np.round(recall, 12) == r] for r in drawn}
        assert all(any(np.isclose(best[r], p)) for r, p in drawn.items())
        guessing = [line for line in axes.lines if list(line.get_ydata()) == [targets.mean()] * 2]
        assert len(guessing) >= 1
    pixels(figure)
    assert "no dataset holds both" in texts(precision_recall_curves(table[table["label"] == "fake"], 0.5))


def test_every_figure_of_an_evaluation_is_there() -> None:
    rows, scores = make_rows()
    found = evaluation_figures(evaluate(rows, scores, 0.5, by="source"), score_table(rows, scores))
    assert set(found) == {"roc", "precision_recall", "confusion", "reliability", "histograms"}


@pytest.mark.parametrize("datasets", [1, 2, 4])
def test_confusion_matrices_hold_the_counts(datasets: int) -> None:
    evaluation = evaluated(datasets=datasets)
    figure = confusion_matrices(evaluation)
    assert len(figure.axes) == datasets
    for name in evaluation.datasets:
        (tn, fp), (fn, tp) = evaluation.results[name].confusion
        for count, row in ((tn, tn + fp), (fp, tn + fp), (fn, fn + tp), (tp, fn + tp)):
            assert f"{count}\n{count / row:.1%}" in texts(figure)
    pixels(figure)


def test_a_confusion_matrix_without_reals_says_so() -> None:
    assert "none" in texts(confusion_matrices(evaluated(datasets=1, fakes_only="d0")))


def test_the_reliability_diagram_shows_the_bins_means() -> None:
    random = np.random.default_rng(0)
    s = random.random(3000)
    t = (random.random(3000) < s**2).astype(int)
    figure = reliability_diagram(t, s, bins=10)
    line = next(line for line in figure.axes[0].lines if len(line.get_xdata()) == 10)
    order = np.array_split(np.argsort(s), 10)
    np.testing.assert_allclose(line.get_xdata(), [s[block].mean() for block in order])
    np.testing.assert_allclose(line.get_ydata(), [t[block].mean() for block in order])
    assert "ECE 0.1" in texts(figure)
    pixels(figure)


@pytest.mark.parametrize("scores", [[0.5] * 6, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
def test_the_reliability_diagram_stands_few_distinct_scores(scores: list[float]) -> None:
    pixels(reliability_diagram([0, 0, 0, 1, 1, 1], scores))


def test_score_histograms_have_a_panel_for_each_method_reals_first() -> None:
    rows, scores = make_rows()
    figure = score_histograms(score_table(rows, scores), threshold=0.5)
    labels = [axes.get_ylabel().splitlines()[0] for axes in figure.axes]
    assert labels == ["pristine", "face-swap", "gan"]
    assert [sum(patch.get_height() for patch in axes.patches) for axes in figure.axes] == [40, 20, 20]
    assert "threshold 0.500" in texts(figure)
    pixels(figure)


def test_score_histograms_of_nothing_are_empty() -> None:
    pixels(score_histograms(score_table(*make_rows()).iloc[:0]))


def test_the_generalisation_matrix_shows_each_cell() -> None:
    values = pd.DataFrame([[0.912, 0.534], [np.nan, 1.0]], index=["a", "b + synthetic"], columns=["a", "b"])
    figure = generalisation_matrix(values, low=values - 0.03, high=values + 0.02)
    shown = texts(figure)
    for text in ("0.912", "0.88–0.93", "0.534", "–", "1.000", "b + synthetic", "trained on", "tested on", "AUC"):
        assert text in shown
    pixels(figure)


def test_the_generalisation_matrix_takes_its_names_from_the_table() -> None:
    values = pd.DataFrame([[0.4]], index=pd.Index(["with"], name="arm"), columns=pd.Index(["x"], name="test set"))
    shown = texts(generalisation_matrix(values, metric="recall", worst=0.0))
    assert "arm" in shown
    assert "test set" in shown
    assert "recall" in shown
