"""Labels: where they come from, how they are blended in, and that samples obey them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from core.errors import UserError
from core.manifest import Manifest
from gan.checkpoint import export_label, load_generator, load_state, read_card
from gan.config import GanConfig
from gan.networks import Discriminator, Generator
from gan.sampling import render
from gan.trainer import Trainer
from gan.training import label_faces, train

CHANNELS = {4: 8, 8: 8, 16: 8}
CPU = torch.device("cpu")


@pytest.fixture
def two_sets(blobs: Manifest) -> Manifest:
    """18 faces of one dataset and 6 of another."""
    rows = blobs.rows.copy()
    rows["dataset"] = ["bright" if index % 4 else "dark" for index in range(len(rows))]
    return Manifest.build(rows, blobs.root)


@pytest.fixture
def conditional(smallest: GanConfig) -> GanConfig:
    ramp = {"condition": "dataset", "condition_start_kimg": 0.02, "condition_end_kimg": 0.06}
    return smallest.model_copy(update=ramp)


def build() -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    generator = Generator(16, CHANNELS, z_width=8, w_width=8, mapping_depth=2, labels=3)
    discriminator = Discriminator(16, CHANNELS, blur=False, labels=3)
    torch.nn.init.normal_(generator.label_offsets)
    torch.nn.init.normal_(discriminator.label_directions)
    return generator, discriminator


def test_labels_and_their_shares_come_from_a_column(two_sets: Manifest) -> None:
    labels = label_faces(two_sets, "dataset")
    assert labels is not None
    assert labels.names == ("bright", "dark")
    assert labels.numbers[:5].tolist() == [1, 0, 0, 0, 1]
    assert labels.shares.tolist() == [0.75, 0.25]
    assert label_faces(two_sets, "none") is None


def test_one_value_is_no_condition(two_sets: Manifest) -> None:
    with pytest.raises(UserError, match=r"condition method needs faces of 2 or more, .* all .* are pristine"):
        label_faces(two_sets, "method")


def test_labels_of_no_weight_change_nothing() -> None:
    w, pictures, labels = torch.randn(4, 8), torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 1])
    for weight, same in ((0.0, True), (0.5, False)):
        generator, discriminator = build()
        generator.label_weight.fill_(weight)
        discriminator.label_weight.fill_(weight)
        with torch.no_grad():
            assert torch.equal(generator.condition(w, labels), w) is same
            assert torch.equal(discriminator(pictures, labels), discriminator(pictures)) is same


def test_projection_is_the_inner_product_with_the_labels_direction() -> None:
    _, discriminator = build()
    discriminator.label_weight.fill_(0.5)
    pictures, labels = torch.randn(4, 3, 16, 16), torch.tensor([2, 0, 1, 1])
    seen: list[torch.Tensor] = []
    discriminator.hidden.register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        difference = discriminator(pictures, labels) - discriminator(pictures)
    expected = [
        0.5 * (seen[0][i] @ discriminator.label_directions[label]).item() / 8**0.5 for i, label in enumerate(labels)
    ]
    assert difference.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_mixed_labels_give_each_latent_a_label_in_their_shares() -> None:
    z = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    generator, _ = build()
    generator.label_weight.fill_(0.5)
    generator.label_shares.copy_(torch.tensor([0.5, 0.0, 0.5]))
    generator.set_w_average()
    offsets, average = 0.5 * generator.label_offsets.detach(), generator.w_average.clone()
    with torch.no_grad():
        plain = generator.mapping(z)
        generator.mix_labels()
        moved = generator.mapping(z) - plain
    nearest = torch.cdist(moved, offsets).argmin(dim=1)
    torch.testing.assert_close(moved, offsets[nearest], atol=1e-5, rtol=0)
    counts = torch.bincount(nearest, minlength=3)
    assert counts[1] == 0
    assert abs(counts[0] - 256) < 5 * 512**0.5 / 2  # five standard deviations of a coin
    torch.testing.assert_close(generator.w_average, average + (offsets[0] + offsets[2]) / 2)


@pytest.mark.parametrize("psi", [1.0, 0.5])
def test_generator_of_one_label_equals_moving_w(psi: float) -> None:
    generator, _ = build()
    generator.label_weight.fill_(0.7)
    generator.set_w_average()
    z = torch.randn(3, 8)
    with torch.no_grad():
        w = torch.lerp(generator.w_average, generator.mapping(z), psi)
        w = generator.condition(w, torch.tensor([2, 2, 2]))
        expected = generator.synthesise(w[:, None].expand(-1, generator.layer_count, -1), None)
        torch.testing.assert_close(generator.for_label(2)(z, None, psi=psi), expected, rtol=1e-4, atol=1e-4)


def test_weight_ramps_with_the_pictures_shown(conditional: GanConfig) -> None:
    weights = []
    trainer = Trainer(conditional.resolved(), CPU, torch.tensor([0.5, 0.5]))
    for _ in range(10):
        trainer.step(torch.zeros(8, 3, 16, 16, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))
        weights.append(trainer.averaged.label_weight.item())
    assert weights == pytest.approx([min(1, max(0, (8 * step - 20) / 40)) for step in range(10)])


def test_conditional_job_keeps_its_labels_and_resumes(
    conditional: GanConfig, two_sets: Manifest, cache: Path, tmp_path: Path
) -> None:
    train(two_sets, conditional.model_copy(update={"kimg": 0.06}), tmp_path / "two", cache)
    folders = [train(two_sets, conditional, tmp_path / name, cache) for name in ("one", "two")]
    assert (folders[0] / "weights.safetensors").read_bytes() == (folders[1] / "weights.safetensors").read_bytes()
    card = read_card(folders[0])
    assert (card.condition, card.labels) == ("dataset", ("bright", "dark"))
    generator = load_generator(folders[0])
    alone = [export_label(folders[0], label, tmp_path / label) for label in card.labels]
    assert read_card(alone[0]).labels == ()
    pictures = [render(load_generator(folder), range(16), 1.0).astype(int) for folder in (folders[0], *alone)]
    near = [[np.abs(mixed - own).max() <= 1 for own in pair] for mixed, *pair in zip(*pictures, strict=True)]
    assert all(any(pair) for pair in near)
    assert not all(all(pair) for pair in near)
    with pytest.raises(UserError, match="does not know the label grey: it knows bright, dark"):
        export_label(folders[0], "grey", tmp_path / "grey")
    with pytest.raises(UserError, match="does not know the label dark: it was trained without a condition"):
        export_label(alone[0], "dark", tmp_path / "grey")
    assert generator.label_weight == 1
    assert generator.label_shares.tolist() == [0.75, 0.25]
    assert generator.label_offsets.abs().sum() > 0
    assert load_state(tmp_path / "one" / "training.pt")["trainer"]["discriminator"]["label_directions"].abs().sum() > 0


@pytest.mark.usefixtures("narrow")
def test_samples_obey_their_label_and_do_not_collapse(smallest: GanConfig) -> None:
    """Reds and blues of many strengths: each label gets its colour, and no label a single picture."""
    ramp = {"condition": "dataset", "condition_start_kimg": 0.4, "condition_end_kimg": 1.0, "ema_kimg": 0.3}
    sizes = {"kimg": 4.0, "augment": "none", "learning_rate": 0.005, "noise_inputs": False, "flip": False}
    trainer = Trainer(smallest.model_copy(update=ramp | sizes).resolved(), CPU, torch.tensor([0.5, 0.5]))
    random = torch.Generator().manual_seed(0)
    for _ in range(300):
        labels = torch.randint(0, 2, (8,), generator=random)
        strength = torch.randint(100, 256, (8, 1, 1), generator=random, dtype=torch.uint8)
        pictures = torch.full((8, 3, 16, 16), 30, dtype=torch.uint8)
        pictures[torch.arange(8), labels * 2] = strength.expand(8, 16, 16)
        trainer.step(pictures, labels)
    z = torch.randn(64, 8, generator=random)
    with torch.no_grad():
        colours = [trainer.averaged.for_label(label)(z, None).mean(dim=(2, 3)).numpy() for label in (0, 1)]
    redness = [colour[:, 0] - colour[:, 2] for colour in colours]
    assert (redness[0] > 0).mean() > 0.9
    assert (redness[1] < 0).mean() > 0.9
    spread = 2 * 155 / 255 / np.sqrt(12)  # of the strengths
    assert all(colour[:, 2 * label].std() > spread / 4 for label, colour in enumerate(colours))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"condition_start_kimg": 5, "condition_end_kimg": 5}, "condition_end_kimg 5 is not after"),
        ({"condition": "dataset", "kimg": 10}, "kimg 10 ends before the labels count in full"),
        ({"batch_size": 16, "accumulate": 3}, "batch_size 16 in 3 micro-batches .* take a batch_size that 12 divides"),
        ({"patience_kimg": 5, "validate_every_kimg": None}, "patience_kimg needs the validation"),
        ({"condition": "identity"}, "'none', 'method' or 'dataset'"),
    ],
)
def test_settings_that_do_not_go_together(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GanConfig.model_validate(fields)


def test_fakes_can_be_learnt_from_but_never_forged_ones(
    two_sets: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path
) -> None:
    rows = two_sets.rows.copy()
    rows["label"], rows["method"] = "fake", "face-swap"
    rows.loc[20:, ["generator", "seed"]] = ["0" * 16, 1]
    fakes = Manifest.build(rows, two_sets.root)
    config = smallest.model_copy(update={"learn_from": "fake"})
    assert train(fakes, config, tmp_path / "fakes", cache).is_dir()
    rows.loc[10:, "generator"] = "0" * 16
    with pytest.raises(UserError, match="10 fake faces in the train split, too few"):
        train(Manifest.build(rows, two_sets.root), config, tmp_path / "few", cache)
    with pytest.raises(UserError, match="0 real faces in the train split"):
        train(fakes, smallest, tmp_path / "reals", cache)
