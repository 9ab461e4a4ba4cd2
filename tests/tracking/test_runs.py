"""Runs: one piece of work, one run, and a status that is always right."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name
from PIL import Image

import tracking
from tracking.runs import (
    MAX_PARAM,
    Run,
    attach,
    fail_left_running,
    find_run,
    flattened,
    git_commit,
    metric_name,
    run,
    shortened,
)
from tracking.runs import test_openings as openings_of_test  # under its own name pytest would run it
from tracking.store import Store, TrackingError

PROJECT = Path(tracking.__file__).parents[1]


def status(store: Store, run_id: str) -> str:
    return str(store.client.get_run(run_id).info.status)


def tags(store: Store, run_id: str) -> dict[str, str]:
    return dict(store.client.get_run(run_id).data.tags)


def history(handle: Run, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in handle.store.client.get_metric_history(handle.id, key)]


@pytest.mark.parametrize(
    ("error", "marked", "ending", "tag", "why"),
    [
        (None, None, "FINISHED", None, None),
        (SystemExit(0), None, "FINISHED", None, None),
        (SystemExit(2), None, "FAILED", "error", "SystemExit: 2"),
        (ValueError("loss is nan at step 3"), None, "FAILED", "error", "ValueError: loss is nan at step 3"),
        (KeyboardInterrupt(), None, "KILLED", "killed_because", "interrupted"),
        (RuntimeError("trial pruned"), "pruned at epoch 2", "KILLED", "killed_because", "pruned at epoch 2"),
        (None, "pruned at epoch 3", "KILLED", "killed_because", "pruned at epoch 3"),
    ],
)
def test_the_status_says_how_it_ended(
    store: Store, experiment: str, error: Any, marked: str | None, ending: str, tag: str | None, why: str | None
) -> None:
    passes_through = pytest.raises(type(error)) if error is not None else nullcontext()
    with passes_through, run(store, experiment, "r", key="k") as handle:
        assert status(store, handle.id) == "RUNNING"
        if marked:
            handle.killed(marked)
        if error is not None:
            raise error
    assert status(store, handle.id) == ending
    found = tags(store, handle.id)
    assert {name: found[name] for name in ("error", "killed_because") if name in found} == ({tag: why} if tag else {})


def test_running_again_reopens_the_run_and_forgets_its_error(store: Store, experiment: str) -> None:
    with pytest.raises(ValueError, match="boom"), run(store, experiment, "r", key="k", tags={"a": 1}) as first:
        raise ValueError("boom")
    with run(store, experiment, "r renamed", key="k", tags={"b": 2}) as second:
        assert (second.id, second.reopened, first.reopened) == (first.id, True, False)
        assert status(store, second.id) == "RUNNING"
    found = store.client.get_run(first.id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "r renamed"
    assert "error" not in found.data.tags
    assert {
        "a": "1",
        "b": "2",
        "counterforge.attempts": "2",
        "counterforge.key": "k",
    }.items() <= found.data.tags.items()
    assert len(store.client.search_runs([first.experiment_id])) == 1
    assert find_run(store, experiment, "k") == first.id
    assert find_run(store, experiment, "other") is None


def test_keys_belong_to_an_experiment_and_cannot_break_the_search(store: Store, experiment: str) -> None:
    with run(store, experiment, "r", key="k") as one, run(store, f"{experiment} 2", "r", key="k") as two:
        assert one.id != two.id
    with pytest.raises(TrackingError, match="without quotes"):
        find_run(store, experiment, "k' OR '1'='1")


CHILD = """
import os, signal, sys; from pathlib import Path
from tracking.store import open_store
from tracking.runs import run
root, experiment, parent, kill = sys.argv[1:]
with run(open_store(Path(root)), experiment, "child", key="child", parent=parent, params={"epochs": 9}) as r:
    for step in range(int(kill)):
        r.metrics({"loss": 1 / (step + 1)}, step)
    if kill == "5":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_continues_its_run_under_its_parent(store: Store, experiment: str) -> None:
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(PROJECT)}
    with run(store, experiment, "study", key="study") as parent:
        command = [sys.executable, "-c", CHILD, str(store.root), experiment, parent.id]
        assert subprocess.run([*command, "5"], env=env, timeout=120).returncode == -signal.SIGKILL
        (orphan,) = store.client.search_runs([parent.experiment_id], "run_name = 'child'")
        assert orphan.info.status == "RUNNING"
        assert subprocess.run([*command, "8"], env=env, timeout=120).returncode == 0
    (child,) = store.client.search_runs([parent.experiment_id], "run_name = 'child'")
    assert child.info.run_id == orphan.info.run_id
    assert child.info.status == "FINISHED"
    assert child.data.tags["mlflow.parentRunId"] == parent.id
    # Steps 0..4 were logged by the killed process and again by the second one: each is kept once.
    assert history(attach(store, child.info.run_id), "loss") == [(step, 1 / (step + 1)) for step in range(8)]


