"""A training job: it stops where it should, and resumes as if it had never been stopped."""

from __future__ import annotations

import copy
import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.manifest import Manifest
from gan.checkpoint import load_generator, load_state, read_card
from gan.config import GanConfig
from gan.networks import Generator
from gan.sampling import render
from gan.trainer import Trainer
from gan.training import picture_indices, train


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


class Stop:
    """Presses Ctrl-C at the first report."""

    def __call__(self, *_: object) -> None:
        raise KeyboardInterrupt


def test_trained_generator_is_complete(trained: Path, blobs: Manifest, smallest: GanConfig) -> None:
    card = read_card(trained)
    assert card.image_size == 16
    assert card.kimg == pytest.approx(0.08)
    assert card.manifest == blobs.digest
    assert GanConfig.model_validate(card.training) == smallest.resolved()
    assert load_generator(trained).w_average.abs().sum() > 0
    assert (trained.parent / "samples" / "000000.png").is_file()


def test_finished_job_returns_at_once(trained: Path, blobs: Manifest, cache: Path, smallest: GanConfig) -> None:
    before = (trained / "weights.safetensors").stat().st_mtime_ns
    assert train(blobs, smallest, trained.parent, cache) == trained
    assert (trained / "weights.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "ns-r1", "augment": "diffaugment", "blur": True},
        {"augment": "none", "noise_inputs": False, "style_mixing": 0.0, "precision": "bfloat16"},
    ],
    ids=["relativistic-ada", "ns-r1-diffaugment", "bfloat16"],
)
def test_job_in_two_calls_equals_one(
    options: dict[str, Any],
    blobs: Manifest,
    cache: Path,
    smallest: GanConfig,
    differences: Callable[[Any, Any], list[str]],
    tmp_path: Path,
) -> None:
    config = smallest.model_copy(update=options)
    # Five steps: not a multiple of ADA's four nor of the penalty's four.
    train(blobs, config.model_copy(update={"kimg": 0.04}), tmp_path / "two", cache)
    two = train(blobs, config, tmp_path / "two", cache)
    one = train(blobs, config, tmp_path / "one", cache)
    assert weights(two) == weights(one)
    states = [load_state(tmp_path / name / "training.pt") for name in ("one", "two")]
    assert not differences(states[0]["trainer"], states[1]["trainer"])
    assert states[0]["trainer"]["probability"] > 0 or config.augment != "ada"


