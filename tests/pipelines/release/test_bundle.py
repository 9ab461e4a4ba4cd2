"""A model leaves one registry and enters another; on the way nothing may change."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from classifier.calibration import Band
from classifier.models.detector import Detector
from classifier.models.ensemble import Ensemble, load_detector
from classifier.scoring import score
from core.errors import UserError
from core.files import sha256
from core.manifest import Manifest
from pipelines.release.bundle import export_version, import_version, verify
from pipelines.release.gate import Gate
from pipelines.release.lineage import untraced
from pipelines.release.model_card import version_card
from pipelines.release.promotion import evaluate_gate
from pipelines.training import train_ensemble
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
    assert "on 64 pictures" in result.parity["model.onnx"]
    assert "AUC on val differs by" in result.parity["model.int8.onnx"]
    return out


def test_the_card_tells_data_figures_threshold_and_limits(version: int, store: Store, exported: Path) -> None:
    card = version_card(store, Registry(store).resolve(version))
    for text in (
        "| near | 0.910 [0.840, 0.960] | 0.900 |",
        "On far its AUC lies below 0.5 (the 95 % interval excludes it)",
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
        claimed = "claimed_" if tag == "licence" else ""
        assert arrived.tags.get(claimed + tag, "") == here.tags.get(tag, "")
    assert arrived.tags["claimed_project"] == "gates"
    assert f"version {version}" in arrived.tags["imported_from"]
    assert "test_manifest_path" not in arrived.tags
    figures = Registry(there).metrics(arrived)
    assert figures["claimed_auc/near"] == 0.91
    assert all(name.startswith("claimed_") for name in figures)
    models = [
        load_detector(fetch_model(place, number.uri, tmp_path / name), "cpu")
        for place, number, name in ((store, here, "here"), (there, arrived, "there"))
    ]
    rows = Manifest.read(faces).select(split="val")
    np.testing.assert_array_equal(*(score(model, rows, cache) for model in models))
    with pytest.raises(UserError, match="was imported, and no manifest of this machine is in its lineage"):
        evaluate_gate(there, 1, cache=cache)
    verdict = evaluate_gate(there, 1, manifest=faces, datasets=["near"], cache=cache)
    assert verdict.promoted
    card = version_card(there, arrived)
    assert "**Licence** not stated" in card
    measured, claims = card.split("## Claimed by the bundle, not checked here")
    assert "| near | 0.910" in claims
    assert "- licence: `CC0`" in claims
    assert "Evaluated on nothing yet" in measured


def copied(exported: Path, to: Path) -> Path:
    """A copy without the ONNX files, with checksums of its own."""
    shutil.copytree(exported, to, ignore=shutil.ignore_patterns("*.onnx", "SHA256SUMS"))
    return sealed(to)


def sealed(folder: Path) -> Path:
    """The folder, with its checksums made anew: whoever forges a bundle does that too."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in ("SHA256SUMS", "SHA256SUMS.sig"))
    (folder / "SHA256SUMS").write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in names))
    return folder


def rewritten(folder: Path, **changes: object) -> Path:
    file = folder / "lineage.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return sealed(folder)


