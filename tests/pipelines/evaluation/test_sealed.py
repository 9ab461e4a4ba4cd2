"""Sealed test rows: an opening counts once for each set of models and rows, whoever asks and however often."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from classifier.models.detector import Detector
from core.errors import UserError
from core.manifest import Manifest
from pipelines.evaluation.sealed import open_test_rows, sealed_rows
from tracking.runs import run
from tracking.runs import test_openings as openings
from tracking.store import Store


def test_an_opening_counts_once_for_each_set_of_models_and_rows(
    store: Store, faces: Path, make_detector: Callable[..., Detector], tmp_path: Path
) -> None:
    first, second = (make_detector(seed=seed).save(tmp_path / str(seed)) for seed in (21, 22))
    copy = Detector.load(first, "cpu").save(tmp_path / "copy")
    rows = sealed_rows(Manifest.read(faces))
    near = sealed_rows(Manifest.read(faces), ["near"])

    def counted(key: str, chosen: Manifest, *models: Path) -> dict[str, int]:
        with run(store, "sealed", key, key=key) as active:
            open_test_rows(active, chosen, models)
        return openings(store, "sealed")

    assert counted("one", rows, first) == {"far": 1, "near": 1}
    assert counted("one", rows, first) == {"far": 1, "near": 1}  # a killed job that is run again
    assert counted("another job", rows, copy) == {"far": 1, "near": 1}  # the same weights
    assert counted("one", near, first) == {"far": 1, "near": 2}
    assert counted("two", rows, first, second) == {"far": 2, "near": 3}
    assert counted("two turned round", rows, second, first) == {"far": 2, "near": 3}
    with pytest.raises(UserError, match="no model in"):
        counted("none", rows, tmp_path)


def test_one_function_alone_opens_test_rows() -> None:
    root = Path(__file__).parents[3]
    command = ["git", "-C", str(root), "grep", "-lE", r"opened_test\(|OPENED_TEST", "--", "*.py", ":!tests"]
    files = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(files) == ["pipelines/evaluation/sealed.py", "tracking/runs.py"]
