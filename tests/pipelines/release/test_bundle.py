"""A model leaves one registry and enters another; on the way nothing may change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from classifier.calibration import Band
from classifier.models.detector import Detector
from classifier.models.ensemble import Ensemble, load_detector
from classifier.scoring import score
from core.errors import UserError
from core.manifest import Manifest
from pipelines.ensemble import ensemble
from pipelines.release.bundle import export_version, import_version
from pipelines.release.model_card import version_card
from pipelines.release.promotion import evaluate_gate
from tracking.models import fetch_model, score_model
from tracking.registry import Registry
from tracking.runs import run
from tracking.store import Store, open_store

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def version(register: Callable[..., int], make_detector: Callable[..., Detector], store: Store) -> int:
    detector = make_detector(seed=1)
    detector.band = Band(0.2, 0.8)
    number = register(detector, "traveller")
    model_id = Registry(store).resolve(number).model_id
    with run(store, "gates", "figures", key="figures") as active:
        figures = {"auc": 0.91, "auc_low": 0.84, "auc_high": 0.96, "ap": 0.9, "fpr": 0.3, "recall": 0.8, "ece": 0.2}
        score_model(store, model_id, "near", "d1", figures, active)
        score_model(store, model_id, "far", "d2", {"auc": 0.4, "auc_low": 0.33, "auc_high": 0.48}, active)
    Registry(store).tag(number, {"licence": "CC0"})
    return number


@pytest.fixture(scope="module")
def exported(version: int, store: Store, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    result = export_version(store, Registry(store).resolve(version), out, int8=True, cache=cache)
    assert "on 64 pictures" in result["parity"]["model.onnx"]
    assert "AUC on val differs by" in result["parity"]["model.int8.onnx"]
    return out


def test_the_card_tells_data_figures_threshold_and_limits(version: int, store: Store, exported: Path) -> None:
    card = version_card(store, Registry(store).resolve(version))
    for text in (
        "| near | 0.910 [0.840, 0.960] | 0.900 |",
        "On far its AUC lies below 0.5 beyond doubt",
        "On near it calls 30% of the real faces fake",
        "fake where P(fake) >= ",
        "**Abstain** where 0.2000 <= P(fake) < 0.8000: ",
        "**Licence** CC0",
        "Synthetic faces: none",
    ):
        assert text in card
    kept = (exported / "README.md").read_text()
    assert "`model.int8.onnx`: int8" in kept
    assert "near" in kept


def test_it_arrives_as_it_left(
    version: int, store: Store, exported: Path, faces: Path, cache: Path, tmp_path: Path
) -> None:
    there = open_store(tmp_path / "elsewhere")
    arrived = import_version(there, exported)
    assert import_version(there, exported).number == arrived.number == 1
    here = Registry(store).resolve(version)
    for tag in ("manifest", "training_manifest", "generator", "git_commit", "code", "licence"):
        assert arrived.tags.get(tag) == here.tags.get(tag)
    assert f"version {version}" in arrived.tags["imported_from"]
    assert "test_manifest_path" not in arrived.tags
    assert Registry(there).metrics(arrived)["auc/near"] == 0.91
    models = [
        load_detector(fetch_model(place, number.uri, tmp_path / name), "cpu")
        for place, number, name in ((store, here, "here"), (there, arrived, "there"))
    ]
    rows = Manifest.read(faces).select(split="val")
    np.testing.assert_array_equal(*(score(model, rows, cache) for model in models))
    with pytest.raises(UserError, match="names no manifest in its lineage"):
        evaluate_gate(there, 1, cache=cache)
    verdict = evaluate_gate(there, 1, manifest=faces, datasets=["near"], cache=cache)
    assert verdict.promoted


def test_a_changed_file_is_refused(exported: Path, store: Store, tmp_path: Path) -> None:
    for name in exported.iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    before = len(Registry(store).versions())
    weights = bytearray((tmp_path / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=r"weights\.safetensors is not the file that was exported"):
        import_version(store, tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks weights\.safetensors"):
        import_version(store, tmp_path)
    with pytest.raises(UserError, match="is no exported model"):
        import_version(store, tmp_path / "nowhere")
    assert len(Registry(store).versions()) == before
    with pytest.raises(UserError, match="holds something already"):
        export_version(store, Registry(store).versions()[0], exported)
    with pytest.raises(UserError, match="is a file"):
        export_version(store, Registry(store).versions()[0], exported / "lineage.json")
    (tmp_path / "SHA256SUMS").write_text("torn")
    with pytest.raises(UserError, match="is damaged"):
        import_version(store, tmp_path)


def test_an_ensemble_is_registered_and_judged_like_one_model(
    store: Store,
    faces: Path,
    cache: Path,
    register: Callable[..., int],
    make_detector: Callable[..., Detector],
    tmp_path: Path,
) -> None:
    numbers = [str(register(make_detector(seed=seed), f"member{seed}")) for seed in (3, 4)]
    made = ensemble(
        store, numbers, faces, tmp_path / "e", combination="stacking", datasets=["near"], project="gates", cache=cache
    )
    assert [row["model"] for row in made["members"]] == numbers
    assert made["note"] == ""
    version = Registry(store).resolve(made["version"])
    assert version.tags["generator"] == "none"
    assert version.tags["test_datasets"] == "near"
    assert isinstance(load_detector(fetch_model(store, version.uri, tmp_path / "fetched"), "cpu"), Ensemble)
    verdict = evaluate_gate(store, made["version"], cache=cache, dry_run=True)
    assert next(each for each in verdict.checks if each["rule"] == "lineage")["passed"]
    assert "**Members** resnet18 (seed 3" in version_card(store, version)
    with pytest.raises(UserError, match="is an ensemble itself"):
        ensemble(store, [numbers[0], str(made["version"])], faces, tmp_path / "f", cache=cache)
    assert json.loads((tmp_path / "e" / "config.json").read_text())["combination"] == "stacking"