def test_interrupted_job_has_saved_its_state(
    trained: Path, blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path
) -> None:
    config = smallest.model_copy(update={"checkpoint_every_seconds": 1000.0})
    with pytest.raises(KeyboardInterrupt):
        train(blobs, config, tmp_path, cache, Stop())
    assert load_state(tmp_path / "training.pt")["trainer"]["steps"] == 10
    assert weights(train(blobs, config, tmp_path, cache)) == weights(trained)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_waits_for_the_end_of_the_step(
    number: signal.Signals,
    blobs: Manifest,
    cache: Path,
    smallest: GanConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator_step = Trainer._train_generator

    def interrupted(self: Trainer, *arguments: Any) -> dict[str, torch.Tensor]:
        if self.steps == 2:
            os.kill(os.getpid(), number)
        return generator_step(self, *arguments)

    monkeypatch.setattr(Trainer, "_train_generator", interrupted)
    own = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line does
    before = signal.getsignal(number)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(blobs, smallest, tmp_path, cache)
        assert signal.getsignal(number) is before
    finally:
        signal.signal(signal.SIGTERM, own)
    assert load_state(tmp_path / "training.pt")["trainer"]["steps"] == 3


def test_lost_generator_is_published_again(
    trained: Path, blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path
) -> None:
    (tmp_path / "training.pt").write_bytes((trained.parent / "training.pt").read_bytes())
    assert weights(train(blobs, smallest, tmp_path, cache)) == weights(trained)


def test_nan_stops_and_keeps_the_last_good_checkpoint(
    trained: Path, blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "training.pt").write_bytes((trained.parent / "training.pt").read_bytes())
    step = Trainer.step

    def spoiled(self: Trainer, *batch: Any) -> dict[str, torch.Tensor]:
        return step(self, *batch) | ({"loss_generator": torch.tensor(torch.nan)} if self.steps == 12 else {})

    monkeypatch.setattr(Trainer, "step", spoiled)
    config = smallest.model_copy(update={"kimg": 0.2})
    with pytest.raises(UserError, match=r"loss_generator is nan at step 12 of .*; last good checkpoint kept in .*"):
        train(blobs, config, tmp_path, cache)
    assert load_state(tmp_path / "training.pt")["trainer"]["steps"] == 11


def test_nan_weights_are_never_saved(blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path) -> None:
    config = smallest.model_copy(update={"learning_rate": 0.999, "gamma": 1e30, "kimg": 1.0})
    with pytest.raises(UserError, match=r"lower the learning rate"):
        train(blobs, config, tmp_path, cache)


@pytest.mark.parametrize("field", ["gamma", "seed", "loss", "batch_size"])
def test_other_configuration_is_refused_by_name(
    field: str, trained: Path, blobs: Manifest, cache: Path, smallest: GanConfig
) -> None:
    other = {"gamma": 0.123, "seed": 5, "loss": "ns-r1", "batch_size": 16}[field]
    with pytest.raises(UserError, match=f"begun with {field} "):
        train(blobs, smallest.model_copy(update={field: other}), trained.parent, cache)


def test_other_faces_are_refused(trained: Path, blobs: Manifest, cache: Path, smallest: GanConfig) -> None:
    with pytest.raises(UserError, match="begun with other real train faces"):
        train(Manifest(blobs.rows.iloc[:20], blobs.root), smallest, trained.parent, cache)


def test_too_few_faces_are_refused(blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path) -> None:
    rows = blobs.rows.copy()
    rows.loc[10:, "label"] = "fake"
    with pytest.raises(UserError, match="10 real faces in the train split"):
        train(Manifest(rows, blobs.root), smallest, tmp_path, cache)


def test_damaged_state_is_named(blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path) -> None:
    (tmp_path / "training.pt").write_bytes(b"not a state")
    with pytest.raises(UserError, match=r"training\.pt is damaged or not a training state .*: delete it"):
        train(blobs, smallest, tmp_path, cache)
    torch.save({"epoch": 3, "model": torch.zeros(2)}, tmp_path / "training.pt")
    with pytest.raises(
        UserError,
        match=r"training\.pt is damaged or not a training state .it does not hold config, faces, trainer.: delete it",
    ):
        train(blobs, smallest, tmp_path, cache)


def test_state_of_another_architecture_is_named(
    trained: Path, blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path
) -> None:
    state = load_state(trained.parent / "training.pt")
    for network in ("generator", "averaged"):
        state["trainer"][network]["constant"] = torch.zeros(1, 7, 4, 4)
    torch.save(state, tmp_path / "training.pt")
    with pytest.raises(UserError, match=r"training\.pt holds networks of another architecture .* another folder"):
        train(blobs, smallest.model_copy(update={"kimg": 0.2}), tmp_path, cache)


def test_grey_transparent_and_oddly_sized_crops_are_learnt_from(
    write_faces: Callable[[Path], Manifest], cache: Path, smallest: GanConfig, tmp_path: Path
) -> None:
    """They become RGB squares as they are loaded: grey in three channels, what is transparent on grey."""
    modes = ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"]
    root = tmp_path / "faces"
    blobs = write_faces(root)
    rows = blobs.rows.copy()
    for index, name in enumerate(rows["path"]):
        suffix = ".tif" if modes[index % 7] == "CMYK" else ".png"
        with Image.open(root / name) as picture:
            odd = picture.resize((9 + index, 40 - index)).convert(modes[index % 7])
        file = root / f"odd-{index}{suffix}"
        odd.save(file)
        rows.loc[index, ["path", "sha256"]] = [file.name, hashlib.sha256(file.read_bytes()).hexdigest()]
    assert load_generator(train(Manifest.build(rows, root), smallest, tmp_path / "out", cache)).image_size == 16


def test_crops_of_fractions_are_refused(
    write_faces: Callable[[Path], Manifest], cache: Path, smallest: GanConfig, tmp_path: Path
) -> None:
    blobs = write_faces(tmp_path)
    file = tmp_path / "fractions.tif"
    Image.fromarray(np.full((20, 20), 0.5, np.float32)).save(file)
    rows = blobs.rows.copy()
    rows.loc[3, ["path", "sha256"]] = [file.name, hashlib.sha256(file.read_bytes()).hexdigest()]
    with pytest.raises(UserError, match=r"fractions\.tif cannot be decoded: .* have no known range"):
        train(Manifest.build(rows, tmp_path), smallest, tmp_path / "out", cache)


def test_minutes_count_over_all_calls(blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path) -> None:
    config = smallest.model_copy(update={"kimg": None, "minutes": 0.003})
    train(blobs, config, tmp_path, cache)
    steps = load_state(tmp_path / "training.pt")["trainer"]["steps"]
    assert steps >= 1
    train(blobs, config, tmp_path, cache)
    assert load_state(tmp_path / "training.pt")["trainer"]["steps"] == steps


def test_reports_say_losses_strength_and_speed(
    blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path
) -> None:
    seen: list[tuple[dict[str, float], int]] = []
    train(blobs, smallest, tmp_path, cache, lambda metrics, step: seen.append((dict(metrics), step)))
    metrics, step = seen[-1]
    assert step == 80
    assert {"loss_generator", "loss_discriminator", "penalty", "ada_probability", "images_per_second"} <= set(metrics)


def test_strength_follows_the_published_rule_over_steps(smallest: GanConfig) -> None:
    """Every four steps p moves by pictures / (ada_kimg * 1000) towards r_t = target (Karras et al. 2020, section 3)."""
    trainer = Trainer(smallest.resolved(), torch.device("cpu"))
    random = torch.Generator().manual_seed(0)
    signs, expected = [], 0.0
    for step in range(1, 25):
        pictures = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=random)
        signs.append(trainer.step(pictures)["ada_overfitting"].item())
        if step % 4 == 0:
            move = 4 * 8 / (smallest.ada_kimg * 1000)
            expected += move if sum(signs[-4:]) / 4 >= smallest.ada_target else -move
            expected = min(max(expected, 0.0), 1.0)
        assert trainer.probability == pytest.approx(expected)
    assert expected > 0