def test_nothing_that_a_bundle_says_of_itself_is_believed(
    exported: Path, faces: Path, cache: Path, tmp_path: Path
) -> None:
    forged = {
        "test_manifest_path": str(faces),
        "test_manifest": Manifest.read(faces).digest,
        "test_datasets": "near",
        "gate": "passed",
        "promoted_by": "the maintainers",
        "promoted_because": "it is the best",
        "licence": "CC0",
        "traced_generators": "0123456789abcdef",
        "counterforge.digest": "0" * 32,
        "signed_by": "the maintainers",
        "/ licence": "CC0",
        "note": "a\nb`\x1b[31m",
    }
    lineage = {"generator": "0123456789abcdef", "manifest": Manifest.read(faces).digest, "synthetic_faces": "`[a](b)"}
    metrics = {"probe_auc/near": 0.5, "a/../robust_worst_auc/near": 1.0, "auc/near": float("inf"), "auc/far": None}
    folder = rewritten(copied(exported, tmp_path / "b"), tags=forged | lineage, metrics=metrics, untraced=[])
    store = open_store(tmp_path / "mlruns")
    version = import_version(store, folder)
    own = {name: value for name, value in version.tags.items() if not name.startswith("claimed_")}
    assert {name for name in own if not name.startswith(("counterforge.", "imported_"))} == {
        *("manifest", "generator", "code", "git_commit")
    }
    assert own["code"] == own["git_commit"] == ""
    assert own["counterforge.digest"] != "0" * 32
    assert version.tags["claimed_promoted_by"] == "the maintainers"
    assert version.tags["claimed_synthetic_faces"] == "`[a](b)"
    assert set(Registry(store).metrics(version)) == {"claimed_probe_auc/near", "claimed_robust_worst_auc/near"}
    with pytest.raises(UserError, match="give the test rows with --manifest"):
        evaluate_gate(store, 1, cache=cache)
    rules = Gate(max_probe_auc=0.9, min_robust_auc=0.1, licence=True)
    verdict = evaluate_gate(store, 1, gate=rules, manifest=faces, cache=cache)
    refused = {each.rule: each.measured for each in verdict.checks if not each.passed}
    assert not verdict.promoted
    assert refused.keys() >= {"robustness", "audit", "licence", "lineage"}
    assert "no run here trained the generator" in refused["lineage"]
    assert "the code is not recorded" in refused["lineage"]
    assert set(verdict.by_dataset) == {"near", "far"}  # not only those that the bundle names
    card = version_card(store, version)
    assert "## Promotion" not in card
    assert "\n- note: `a\\nb'\\x1b[31m`\n" in card


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[" * 100_000, "is damaged"),
        ("[]", "is damaged"),
        ('"\\ud800"', "is damaged"),
        ("x" * 2_000_000, "is larger than"),
        ({"version": "1"}, "version '1'"),
        ({"version": 2**70}, "version"),
        ({"name": ""}, "name ''"),
        ({"tags": {"a": 1}}, "tags.a 1"),
        ({"tags": {str(number): "" for number in range(501)}}, "at most 500"),
        ({"tags": {"x" * 300: ""}}, "at most 240"),
        ({"metrics": {"/../probe_auc/near": 0.5}}, "cannot name a metric"),
        ({"unknown": 1}, "unknown is not a key"),
    ],
)
def test_a_lineage_out_of_joint_is_refused(
    exported: Path, tmp_path: Path, content: str | dict[str, object], sentence: str
) -> None:
    folder = copied(exported, tmp_path / "b")
    if isinstance(content, str):
        (folder / "lineage.json").write_text(content)
        sealed(folder)
    else:
        rewritten(folder, **content)
    store = open_store(tmp_path / "mlruns")
    with pytest.raises(UserError, match=sentence) as caught:
        import_version(store, folder)
    assert len(str(caught.value)) < 600
    assert Registry(store).versions() == []


def test_only_plain_files_that_are_listed_are_taken(exported: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not for the registry")
    makers: dict[str, Callable[[Path], object]] = {
        "link.json": lambda path: path.symlink_to(secret),
        "SHA256SUMS.sig": lambda path: path.symlink_to(secret),
        "folder": Path.mkdir,
        "pipe": os.mkfifo,
        ".hidden": Path.touch,
        "a b": Path.touch,
        "-rf": Path.touch,
        "unlisted": Path.touch,
    }
    for number, (name, make) in enumerate(makers.items()):
        folder = copied(exported, tmp_path / str(number))
        make(folder / name)
        with pytest.raises(UserError, match="is no plain file" if name != "unlisted" else "does not name"):
            verify(folder)
    for name in ("weights.safetensors", "SHA256SUMS", "lineage.json"):
        folder = copied(exported, tmp_path / f"linked-{name}")
        (folder / name).replace(tmp_path / f"moved-{name}")
        (folder / name).symlink_to(tmp_path / f"moved-{name}")
        with pytest.raises(UserError, match="is no plain file"):
            verify(folder)
    sums = copied(exported, tmp_path / "sums") / "SHA256SUMS"
    sound = sums.read_text()
    for text in (sound + sound, sound + f"{'0' * 64}  ../secret\n", sound + f"{'0' * 64}  {secret}\n", sound * 200):
        sums.write_text(text)
        with pytest.raises(UserError, match=r"is damaged|lacks"):
            verify(sums.parent)


def test_weights_of_another_model_are_refused(
    exported: Path, make_detector: Callable[..., Detector], tmp_path: Path
) -> None:
    folder = copied(exported, tmp_path / "b")
    other = make_detector(seed=9).save(tmp_path / "other")
    (folder / "weights.safetensors").write_bytes((other / "weights.safetensors").read_bytes())
    store = open_store(tmp_path / "mlruns")
    with pytest.raises(UserError, match="are not of one detector"):
        import_version(store, sealed(folder))
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: described[key] for key in described if key != "digest"}))
    with pytest.raises(UserError, match="digest: Field required"):
        import_version(store, sealed(folder))


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """PEM files of a new private key and its public half."""
    key, files = Ed25519PrivateKey.generate(), (folder / f"{name}.pem", folder / f"{name}.pub")
    pem = serialization.Encoding.PEM
    files[0].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    files[1].write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return files


