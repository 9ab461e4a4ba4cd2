"""Going on from an earlier generator, at its resolution and at twice that."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.manifest import Manifest
from gan.checkpoint import generator_digest, load_generator, load_state, read_card, start_from
from gan.config import GanConfig
from gan.networks import upsample
from gan.trainer import Trainer
from gan.training import train

CPU = torch.device("cpu")


def pictures_of(generator: torch.nn.Module, noise_count: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    z, noise = torch.randn(4, 8, generator=random), torch.randn(4, 2000, generator=random)
    with torch.no_grad():
        return generator(z, noise[:, :noise_count])  # noise is laid out from the lowest resolution up


def test_same_size_begins_where_the_other_ended(trained: Path, smallest: GanConfig) -> None:
    trainer = Trainer(smallest.model_copy(update={"seed": 5}).resolved(), CPU)
    assert start_from(trainer, trained) == generator_digest(trained)
    old = load_generator(trained)
    for network in (trainer.generator, trainer.averaged):
        assert torch.equal(pictures_of(network, old.noise_count), pictures_of(old, old.noise_count))
    discriminator = load_state(trained.parent / "training.pt")["trainer"]["discriminator"]
    for name, weight in trainer.discriminator.state_dict().items():
        assert torch.equal(weight, discriminator[name]), name


def test_at_twice_the_size_the_first_picture_is_the_old_one_enlarged(trained: Path, smallest: GanConfig) -> None:
    trainer = Trainer(smallest.model_copy(update={"image_size": 32, "seed": 5}).resolved(), CPU)
    start_from(trainer, trained.parent)  # the training's folder names its generator as well
    old, new = load_generator(trained), trainer.averaged
    enlarged = upsample(pictures_of(old, old.noise_count))
    torch.testing.assert_close(pictures_of(new, new.noise_count), enlarged, rtol=1e-4, atol=1e-5)
    state = load_state(trained.parent / "training.pt")["trainer"]["discriminator"]
    fresh = Trainer(
        smallest.model_copy(update={"image_size": 32, "seed": 5}).resolved(), CPU
    ).discriminator.state_dict()
    for name, weight in trainer.discriminator.state_dict().items():
        if name.startswith(("from_rgb.", "blocks.0.")):
            assert torch.equal(weight, fresh[name]), name
        else:
            head, *rest = name.split(".")
            before = ".".join([head, str(int(rest[0]) - 1), *rest[1:]]) if head == "blocks" else name
            assert torch.equal(weight, state[before]), name


def test_new_block_learns_its_colours(trained: Path, smallest: GanConfig) -> None:
    trainer = Trainer(smallest.model_copy(update={"image_size": 32}).resolved(), CPU)
    start_from(trainer, trained)
    before = [weight.clone() for weight in trainer.generator.blocks[-1].parameters()]
    for _ in range(3):
        trainer.step(torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8))
    moved = [
        not torch.equal(old, new) for old, new in zip(before, trainer.generator.blocks[-1].parameters(), strict=True)
    ]
    assert all(moved)


def test_job_starts_from_a_generator_once_and_resumes_by_itself(
    trained: Path, blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(trained, source)  # without the training state beside it
    config = smallest.model_copy(update={"start_from": str(source), "seed": 2})
    half = train(blobs, config.model_copy(update={"kimg": 0.04}), tmp_path / "job", cache)
    assert read_card(half).started_from == generator_digest(trained)
    shutil.rmtree(source)
    assert read_card(train(blobs, config, tmp_path / "job", cache)).started_from == generator_digest(trained)
    assert load_state(tmp_path / "job" / "training.pt")["trainer"]["steps"] == 10
    with pytest.raises(UserError, match="was begun with start_from"):
        train(blobs, config.model_copy(update={"start_from": str(trained)}), tmp_path / "job", cache)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_size": 64}, r"makes 16 px, and training goes on from it at 16 or 32 px only: image_size 64"),
        ({"z_width": 16}, r"another architecture \(z_width: 8, here 16\): take its preset \(tiny\)"),
        ({"noise_inputs": False}, r"another architecture \(noise_inputs: True, here False\)"),
        ({"preset": "small"}, r"another architecture \(channels at 4 px: 64, here 128\)"),
    ],
)
def test_misfit_is_one_sentence(changes: dict[str, object], sentence: str, trained: Path, smallest: GanConfig) -> None:
    trainer = Trainer(smallest.model_copy(update=changes).resolved(), CPU)
    with pytest.raises(UserError, match=sentence):
        start_from(trainer, trained)


def test_missing_generator_is_named(smallest: GanConfig, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "face.png")
    with pytest.raises(UserError, match="no generator at"):
        start_from(Trainer(smallest.resolved(), CPU), tmp_path)