def test_penalty_is_r1_of_the_reals_and_r2_of_the_fakes(smallest: GanConfig) -> None:
    for loss, terms in (("relativistic", 2), ("ns-r1", 1)):
        config = smallest.model_copy(update={"loss": loss, "augment": "none", "learning_rate": 1e-12})
        trainer = Trainer(config.resolved(), torch.device("cpu"))
        seen: list[torch.Tensor] = []
        trainer.discriminator.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].detach()))
        metrics = trainer.step(torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8))
        halves = seen[0].double().split(8)[:terms]  # the first pass was over reals and fakes
        network = copy.deepcopy(trainer.discriminator).double()
        expected = 0.0
        for half in halves:
            half.requires_grad_(True)
            (gradient,) = torch.autograd.grad(network(half).sum(), half)
            expected += gradient.square().sum().item() / 8
        assert metrics["penalty"].item() == pytest.approx(expected, rel=1e-4)


def test_averaged_weights_follow_the_formula(smallest: GanConfig) -> None:
    trainer = Trainer(smallest.model_copy(update={"ema_rampup": 100.0}).resolved(), torch.device("cpu"))
    pictures = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    average = trainer.averaged.constant.clone()
    for step in range(1, 4):
        trainer.step(pictures)
        beta = 0.5 ** (8 / min(10_000, step * 8 * 100))
        average = beta * average + (1 - beta) * trainer.generator.constant
    torch.testing.assert_close(trainer.averaged.constant, average)
    assert not torch.equal(trainer.averaged.constant, trainer.generator.constant)


def test_global_random_state_is_left_alone(smallest: GanConfig) -> None:
    before = torch.get_rng_state()
    trainer = Trainer(smallest.resolved(), torch.device("cpu"))
    trainer.step(torch.zeros(8, 3, 16, 16, dtype=torch.uint8))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_shows_every_face_once() -> None:
    order = picture_indices(3, 0, 50, 10).reshape(5, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in order.tolist())
    assert len({tuple(epoch) for epoch in order.tolist()}) > 1
    assert (picture_indices(3, 17, 8, 10) == order.reshape(-1)[17:25]).all()


@pytest.mark.usefixtures("narrow")
def test_it_learns(blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path) -> None:
    """After a thousand pictures the mean sample is nearer to the mean face than before."""
    config = smallest.model_copy(update={"augment": "none", "kimg": 1.0, "checkpoint_every_seconds": 1000.0})
    real = np.mean([np.asarray(Image.open(file).resize((16, 16))) for file in blobs.files], axis=0)

    def distance(generator: Generator) -> float:
        return float(np.abs(render(generator, range(64), 1.0).mean(axis=0) - real).mean())

    before = distance(Trainer(config.resolved(), torch.device("cpu")).averaged)
    assert distance(load_generator(train(blobs, config, tmp_path, cache))) < 0.6 * before