def test_reopened_runs_drop_repeated_points_but_take_corrected_last_ones(store: Store, experiment: str) -> None:
    with run(store, experiment, "r", key="k") as first:
        for step in range(3):
            first.metrics({"loss": step, "gap": math.nan}, step)
        first.metrics({"auc": 0.8})
    with run(store, experiment, "r", key="k") as again:
        for step in range(5):
            again.metrics({"loss": step, "gap": math.nan, "new": step}, step)
        again.metrics({"auc": 0.9})
    assert [step for step, _ in history(again, "loss")] == [0, 1, 2, 3, 4]
    assert [step for step, _ in history(again, "gap")] == [0, 1, 2, 3, 4]
    assert [step for step, _ in history(again, "new")] == [0, 1, 2, 3, 4]
    assert store.client.get_run(again.id).data.metrics["auc"] == 0.9


def test_metrics_names_and_values(store: Store, experiment: str) -> None:
    with run(store, experiment, "r", key="k") as handle:
        handle.metrics({"auc/celeb-df (v2)": 1, "fpr@95%": 0.5, "inf": math.inf} | {f"m{i}": i for i in range(1500)})
        with pytest.raises(TrackingError, match=r"two metrics are called 'a_b'"):
            handle.metrics({"a(b": 1, "a)b": 2})
        with pytest.raises(TrackingError, match=r"metric 'loss' is 'high', which is not a number"):
            handle.metrics({"loss": "high"})  # type: ignore[dict-item]
        with pytest.raises(TrackingError, match="cannot name a metric"):
            handle.metrics({"..": 1})
    found = store.client.get_run(handle.id).data.metrics
    assert len(found) == 1503
    assert found["auc/celeb-df _v2_"] == 1
    assert found["fpr_95_"] == 0.5
    assert found["inf"] == sys.float_info.max


@given(st.text(max_size=60))
def test_every_name_is_accepted_by_mlflow_or_refused_by_us(name: str) -> None:
    try:
        clean = metric_name(name)
    except TrackingError:
        return
    _validate_metric_name(clean)
    assert metric_name(clean) == clean


@given(st.text(), st.integers(40, 80))
def test_shortened_keeps_the_limit(text: str, limit: int) -> None:
    short = shortened(text, limit)
    assert len(short) <= limit
    assert short == text or short.endswith(f"({len(text)} characters)")


