"""Every benchmark starts, and ends with one JSON object, at the smallest size that it takes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gan.config import GanConfig
from gan.networks import Discriminator, Generator

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def as_scripts_are_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python puts a script's own folder first."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    torch.set_num_threads(threads)


def main(monkeypatch: pytest.MonkeyPatch, script: str, *words: str) -> None:
    """In this process: a new one loads torch for seconds."""
    monkeypatch.setattr("sys.argv", [script, *words])
    importlib.import_module(script).main()


def record_of(text: str, out: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(text)
    assert json.loads(out.read_text()) == record
    assert {"benchmark", "ratio", "goal", "met", "hardware", "versions", "date"} <= set(record)
    return record


def test_generator_speed_times_our_side_alone(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    words = ["--no-peer", "--image-size", "16", "--batch-size", "4", "--rounds", "2", "--threads", "1"]
    path = os.pathsep.join(filter(None, [str(BENCHMARKS.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(BENCHMARKS / "generator_speed.py"), *words, "--out", str(out)]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    record = record_of(ended.stdout, out)
    side = record["at"]["16 px"]["small"]
    assert len(side["rounds"]) == 2
    assert min(side["rounds"]) <= side["images_per_second"] <= max(side["rounds"])
    assert side["images_per_processor_second"] > 0
    assert side["peak_memory_mib"] > 100
    assert record["ratio"] == {}


def test_generator_cost_makes_a_table_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot = tmp_path / "new" / "cost.json", tmp_path / "new" / "cost.png"
    words = ["--preset", "tiny", "--sizes", "16", "32", "--batches", "4", "--seconds", "0.01", "--threads", "1"]
    main(monkeypatch, "generator_cost", *words, "--out", str(out), "--plot", str(plot))
    record = record_of(capsys.readouterr().out, out)
    table = record["seconds_of_1000_training_pictures"]
    assert record["ratio"] == pytest.approx(table["32"]["4"] / table["16"]["4"], abs=1e-2)
    assert record["met"] == (record["ratio"] <= record["goal"])
    assert set(record["samples_per_second"]) == {"16", "32"}
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("script", sorted(path.stem for path in BENCHMARKS.glob("generator_*.py")))
def test_every_benchmark_explains_itself(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(monkeypatch, script, "--help")
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "--device" in said
    assert "--out" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["generator_speed", "--steps", "6"], "--steps 6 is no multiple of 8"),
        (["generator_cost", "--sizes", "48"], "--sizes 48 is no power of two"),
        (["generator_cost", "--batches", "6"], "--batches 6 is no multiple of 4"),
        pytest.param(
            ["generator_speed"],
            "stylegan2-pytorch 1.9.0 is not importable: `pip install",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("stylegan2_pytorch") is not None, reason="stylegan2-pytorch is installed"
            ),
        ),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(monkeypatch, *words)
    assert end.value.code == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize(("size", "counts"), [(64, (13_300_000, 22_700_000)), (32, (5_312_672, 15_337_089))])
def test_equal_parameters_are_equal(size: int, counts: tuple[int, int]) -> None:
    """To what stylegan2-pytorch 1.9.0 counts at these sizes."""
    sides = importlib.import_module("sides")
    config = GanConfig(preset="small", image_size=size).resolved()
    channels = sides.matched_channels(config, *counts)
    with torch.device("meta"):
        generator = Generator(size, channels[0], z_width=128, w_width=128, mapping_depth=config.mapping_depth)
        discriminator = Discriminator(size, channels[1], blur=config.blur)
    assert sides.count(generator) == pytest.approx(counts[0], rel=sides.TOLERANCE)
    assert sides.count(discriminator) == pytest.approx(counts[1], rel=sides.TOLERANCE)


def test_audit_power_finds_what_is_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "power.json"
    words = ["--people", "8", "--strengths", "2", "--clean-sets", "1", "--processes", "1"]
    main(monkeypatch, "audit_power", *words, "--out", str(out))
    record = record_of(capsys.readouterr().out, out)
    assert set(record["confounds"]) == {"format", "size", "quality", "noise", "brightness"}
    assert record["confounds"]["size"]["found"] == {"2.0": True}
    assert record["clean_sets"]["sets"] == 1


def test_interval_coverage_counts_both_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "coverage.json"
    words = ["--draws", "4", "--replicates", "50", "--processes", "1"]
    main(monkeypatch, "interval_coverage", *words, "--out", str(out))
    record = record_of(capsys.readouterr().out, out)
    assert len(record["coverage"]) == 18
    assert record["mean"]["by_frame"] <= record["mean"]["ours"] <= 1