def test_a_trusted_signature_brings_licence_and_generators_but_no_figures(
    store: Store, register: Callable[..., int], make_detector: Callable[..., Detector], tmp_path: Path
) -> None:
    private, public = key_pair(tmp_path, "ours")
    _, theirs = key_pair(tmp_path, "theirs")
    with run(store, "generators", "g", key="generator/g", tags={"generator": "fedcba9876543210"}):
        pass
    number = register(make_detector(seed=5), "signed", generator="fedcba9876543210", licence="CC0")
    here = Registry(store).resolve(number)
    out = tmp_path / "out"
    made = export_version(store, here, out, onnx=False, sign=private)
    assert "SHA256SUMS.sig" in made.files
    there = open_store(tmp_path / "mlruns")
    with pytest.raises(UserError, match="signed by another key"):
        import_version(there, out, trust=theirs)
    with pytest.raises(UserError, match="holds no Ed25519 public key"):
        import_version(there, out, trust=private)
    with pytest.raises(UserError, match="holds no Ed25519 private key"):
        export_version(store, here, tmp_path / "again", onnx=False, sign=public)
    unsigned = import_version(there, out)
    assert "licence" not in unsigned.tags
    assert untraced(there, unsigned, load_detector(out, "cpu"))
    signed = import_version(there, out, trust=public)
    assert signed.tags["licence"] == "CC0"
    assert len(signed.tags["signed_by"]) == 16
    assert untraced(there, signed, load_detector(out, "cpu")) == []
    assert all(name.startswith("claimed_") for name in Registry(there).metrics(signed))
    with pytest.raises(UserError, match="give the test rows with --manifest"):
        evaluate_gate(there, signed.number)
    (out / "SHA256SUMS.sig").write_text("torn")
    with pytest.raises(UserError, match="was changed, or signed by another key"):
        import_version(there, out, trust=public)
    rewritten(out, untraced=[])
    with pytest.raises(UserError, match="was changed, or signed by another key"):
        import_version(there, out, trust=public)
    (out / "SHA256SUMS.sig").unlink()
    with pytest.raises(UserError, match="is not signed"):
        import_version(there, out, trust=public)


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
    made = train_ensemble(
        store, numbers, faces, tmp_path / "e", combination="stacking", datasets=["near"], project="gates", cache=cache
    )
    assert [row["model"] for row in made["members"]] == numbers
    assert made["note"] == ""
    version = Registry(store).resolve(made["version"])
    assert version.tags["generator"] == "none"
    assert version.tags["test_datasets"] == "near"
    assert isinstance(load_detector(fetch_model(store, version.uri, tmp_path / "fetched"), "cpu"), Ensemble)
    verdict = evaluate_gate(store, made["version"], cache=cache, dry_run=True)
    assert next(each for each in verdict.checks if each.rule == "lineage").passed
    assert "**Members** resnet18 (seed 3" in version_card(store, version)
    with pytest.raises(UserError, match="is an ensemble itself"):
        train_ensemble(store, [numbers[0], str(made["version"])], faces, tmp_path / "f", cache=cache)
    assert json.loads((tmp_path / "e" / "config.json").read_text())["combination"] == "stacking"
