"""Training learns, repeats itself, survives every kind of death bit for bit, and says what is wrong with its input."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from sklearn.utils.class_weight import compute_class_weight

import classifier.training
from classifier.batching import class_weights, epoch_order, paired_parts, parents_of
from classifier.config import DetectorConfig
from classifier.models.backbones import create
from classifier.models.detector import Detector
from classifier.optim import averaged, optimizer, schedule, set_learning_rate
from classifier.scoring import score
from classifier.training import STATE, train
from core.errors import UserError
from core.manifest import Manifest
from core.progress import deferred_interrupt
from faces.loading import load_crops

Faces = Callable[..., Manifest]
Small = Callable[..., DetectorConfig]

# Every step saves, and the process kills itself before or in the middle of the n-th write of the state.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from classifier.config import DetectorConfig
from classifier.training import train
from core.manifest import Manifest
manifest, config, out, cache, count, torn = sys.argv[1:]
left = [int(count)]
def killing(content, file, save=torch.save):
    left[0] -= 1
    if left[0] == 0:
        if torn == "torn":
            file.write(b"half"), file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(content, file)
torch.save = killing
train(Manifest.read(manifest), DetectorConfig.model_validate_json(config), Path(out), Path(cache))
"""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def assert_same(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (one / "config.json").read_text() == (other / "config.json").read_text()
    assert metrics(one) == metrics(other)


def metrics(folder: Path) -> list[dict[str, float]]:
    epochs = json.loads((folder / "history.json").read_text())["epochs"]
    return [{name: value for name, value in epoch.items() if name != "images_per_second"} for epoch in epochs]


def with_parents(manifest: Manifest) -> Manifest:
    """The first eight train fakes are made from train reals: two of each of the first four, the last of two."""
    rows = manifest.rows.copy()
    train = rows["split"] == "train"
    fakes, reals = (rows.index[train & (rows["label"] == label)] for label in ("fake", "real"))
    hashes = rows["sha256"]
    for number, fake in enumerate(fakes[:8]):
        rows.loc[fake, "parent"] = hashes[reals[number // 2]] + (f";{hashes[reals[5]]}" if number == 7 else "")
    return Manifest(rows, manifest.root)


def test_it_learns_reports_and_leaves_a_calibrated_detector(write_faces: Faces, small: Small, tmp_path: Path) -> None:
    rows = write_faces(real=24, fake=16, splits=("train", "val", "test"))
    reports: list[tuple[dict[str, float], int]] = []
    config = small(weights="imagenet", epochs=6, augmentation=0.0, early_stopping_epochs=0)
    state = torch.get_rng_state()
    out = train(rows, config, tmp_path / "out", tmp_path / "cache", lambda m, step: reports.append((dict(m), step)))
    assert torch.equal(state, torch.get_rng_state())
    assert [step for _, step in reports] == [1, 2, 3, 4, 5, 6]
    assert all(set(m) == {"train_loss", "val_loss", "val_auc", "images_per_second"} for m, _ in reports)
    kept = ["config.json", "history.json", "val.safetensors", "weights.safetensors"]
    assert sorted(file.name for file in out.iterdir()) == kept
    detector = Detector.load(out, "cpu")
    assert detector.config == config
    assert detector.manifest_digest == rows.digest
    assert detector.temperature != 1
    best = max(m["val_auc"] for m, _ in reports)
    val, test = rows.select(split="val"), rows.select(split="test")
    assert roc_auc_score(val.targets, score(detector, val, tmp_path / "cache")) == pytest.approx(best, abs=0.02)
    assert roc_auc_score(test.targets, score(detector, test, tmp_path / "cache")) > 0.9


def test_a_finished_job_returns_at_once_and_another_one_is_refused(
    write_faces: Faces, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, config = write_faces(), small(epochs=1)
    out = train(rows, config, tmp_path / "out", tmp_path / "cache")
    monkeypatch.setattr(classifier.training, "_Job", lambda *_: pytest.fail("trained again"))
    assert train(rows, config, out, tmp_path / "cache") == out
    with pytest.raises(UserError, match=r"other settings \(seed: 0, now 1\): give another folder"):
        train(rows, small(epochs=1, seed=1), out, tmp_path / "cache")
    with pytest.raises(UserError, match="the manifest's rows"):
        train(write_faces(real=13, name="other"), config, out, tmp_path / "cache")


def test_test_rows_and_the_order_of_rows_do_not_matter(write_faces: Faces, small: Small, tmp_path: Path) -> None:
    rows = write_faces(splits=("train", "val", "test"))
    for path in rows.select(split="test").files:
        path.write_bytes(b"sealed")
    shuffled = Manifest(rows.rows.sample(frac=1, random_state=0).reset_index(drop=True), rows.root)
    config = small(epochs=2)
    assert_same(
        train(rows, config, tmp_path / "a", tmp_path / "cache"),
        train(shuffled, config, tmp_path / "b", tmp_path / "cache"),
    )


@pytest.mark.parametrize(
    ("count", "torn", "changes"),
    [
        (3, "", {}),  # within the frozen epoch
        (9, "torn", {"ema_decay": 0.9, "balance": "oversample"}),  # within the second, in the middle of a write
        (
            10,
            "",
            {
                "finetune": "gradual",
                "layer_decay": 0.8,
                "mixup": 0.4,
                "paired": True,
                "forensics": "srm+spectrum+texture",
                "ema_decay": 0.9,
            },
        ),
    ],
)
def test_killed_and_resumed_is_uninterrupted(
    write_faces: Faces, small: Small, tmp_path: Path, count: int, torn: str, changes: dict[str, object]
) -> None:
    rows = with_parents(write_faces(real=20, fake=12))
    rows.write(rows.root / "manifest.parquet")
    config = small(checkpoint_every_seconds=0, **changes)
    whole = train(rows, small(**changes), tmp_path / "whole", tmp_path / "cache")
    out = tmp_path / "killed"
    arguments = [str(rows.root), config.model_dump_json(), str(out), str(tmp_path / "cache"), str(count), torn]
    died = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(classifier.training.__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    progress = torch.load(out / STATE, weights_only=True)["progress"]
    assert progress["step"] > 0
    assert not (out / "config.json").exists()
    train(rows, small(**changes), out, tmp_path / "cache")
    described = json.loads((out / "config.json").read_text())
    assert described["config"]["checkpoint_every_seconds"] == 60
    assert_same(whole, out)


def test_stopped_by_its_report_it_goes_on_from_the_epoch(write_faces: Faces, small: Small, tmp_path: Path) -> None:
    """As a pruner does, or a crash of whatever records the run."""
    rows, config = write_faces(), small()
    whole = train(rows, config, tmp_path / "whole", tmp_path / "cache")

    def stop(_metrics: Mapping[str, float], step: int) -> None:
        if step == 2:
            raise RuntimeError("pruned")

    with pytest.raises(RuntimeError, match="pruned"):
        train(rows, config, tmp_path / "out", tmp_path / "cache", stop)
    steps: list[int] = []
    train(rows, config, tmp_path / "out", tmp_path / "cache", lambda _, step: steps.append(step))
    assert steps == [3]
    assert_same(whole, tmp_path / "out")


def test_ctrl_c_saves_between_two_steps(
    write_faces: Faces, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, config = write_faces(), small()
    whole = train(rows, config, tmp_path / "whole", tmp_path / "cache")
    augment, calls = classifier.training.augment, [0]

    def interrupted(*arguments: object) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 5:
            signal.raise_signal(signal.SIGINT)
        return augment(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(classifier.training, "augment", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(rows, config, tmp_path / "out", tmp_path / "cache")
    progress = torch.load(tmp_path / "out" / STATE, weights_only=True)["progress"]
    assert (progress["epoch"], progress["step"]) == (1, 2)
    train(rows, config, tmp_path / "out", tmp_path / "cache")
    assert_same(whole, tmp_path / "out")


def test_ctrl_c_during_the_last_validation_is_not_lost(
    write_faces: Faces, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, config = write_faces(), small(epochs=1)

    def interrupted(_: object) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return {"val_loss": 0.5, "val_auc": 0.7}

    monkeypatch.setattr(classifier.training._Job, "_validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(rows, config, tmp_path / "out", tmp_path / "cache")
    train(rows, config, tmp_path / "out", tmp_path / "cache", lambda *_: pytest.fail("trained again"))
    Detector.load(tmp_path / "out")


def test_a_job_that_goes_on_does_not_ask_for_its_first_weights(
    write_faces: Faces, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, config = write_faces(), small(weights="imagenet", epochs=2)

    def stop(*_: object) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        train(rows, config, tmp_path / "out", tmp_path / "cache", stop)
    monkeypatch.setattr("classifier.models.backbones.packaged_lite0", lambda _: pytest.fail("asked for weights"))
    assert Detector.load(train(rows, config, tmp_path / "out", tmp_path / "cache"), "cpu").config == config


def test_a_second_ctrl_c_acts_at_once() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


def test_resuming_under_other_settings_is_refused(write_faces: Faces, small: Small, tmp_path: Path) -> None:
    rows = write_faces()

    def stop(*_: object) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        train(rows, small(), tmp_path / "out", tmp_path / "cache", stop)
    with pytest.raises(UserError, match=r"batch_size: 8, now 4"):
        train(rows, small(batch_size=4), tmp_path / "out", tmp_path / "cache")
    (tmp_path / "out" / STATE).write_bytes(b"torn")
    with pytest.raises(UserError, match="damaged"):
        train(rows, small(), tmp_path / "out", tmp_path / "cache")


def test_a_full_disk_names_the_file_and_the_job_goes_on_afterwards(
    write_faces: Faces, small: Small, tmp_path: Path
) -> None:
    rows, config, out = write_faces(), small(), tmp_path / "out"
    load_crops(rows, 32, tmp_path / "cache")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # the kernel refuses more, as on a full disk
    try:
        with pytest.raises(UserError, match=r"training\.pt could not be written .file too large.; nothing stood there"):
            train(rows, config, out, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(out.iterdir()) == []
    Detector.load(train(rows, config, out, tmp_path / "cache"), "cpu")


def test_an_altered_state_is_not_resumed(write_faces: Faces, small: Small, tmp_path: Path) -> None:
    rows, file = write_faces(), tmp_path / "out" / STATE

    def stop(*_: object) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        train(rows, small(), tmp_path / "out", tmp_path / "cache", stop)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"training\.pt is damaged .*checksum.*: delete it to start anew"):
        train(rows, small(), tmp_path / "out", tmp_path / "cache")


def test_a_loss_that_is_none_stops_and_keeps_the_last_good_checkpoint(
    write_faces: Faces, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, config = write_faces(), small()
    augment, calls = classifier.training.augment, [0]

    def break_it(*arguments: object) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 5:
            torch.nn.init.constant_(seen[0].module.get_parameter("classifier.weight"), float("nan"))
        return augment(*arguments)  # type: ignore[arg-type]

    seen: list[Detector] = []
    create = Detector.create
    monkeypatch.setattr(Detector, "create", lambda config: seen.append(create(config)) or seen[0])
    monkeypatch.setattr(classifier.training, "augment", break_it)
    with pytest.raises(
        UserError, match=r"loss is nan at step 4 of 9; last good checkpoint kept in .*training.pt; lower"
    ):
        train(rows, config, tmp_path / "out", tmp_path / "cache")
    state = torch.load(tmp_path / "out" / STATE, weights_only=True)
    assert state["progress"]["epoch"] == 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["model"].values())


def test_one_label_in_train_is_refused(write_faces: Faces, small: Small, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds only real faces \(12 rows\)"):
        train(write_faces(fake=0), small(), tmp_path / "out", tmp_path / "cache")
    with pytest.raises(UserError, match="holds no faces"):
        train(write_faces(splits=("val",), name="b"), small(), tmp_path / "out", tmp_path / "cache")


@pytest.mark.parametrize("drop", ["fake", "all"])
def test_a_val_that_cannot_judge_stops_nothing_and_says_so(
    write_faces: Faces, small: Small, tmp_path: Path, drop: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = write_faces()
    bad = (rows.rows["split"] == "val") & ((rows.rows["label"] == drop) | (drop == "all"))
    config = small(early_stopping_epochs=1)
    out = train(rows.where(~bad.to_numpy(dtype=bool)), config, tmp_path / "out", tmp_path / "cache")
    assert "no early stopping" in caplog.text
    detector = Detector.load(out)
    assert (detector.threshold, detector.temperature) == (0.5, 1.0)
    assert [set(epoch) for epoch in metrics(out)] == [{"epoch", "train_loss"}] * 3


def test_it_stops_early_and_keeps_the_best(
    write_faces: Faces, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = iter([(0.7, 0.6), (0.8, 0.6), (0.8, 0.5), (0.8, 0.5), (0.7, 0.1), (0.9, 0.1)])

    def validate(_: object) -> dict[str, float]:
        auc, loss = next(judged)
        return {"val_loss": loss, "val_auc": auc}

    monkeypatch.setattr(classifier.training._Job, "_validate", validate)
    out = train(write_faces(), small(epochs=9, early_stopping_epochs=2), tmp_path / "out", tmp_path / "cache")
    history = json.loads((out / "history.json").read_text())
    assert len(history["epochs"]) == 5
    assert history["best_epoch"] == 3, "of equal AUCs the one with the lower loss, of equal losses the first"


def test_the_head_alone_moves_in_the_frozen_epochs(write_faces: Faces, small: Small, tmp_path: Path) -> None:
    config = small(epochs=2, frozen_epochs=2)
    start = Detector.create(config).module.state_dict()
    end = weights(train(write_faces(), config, tmp_path / "out", tmp_path / "cache"))
    assert {key for key in end if not torch.equal(start[key], end[key])} == {"classifier.weight", "classifier.bias"}


def test_paired_batches_repeat_themselves_and_do_without_parents(
    write_faces: Faces, small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows, config = write_faces(), small(epochs=1, paired=True)
    train(rows, config, tmp_path / "a", tmp_path / "cache")
    assert "batches are not paired" in caplog.text
    caplog.clear()
    paired = with_parents(rows)
    train(paired, config, tmp_path / "b", tmp_path / "cache")
    assert not caplog.text
    assert_same(tmp_path / "b", train(paired, config, tmp_path / "c", tmp_path / "cache"))


def test_a_job_of_before_goes_on(write_faces: Faces, small: Small, tmp_path: Path) -> None:
    """Its state has neither the newer settings nor the scales of the optimizer's groups."""
    rows, config = write_faces(), small()
    whole = train(rows, config, tmp_path / "whole", tmp_path / "cache")

    def stop(_metrics: Mapping[str, float], step: int) -> None:
        if step == 2:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(rows, config, tmp_path / "out", tmp_path / "cache", stop)
    state = torch.load(tmp_path / "out" / STATE, weights_only=True)
    for name in ("finetune", "layer_decay", "mixup", "paired", "forensics"):
        del state["config"][name]
    for group in state["optimizer"]["param_groups"]:
        del group["scale"]
    torch.save(state, tmp_path / "out" / STATE)
    assert_same(whole, train(rows, config, tmp_path / "out", tmp_path / "cache"))


def test_mixup_changes_the_course_and_nothing_else(write_faces: Faces, small: Small, tmp_path: Path) -> None:
    rows = write_faces(real=24, fake=16)
    config = small(weights="imagenet", epochs=6, augmentation=0.0, early_stopping_epochs=0, mixup=0.3)
    out = train(rows, config, tmp_path / "out", tmp_path / "cache")
    assert not (tmp_path / "cache" / "features").exists(), "mixed pictures are new ones each time"
    val = rows.select(split="val")
    assert roc_auc_score(val.targets, score(Detector.load(out, "cpu"), val, tmp_path / "cache")) > 0.8


def test_pairs_stand_in_one_batch() -> None:
    targets = np.array([0] * 6 + [1] * 5)
    hashes = [f"{row:02}" for row in range(11)]
    parents = [""] * 6 + ["00", "00", "01;02", "07", "99"]  # the last but one is made from a fake, the last from nobody
    found = parents_of(hashes, parents, targets)
    assert {row: of.tolist() for row, of in found.items()} == {6: [0], 7: [0], 8: [1, 2]}
    drawn = set()
    for seed in range(8):
        parts = paired_parts(11, found, 4, torch.Generator().manual_seed(seed))
        assert max(map(len, parts)) <= 5
        for fake in (6, 7, 8):
            (own,) = [part.tolist() for part in parts if fake in part]
            neighbour = own[own.index(fake) + 1]
            assert neighbour in found[fake]
            drawn.add(neighbour)
        counts = np.bincount(np.concatenate(parts), minlength=11)
        assert counts[0] == 2
        assert (counts[1:] == 1).all()
    assert drawn == {0, 1, 2}


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    course = [schedule(step, 100, 0.1) for step in range(100)]
    assert course[:11] == pytest.approx([(step + 1) / 11 for step in range(10)] + [1.0])
    assert all(earlier > later > 0 for earlier, later in pairwise(course[10:]))
    assert course[55] == pytest.approx(0.5)
    assert schedule(0, 1, 0.1) > 0


def test_biases_and_norms_do_not_decay_and_the_backbone_has_its_own_rate() -> None:
    module = create("resnet18", "none", 32)
    adam = optimizer(module, 1e-3, 0.1)
    set_learning_rate(adam, 1e-3, 0.2)
    group_of = {id(parameter): group for group in adam.param_groups for parameter in group["params"]}
    assert len(group_of) == len(list(module.parameters()))
    for name, parameter in module.named_parameters():
        group = group_of[id(parameter)]
        assert group["lr"] == pytest.approx(1e-3 if name.startswith("fc.") else 2e-4)
        assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0)


def test_rates_fall_from_layer_to_layer() -> None:
    module = create("resnet18", "none", 32)
    adam = optimizer(module, 1e-3, 0.1, layer_decay=0.5)
    set_learning_rate(adam, 1e-3, 0.2)
    rate = {id(parameter): group["lr"] for group in adam.param_groups for parameter in group["params"]}
    of = {name: rate[id(parameter)] for name, parameter in module.named_parameters()}
    assert len(of) == len(rate)
    assert of["fc.weight"] == 1e-3
    assert of["layer4.1.conv1.weight"] == of["layer4.1.bn1.bias"] == pytest.approx(2e-4)
    assert of["layer4.0.conv1.weight"] == pytest.approx(1e-4)
    assert of["conv1.weight"] == pytest.approx(2e-4 * 0.5**8)


def test_the_average_follows_its_formula_and_takes_counters_as_they_are() -> None:
    module = torch.nn.BatchNorm1d(2)
    average = averaged(module, 0.5)
    expected = 0.0
    for n in range(6):
        torch.nn.init.constant_(module.weight, float(n))
        module.num_batches_tracked.fill_(n)
        average.update_parameters(module)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = float(n) if n == 0 else decay * expected + (1 - decay) * n
    state = average.module.state_dict()
    assert float(state["weight"][0]) == pytest.approx(expected)
    assert int(state["num_batches_tracked"]) == 5


def test_class_weights_follow_the_formula() -> None:
    targets = np.array([0] * 30 + [1] * 10)
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=targets)
    np.testing.assert_allclose(class_weights(targets).numpy(), expected, rtol=1e-6)
    assert float(class_weights(targets)[targets].mean()) == pytest.approx(1)


@pytest.mark.parametrize(("real", "fake"), [(10, 3), (3, 10), (5, 5)])
def test_oversampling_shows_both_classes_as_often(real: int, fake: int) -> None:
    targets = np.array([0] * real + [1] * fake)
    order = epoch_order(targets, "oversample", torch.Generator().manual_seed(0))
    counts = np.bincount(order, minlength=len(targets))
    most = max(real, fake)
    assert counts[:real].sum() == counts[real:].sum() == most
    for label in (0, 1):
        assert counts[targets == label].max() - counts[targets == label].min() <= 1
    plain = epoch_order(targets, "weights", torch.Generator().manual_seed(0))
    assert sorted(plain) == list(range(real + fake))
