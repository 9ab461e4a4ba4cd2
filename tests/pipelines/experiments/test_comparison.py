"""A planted effect is found, none is reported as none, and a killed comparison ends in the same table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from scipy.special import expit

from core.config import read_yaml
from core.files import strict_json
from pipelines.cli import main
from pipelines.configuration import ARMS, RunConfig
from pipelines.experiments.arms import forged, trials_to_compare
from pipelines.experiments.comparison import NO_DIFFERENCE, Comparison, conclusions, described, outcome, tabulate
from tests.pipelines.synthetic_faces import configuration, pictures
from tracking.store import open_store

ROOT = Path(__file__).parents[3]


def tables(effect: float, seeds: int = 3) -> dict[tuple[str, int], pd.DataFrame]:
    """Score tables of two arms on one dataset of 120 sources of 3 frames."""
    random = np.random.default_rng(0)
    fake = np.repeat(np.arange(120) % 2, 3)
    common = np.repeat(random.normal(0, 1, 120), 3)
    rows = pd.DataFrame(
        {
            "sha256": [f"{i:064x}" for i in range(360)],
            "dataset": "far",
            "label": np.where(fake, "fake", "real"),
            "method": np.where(fake, "m", "pristine"),
            "source": np.repeat(np.arange(120), 3).astype(str),
            "group": np.repeat(np.arange(120), 3).astype(str),
        }
    )
    return {
        (arm, seed): rows.assign(score=expit((0.8 + shift) * fake + common + random.normal(0, 0.4, 360)))
        for arm, shift in (("none", 0.0), ("gan", effect))
        for seed in range(seeds)
    }


def said(effect: float, seeds: int = 3) -> tuple[str, ...]:
    _, differences = tabulate(tables(effect, seeds), "none")
    return conclusions(differences, "none", ("gan",), seeds)


def test_a_planted_effect_is_found() -> None:
    assert said(1.0)[0].startswith("Synthetic faces helped on far: gan +0.")
    assert said(-1.0)[0].startswith("Synthetic faces did harm on far: gan -0.")


def test_no_effect_is_reported_as_none() -> None:
    headline, single = said(0.0)
    assert headline.startswith("Synthetic faces did not help on far: ")
    assert NO_DIFFERENCE in single


def test_nothing_is_claimed_from_one_seed() -> None:
    headline, single = said(1.0, seeds=1)
    assert "helped" not in headline + single
    assert headline.startswith("The effect of synthetic faces on far is inconclusive: +0.")
    assert "95 % interval excludes zero, but" in single
    assert outcome(0.1, 0.2, 0.2, 3) == "perhaps"
    assert outcome(0.1, 0.2, 0.01, 2) == "perhaps"
    assert outcome(float("nan"), float("nan"), float("nan"), 3) == "unknown"


def test_arms_differ_in_one_thing() -> None:
    config = RunConfig.model_validate({"project": "p", "out": "o", "embedded": True, "datasets": {"train": ["a"]}})
    trials = trials_to_compare(config)
    specs = {arm: trials[arm, 1] for arm in ARMS}
    plain = specs["none"]
    assert plain.detector.balance == "none"
    assert plain.detector.seed == 1
    for arm, spec in specs.items():
        changed = {name for name, value in spec.detector if getattr(plain.detector, name) != value}
        assert changed == ({"balance"} if arm in ("class weights", "oversampling") else set())
        assert bool(spec.synthetic_share) == (arm in forged(ARMS))
    assert specs["gan"].balancing().seed != trials["gan", 2].balancing().seed


@pytest.mark.parametrize("difference", [-0.2, 0.0, 0.2])
def test_the_run_says_what_can_be_told_and_otherwise_that_nothing_can(difference: float) -> None:
    interval = {"arm": "gan", "dataset": "far", "low": difference - 0.1, "high": difference + 0.1}
    differences = pd.DataFrame([interval | {"value": difference, "p_holm": 0.01 if difference else 1.0}])
    told = conclusions(differences, "none", ("gan",) if difference else (), 3)
    row = {"dataset": "far", "auc": 0.7, "low": 0.6, "high": 0.8}
    result = Comparison(
        reference="none",
        seeds=(0, 1, 2),
        table=pd.DataFrame([row | {"arm": "none"}, row | {"arm": "gan"}]),
        differences=differences,
        detectors=pd.DataFrame(),
        conclusions=told,
        hours={},
        folder=Path(),
        run="",
    )
    bullets = [line[2:] for line in described(result).splitlines() if line.startswith("- ")]
    assert bullets == (list(told) if difference else ["no significant difference between any arm and 'none'"])
    assert "| gan | 0.700 [0.600, 0.800] |" in described(result)


# --- by the command that users type


@pytest.fixture
def config(tmp_path: Path) -> Path:
    pictures(tmp_path / "near", 24, 0, real=90, fake=30)
    pictures(tmp_path / "far", 8, 1, real=40, fake=40)
    return configuration(tmp_path, ("near", "far"))


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", "from pipelines.cli import main; main()", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": ""}


def compare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["counterforge", "compare", *words, "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    return json.loads(capsys.readouterr().out)


def test_killed_it_ends_in_the_same_table_and_doubles_no_run(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        command("compare", str(config), "--workers", "2"), cwd=tmp_path, env=environment(), **silent
    )
    deadline = time.monotonic() + 200
    while len(list((tmp_path / "out").glob("detectors/*/trained-*.json"))) < 1:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    assert not psutil.wait_procs(workers, timeout=60)[1]  # none goes on, nor sleeps with the database locked
    resumed = compare(monkeypatch, capsys, str(config))
    assert len(resumed["table"]) == 6  # two arms on two datasets and their mean
    assert len(resumed["differences"]) == 3
    assert resumed["openings"] == {"near": 1, "far": 1}

    again = compare(monkeypatch, capsys, str(config))
    assert again["table"] == resumed["table"]
    assert again["openings"] == resumed["openings"]

    undisturbed = compare(
        monkeypatch, capsys, str(config), "--set", f"out={tmp_path}/o2", "--set", f"mlruns={tmp_path}/m2"
    )
    for before, after in zip(resumed["table"], undisturbed["table"], strict=True):
        assert before["per_seed"] == pytest.approx(after["per_seed"], abs=1e-9)
        assert (before["low"], before["high"]) == pytest.approx((after["low"], after["high"]), abs=1e-9)

    store = open_store(tmp_path / "mlruns")
    runs = store.client.search_runs([store.experiment("weave")], max_results=100)
    assert len(runs) == 1 + 2 + 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    parents = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs}
    top = resumed["run"]
    arms = [run for run, parent in parents.items() if parent == top]
    assert len(arms) == 2
    assert sum(parent in arms for parent in parents.values()) == 4
    models = store.client.search_logged_models([store.experiment("weave")])
    assert len(models) == 4
    assert all({"auc/near", "auc/far", "auc_low/far"} <= {m.key for m in model.metrics} for model in models)
    note = store.client.get_run(top).data.tags["mlflow.note.content"]
    told = [sentence for sentence in resumed["conclusions"] if NO_DIFFERENCE not in sentence]
    assert all(sentence in note for sentence in told or [NO_DIFFERENCE])
    assert "| arm | far | near | mean |" in note
    folder = Path(resumed["folder"])
    assert json.loads(strict_json(Comparison.from_json(folder / "comparison.json").to_json())) == again
    assert (folder / "forest.png").read_bytes().startswith(b"\x89PNG")
    assert resumed["conclusions"] == (folder / "conclusions.txt").read_text().split("\n\n")[0].splitlines()


@pytest.fixture
def fail(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    def call(*settings: str) -> str:
        words = [word for setting in settings for word in ("--set", setting)]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["counterforge", "compare", str(config), *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    return call


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["comparison.arms=[]"], "no arm to compare"),
        (["comparison.arms=[none]"], "name a second arm"),
        (["comparison.arms=[none, gan-compsite]"], "did you mean 'gan-composite'?"),
        (["comparison.arms=[none, self-blend+gann]"], "there is no arm 'self-blend+gann'"),
        (["comparison.arms=[none, gan, gan]"], "the arm 'gan' stands twice"),
        (["comparison.arms=[class weights, oversampling]"], "the reference 'none' is not among the arms"),
        (["comparison.seeds=[0, 1, 0]"], "the seed 0 stands twice"),
        (["comparison.seeds=[]"], "no seed"),
        (["comparison.arms=[none, gan]", "comparison.generator=none"], "the arm gan needs a generator"),
        (["comparison.arms=[none, gan]", "comparison.generator=nowhere"], "nowhere"),
        (["comparison.arms=[none, gan-composite]", "gan.image_size=16"], "needs faces of 24 pixels"),
        (["comparison.arms=[none, self-blend]", "synthetic_share=0.1"], "no arm would get a synthetic face"),
        (["datasets.test=[elsewhere]"], "elsewhere"),
        (["detector.paired=true"], "the arm oversampling cannot be trained with these settings"),
    ],
)
def test_a_mistake_is_one_sentence(fail: Callable[..., str], settings: list[str], sentence: str) -> None:
    assert sentence in fail(*settings)


def test_a_test_dataset_of_one_class_is_named(fail: Callable[..., str], config: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "lone", 0, 2, real=30, fake=0)
    content = read_yaml(config)
    lone = {"dataset": "lone", "source": str(tmp_path / "lone"), "already_cropped": True}
    sentence = fail(f"faces={json.dumps([*content['faces'], lone])}")
    assert "lone" in sentence
