"""A training job: it stops where it should, and resumes as if it had never been stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from faces.errors import UserError
from faces.manifest import Manifest
from gan.checkpoint import load_generator, load_state, read_card
from gan.config import GanConfig
from gan.generator import Generator
from gan.sampling import render
from gan.trainer import Trainer
from gan.training import picture_indices, train


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def differences(a: Any, b: Any, where: str = "state") -> list[str]:
    """Places at which two states are not equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [where]
    if isinstance(a, Mapping):
        return [place for key in a.keys() | b.keys() for place in differences(a[key], b[key], f"{where}.{key}")]
    return [] if a == b else [where]


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
    options: dict[str, Any], blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path
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


SCRIPT = """
import sys, torch
from pathlib import Path
from faces.manifest import Manifest
from gan.config import GanConfig
from gan.training import train
torch.set_num_threads(1)
faces, config, out, cache = sys.argv[1:]
print("ready", flush=True)
train(Manifest.read(faces), GanConfig.model_validate_json(config), Path(out), Path(cache))
"""


def test_killed_at_random_moments_equals_uninterrupted(
    trained: Path, blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    moments = random.Random(seed)
    for _ in range(3):
        arguments = [str(blobs.root), smallest.model_dump_json(), str(tmp_path), str(cache)]
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(moments.uniform(0.0, 0.6))
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if (tmp_path / "training.pt").exists():
            load_state(tmp_path / "training.pt")
        if (tmp_path / "generator").exists():
            load_generator(tmp_path / "generator")
    assert weights(train(blobs, smallest, tmp_path, cache)) == weights(trained), f"moments of seed {seed}"


def test_interrupted_job_has_saved_its_state(
    trained: Path, blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path
) -> None:
    config = smallest.model_copy(update={"checkpoint_every_seconds": 1000.0})
    with pytest.raises(KeyboardInterrupt):
        train(blobs, config, tmp_path, cache, Stop())
    assert load_state(tmp_path / "training.pt")["trainer"]["steps"] == 10
    assert weights(train(blobs, config, tmp_path, cache)) == weights(trained)


def test_signal_waits_for_the_end_of_the_step(
    blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator_step = Trainer._train_generator

    def interrupted(self: Trainer, *arguments: Any) -> dict[str, torch.Tensor]:
        if self.steps == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return generator_step(self, *arguments)

    monkeypatch.setattr(Trainer, "_train_generator", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(blobs, smallest, tmp_path, cache)
    assert signal.getsignal(signal.SIGINT) is before
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

    def spoiled(self: Trainer, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        return step(self, pictures) | ({"loss_generator": torch.tensor(torch.nan)} if self.steps == 12 else {})

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
    with pytest.raises(UserError, match=r"training\.pt is not a training state: delete it"):
        train(blobs, smallest, tmp_path, cache)


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


def test_it_learns(blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path) -> None:
    """After a thousand pictures the mean sample is nearer to the mean face than before."""
    config = smallest.model_copy(update={"augment": "none", "kimg": 1.0, "checkpoint_every_seconds": 1000.0})
    real = np.mean([np.asarray(Image.open(file).resize((16, 16))) for file in blobs.files], axis=0)

    def distance(generator: Generator) -> float:
        return float(np.abs(render(generator, range(64), 1.0).mean(axis=0) - real).mean())

    before = distance(Trainer(config.resolved(), torch.device("cpu")).averaged)
    assert distance(load_generator(train(blobs, config, tmp_path, cache))) < 0.6 * before