def test_params_are_flat_long_many_and_idempotent(store: Store, experiment: str) -> None:
    assert flattened({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}
    params = {"train": {"epochs": 3}, "long": "x" * 9000} | {f"p{i}": i for i in range(250)}
    with run(store, experiment, "r", key="k", params=params) as handle:
        handle.params(params)
        found = store.client.get_run(handle.id).data.params
        assert found["train.epochs"] == "3"
        assert len(found["long"]) == MAX_PARAM
        assert found["long"].endswith("(9000 characters)")
        assert len(found) == 252
    with run(store, experiment, "r", key="k", params=params | {"p0": "changed"}) as again:
        pass
    assert store.client.get_run(again.id).data.params == found
    assert tags(store, again.id)["changed.p0"] == "changed"


def test_tags_say_what_code_ran_and_why(store: Store, experiment: str) -> None:
    with run(store, experiment, "r", key="k", tags={"note": "n" * 9000, "n (1)": 1}, description="*why*") as handle:
        pass
    found = tags(store, handle.id)
    assert len(found["note"]) == 5000
    assert found["n _1_"] == "1"
    assert found["mlflow.note.content"] == "*why*"
    assert found.get("mlflow.source.git.commit") == git_commit()


def test_artifacts_of_every_kind(store: Store, experiment: str, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "a.txt").write_text("a")
    Image.new("RGB", (4, 4)).save(tmp_path / "x.jpg")
    with run(store, experiment, "r", key="k") as handle:
        handle.figure(Figure(), "curve")
        handle.figure(Figure(), "deep/grid.jpg")
        handle.text("report.html", "<p>ü</p>")
        handle.artifact(tmp_path / "folder", "extra")
        handle.artifact(tmp_path / "x.jpg")
        with pytest.raises(TrackingError, match="does not exist and cannot be logged"):
            handle.artifact(tmp_path / "none")
    base = Path(store.client.download_artifacts(handle.id, ""))
    found = {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()}
    figures = {"figures/curve.png", "figures/deep/grid.jpg"}
    assert found == figures | {"report.html", "extra/folder/sub/a.txt", "x.jpg"}
    assert (base / "report.html").read_text() == "<p>ü</p>"


def test_data_sets_are_named_and_not_copied(store: Store, experiment: str) -> None:
    import mlflow.data

    with run(store, experiment, "r", key="k") as handle:
        for _ in range(2):
            handle.dataset("faces", "0123456789abcdef", "data/manifest.parquet", {"real": 7, "fake": 3}, "train")
        with pytest.raises(TrackingError, match="at most 36"):
            handle.dataset("faces", "0" * 64, "x", {}, "train")
    (used,) = store.client.get_run(handle.id).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("faces", "0123456789abcdef")
    assert json.loads(used.dataset.profile) == {"real": 7, "fake": 3}
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "train")]
    assert mlflow.data.get_source(used).to_dict() == {"uri": "data/manifest.parquet"}


def test_looks_at_the_test_rows_are_counted(store: Store, experiment: str) -> None:
    for key, opening in (("one", "aa"), ("two", "aa"), ("two", "bb")):
        with run(store, experiment, key, key=key) as handle:
            handle.opened_test(opening, ["celeb"], "a model")
    handle.opened_test("bb", ["celeb", "other/set"], "a model")
    assert openings_of_test(store, experiment) == {"celeb": 2, "other/set": 1}
    handle.metrics({"test_opened/celeb": 3})  # as versions before counted
    assert openings_of_test(store, experiment) == {"celeb": 5, "other/set": 1}


def test_unknown_runs_are_named(store: Store) -> None:
    with pytest.raises(TrackingError, match=r"cannot find the run 0123 .*check the name or id"):
        attach(store, "0123")


def test_what_a_killed_process_left_running_is_closed_with_a_reason(store: Store, experiment: str) -> None:
    with run(store, experiment, "study", key="study") as parent:
        open_ones = [run(store, experiment, name, key=name, parent=parent.id) for name in ("trial-000", "review")]
        lost, other = (each.__enter__() for each in open_ones)
        with run(store, experiment, "trial-001", key="2", parent=parent.id) as done:
            pass
        assert fail_left_running(store, experiment, parent.id, "its worker was killed", "trial-") == [lost.id]
        assert [status(store, each.id) for each in (lost, other, done)] == ["FAILED", "RUNNING", "FINISHED"]
        assert tags(store, lost.id)["error"] == "its worker was killed"


RACER = """
import sys, time; from pathlib import Path
from tracking.store import open_store
from tracking.runs import run
root, experiment, number, at = sys.argv[1:]
store = open_store(Path(root))
with run(store, experiment, number, key=number) as r:
    time.sleep(max(0, float(at) - time.time()))
    for i in range(30):
        r.dataset(f"set {i}", digest="0123", source="here", counts={"train": 1}, context="training")
"""


def test_two_runs_may_bring_the_same_data_set_at_once(store: Store, experiment: str) -> None:
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(PROJECT)}
    at = time.time() + 10
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(store.root), experiment, str(n), str(at)], env=env)
        for n in range(2)
    ]
    assert [racer.wait(timeout=200) for racer in racers] == [0, 0]
    for found in store.client.search_runs([store.experiment(experiment)]):
        assert len(found.inputs.dataset_inputs) == 30
