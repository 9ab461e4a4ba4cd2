"""The benchmarks of the detector start, and end with one JSON object, at the smallest size; their sums are right."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from faces.orl import embedded

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def as_scripts_are_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python puts a script's own folder first."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    torch.set_num_threads(threads)


def test_detector_speed_measures_every_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"
    words = ["--faces", "6", "--image-size", "32", "--batch-size", "4", "--rounds", "1", "--frozen-epochs", "2"]
    monkeypatch.setattr("sys.argv", ["detector_speed", *words, "--threads", "1", "--out", str(out)])
    importlib.import_module("detector_speed").main()
    record = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == record
    assert record["data"]["train"] == record["data"]["val"] == 12
    rates = {name: side["images_per_second"] for name, side in record["training"].items()}
    assert set(rates) == {"ours", "plain"}
    steps = record["step_by_step_images_per_second"]
    assert steps["steps"] == 2  # three batches, without the first
    assert record["ratio"]["share_of_bare_model"] == pytest.approx(steps["ours"] / steps["bare_model"], abs=1e-3)
    assert record["ratio"]["training"] == pytest.approx(rates["ours"] / rates["plain"], abs=1e-3)
    assert record["frozen_head_images_per_second"]["largest_difference_of_scores"] < 1e-4
    assert record["met"] == {name: record["ratio"][name] >= goal for name, goal in record["goal"].items()}


def test_selection_optimism_sees_the_bias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "selection.json"
    words = ["--seeds", "2", "--deals", "20", "--epochs", "6", "--image-size", "32", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["selection_optimism", *words])
    importlib.import_module("selection_optimism").main()
    record = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == record
    bias = record["bias"]
    assert bias["picked_on_test"] > bias["picked_on_val"], "the best test AUC is at least that of any other checkpoint"
    assert record["ratio"] == pytest.approx(abs(bias["picked_on_val"]) / bias["picked_on_test"], rel=0.01)
    assert [len(each) for each in record["bias_by_seed"].values()] == [2, 2]


def test_forensic_ablation_fills_its_table_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded(tmp_path / "faces")
    manifest, plot = tmp_path / "faces" / "manifest.parquet", tmp_path / "ablation.png"
    words = ["--kinds", "texture", "--seeds", "2", "--set", "image_size=32", "--set", "epochs=1", "--plot", str(plot)]
    monkeypatch.setattr("sys.argv", ["forensic_ablation", str(manifest), *words, "--work", str(tmp_path / "work")])
    script = importlib.import_module("forensic_ablation")
    script.main()
    record = json.loads(capsys.readouterr().out)
    per_seed = {(row["arm"], row["dataset"]): np.array(row["per_seed"]) for row in record["auc"]}
    datasets = {dataset for _, dataset in per_seed}
    assert len(per_seed) == 2 * len(datasets)
    assert {difference["dataset"] for difference in record["differences"]} == datasets
    for difference in record["differences"]:
        gain = per_seed["texture", difference["dataset"]] - per_seed["none", difference["dataset"]]
        assert difference["per_seed"] == pytest.approx(list(gain))
    assert plot.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(script, "refuse", pytest.fail)
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/*-*/weights.safetensors")}
    tabulate = script.tabulate

    def with_a_gap(*tables: object) -> tuple[pd.DataFrame, pd.DataFrame]:
        aucs, differences = tabulate(*tables)
        return aucs.assign(auc=aucs["auc"].where(aucs.index != 0)), differences

    monkeypatch.setattr(script, "tabulate", with_a_gap)
    script.main()
    again = json.loads(capsys.readouterr().out)
    assert again["auc"][1:] == record["auc"][1:]
    assert (record["ratio"], record["met"]) == (1, True)
    assert (again["ratio"], again["met"]) == (1 - 1 / len(per_seed), False), "a figure is not there"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/*-*/weights.safetensors")} == trained
    assert len(trained) == 4


def test_people_are_dealt_whole_and_aucs_are_scikit_learns() -> None:
    module = importlib.import_module("selection_optimism")
    random = np.random.default_rng(0)
    groups = np.array([f"s{number // 6}" for number in range(240)])
    targets = np.tile([0, 0, 0, 0, 1, 1], 40)
    parts = module.deal(groups, targets, 5, random)
    assert (sum(part.astype(int) for part in parts.values()) == 1).all()
    for part in parts.values():
        for column in part.T:
            assert len(set(groups[column]) & set(groups[~column])) == 0
    logits = random.integers(0, 9, (240, 5)).astype(float)  # with ties
    expected = [roc_auc_score(targets[here], logits[here, place]) for place, here in enumerate(parts["test"].T)]
    np.testing.assert_allclose(module.column_aucs(logits, targets, parts["test"]), expected, rtol=1e-12)


def test_scoring_memory_measures_a_process_for_every_number_of_crops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "memory.json"
    words = ["--counts", "4", "70", "--image-size", "32", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["scoring_memory", *words])
    importlib.import_module("scoring_memory").main()
    record = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == record
    few, many = record["runs"]
    assert (few["crops"], many["crops"]) == (4, 70)
    assert all(100 < run["before_mib"] <= run["peak_mib"] for run in (few, many))
    assert record["ratio"] == pytest.approx(many["peak_mib"] / few["peak_mib"], abs=2e-3)
    assert record["met"] == (record["ratio"] <= record["goal"])


def test_scoring_memory_refuses_counts_that_do_not_rise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["scoring_memory", "--counts", "70", "4"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module("scoring_memory").main()
    assert end.value.code == 2
    assert "--counts" in capsys.readouterr().err
