"""What each training has seen and not seen, in three layouts; and a matrix by the command that users type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from core.errors import UserError
from core.manifest import Manifest
from pipelines.cli import main
from pipelines.configuration import MatrixConfig
from pipelines.experiments.generalisation import Row, columns_of, rows_of
from tests.pipelines.synthetic_faces import configuration, pictures
from tracking.store import open_store


def manifest(tmp_path: Path, *, splits: dict[str, tuple[str, ...]], methods: dict[str, tuple[str, ...]]) -> Manifest:
    """Two reals and two fakes of each method, for each dataset and split."""
    rows: list[dict[str, object]] = []
    for dataset, present in splits.items():
        for split in present:
            for method in ("pristine", *methods[dataset]):
                for number in range(2):
                    name = f"{dataset}-{split}-{method}-{number}"
                    label = "real" if method == "pristine" else "fake"
                    rows.append({"path": f"{name}.png", "label": label, "dataset": dataset, "method": method})
                    rows[-1] |= {"source": name, "split": split, "width": 9, "height": 9, "codec": "png"}
                    rows[-1] |= {"sha256": f"{len(rows):064x}"}
    return Manifest.build(rows, tmp_path)


ALL = ("train", "val", "test")


@pytest.fixture
def three(tmp_path: Path) -> Manifest:
    """Two datasets to train on, and one to test on only."""
    return manifest(
        tmp_path,
        splits={"a": ALL, "b": ALL, "c": ("val", "test")},
        methods={"a": ("swap", "gan"), "b": ("gan",), "c": ("swap", "edit")},
    )


def table(mode: str, full: Manifest) -> tuple[list[Row], list[str], list[str], list[list[bool]]]:
    config = MatrixConfig.model_validate({"mode": mode})
    rows, notes = rows_of(config, full)
    columns = columns_of(config, rows, full.select(split="test"))
    return rows, notes, [c.name for c in columns], [[row.has_seen(c, full) for c in columns] for row in rows]


def test_one_by_one_has_what_was_seen_on_the_diagonal(three: Manifest) -> None:
    rows, notes, columns, seen = table("one-by-one", three)
    assert [row.name for row in rows] == ["a", "b"]
    assert columns == ["a", "b", "c"]
    assert seen == [[True, False, False], [False, True, False]]
    assert notes == ["c is tested on only: it has no real face in train"]


def test_leaving_a_data_set_out_has_what_was_not_seen_on_the_diagonal(three: Manifest) -> None:
    rows, _, columns, seen = table("leave-one-dataset-out", three)
    assert [(row.name, row.datasets) for row in rows] == [("all but a", ("b",)), ("all but b", ("a",))]
    assert columns == ["a", "b", "c"]
    assert seen == [[False, True, False], [True, False, False]]


def test_leaving_a_method_out_hides_it_from_training_only(three: Manifest) -> None:
    rows, _, columns, seen = table("leave-one-method-out", three)
    assert columns == ["gan", "swap", "edit"]
    assert [row.without for row in rows] == ["gan", "swap"]
    assert seen == [[False, True, False], [True, False, False]]
    for row in rows:
        left = row.manifest(three)
        assert row.without not in set(left.select(split=("train", "val")).rows["method"])
        assert left.select(split="test").digest == three.select(split="test").digest
        assert len(left.select(label="real")) == len(three.select(label="real"))


def test_a_method_stands_against_the_reals_of_its_data_sets(three: Manifest) -> None:
    config = MatrixConfig(mode="leave-one-method-out")
    test = three.select(split="test")
    columns = {c.name: test.where(c.keep).rows for c in columns_of(config, rows_of(config, three)[0], test)}
    assert set(columns["gan"]["dataset"]) == {"a", "b"}
    assert set(columns["edit"]["dataset"]) == {"c"}
    assert set(columns["swap"]["method"]) == {"pristine", "swap"}


@pytest.mark.parametrize(
    ("config", "splits", "methods", "sentence"),
    [
        ({}, {"a": ("test",)}, {"a": ("m",)}, "no dataset can be trained on"),
        ({"datasets": ("x",)}, {"a": ALL}, {"a": ("m",)}, "matrix.datasets names 'x'"),
        ({"datasets": ("b",)}, {"a": ALL, "b": ("test",)}, {"a": ("m",), "b": ("m",)}, "b is tested on only"),
        ({"mode": "leave-one-dataset-out"}, {"a": ALL}, {"a": ("m",)}, "there is a alone"),
        ({"mode": "leave-one-method-out"}, {"a": ALL}, {"a": ("m",)}, "are all 'm'"),
    ],
)
def test_what_cannot_be_laid_out_is_one_sentence(
    tmp_path: Path, config: dict[str, Any], splits: dict[str, Any], methods: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        rows_of(MatrixConfig.model_validate(config), manifest(tmp_path, splits=splits, methods=methods))


def matrix(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["counterforge", "matrix", *words, "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    return json.loads(capsys.readouterr().out)


def test_the_models_carry_their_cells_and_can_be_sorted_by_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (name, contrast) in enumerate((("near", 24), ("far", 12))):
        pictures(tmp_path / name, contrast, number, real=60, fake=60, methods=("weave", "mesh"))
    config = configuration(tmp_path, ("near", "far"))
    found = matrix(monkeypatch, capsys, str(config))
    again = matrix(monkeypatch, capsys, str(config))
    assert found == again
    assert found["openings"] == {"near": 1, "far": 1}
    cells = {(cell["trained_on"], cell["tested_on"]): cell for cell in found["cells"]}
    assert len(cells) == 4
    store = open_store(tmp_path / "mlruns")
    order = {"field_name": "metrics.auc/far", "ascending": False}
    models = store.client.search_logged_models([store.experiment("weave")], order_by=[order])
    board = pd.DataFrame({m.tags["trained_on"]: {p.key: p.value for p in m.metrics} for m in models}).T
    assert board["auc/far"].is_monotonic_decreasing
    for row in found["summary"]:
        name, other = row["trained_on"], {"near": "far", "far": "near"}[row["trained_on"]]
        assert row["in_dataset"] == cells[name, name]["auc"] == pytest.approx(board.loc[name, f"auc/{name}"], abs=1e-12)
        assert row["worst_unseen"] == row["mean_unseen"] == cells[name, other]["auc"]
        assert row["worst_on"] == other
        assert board.loc[name, "auc_worst_unseen"] == pytest.approx(row["worst_unseen"], abs=1e-12)
    assert (Path(found["folder"]) / "matrix.png").read_bytes().startswith(b"\x89PNG")

    methods = matrix(monkeypatch, capsys, str(config), "--mode", "leave-one-method-out")
    by_method = {(cell["trained_on"], cell["tested_on"]): cell for cell in methods["cells"]}
    assert [by_method[f"all but {m}", m]["seen"] for m in ("mesh", "weave")] == [False, False]
    assert methods["openings"] == {"near": 2, "far": 2}
    both = {"real": by_method["all but mesh", "mesh"]["real"], "fake": by_method["all but mesh", "mesh"]["fake"]}
    total = sum(cells["near", name]["fake"] for name in ("near", "far"))
    assert both["real"] == sum(cells["near", name]["real"] for name in ("near", "far"))
    assert both["fake"] + by_method["all but mesh", "weave"]["fake"] == total
    assert np.isfinite([cell["low"] for cell in methods["cells"]]).all()
