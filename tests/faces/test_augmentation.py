"""Augmentation: the dial's ends, determinism, and each operation alone against a reference."""

from __future__ import annotations

import io
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from faces import augmentation
from faces.augmentation import augment

SIZE = 48


@pytest.fixture
def pictures() -> Tensor:
    """[12, 3, 48, 48] smooth colourful pictures in the middle of the range, so that nothing clips."""
    noise = np.random.default_rng(0).normal(size=(12, SIZE, SIZE, 3)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(picture, (0, 0), 4) for picture in noise])
    smooth = 127 + 30 * smooth / np.abs(smooth).max()
    return torch.from_numpy(smooth.round().astype(np.uint8)).permute(0, 3, 1, 2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    """Every picture gets this operation, and no other."""
    chances = {each: 2.0 if each == name else 0.0 for each in augmentation.PROBABILITY}
    monkeypatch.setattr(augmentation, "PROBABILITY", chances)


def still(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setattr(augmentation, name, 0.0)


def test_strength_zero_changes_nothing_and_draws_nothing(pictures: Tensor) -> None:
    generator = seeded()
    before = generator.get_state()
    assert torch.equal(augment(pictures, 0, generator), pictures)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("strength", [0.01, 0.5, 1.0])
def test_same_state_same_pictures_and_the_input_is_left_alone(pictures: Tensor, strength: float) -> None:
    original = pictures.clone()
    first = augment(pictures, strength, seeded())
    assert torch.equal(pictures, original)
    assert torch.equal(first, augment(pictures.contiguous(), strength, seeded()))
    assert not torch.equal(first, augment(pictures, strength, seeded(1)))
    assert first.dtype == torch.uint8
    assert first.shape == pictures.shape
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_draws_do_not_depend_on_pictures_or_strength(pictures: Tensor) -> None:
    one, two = seeded(), seeded()
    augment(pictures, 1.0, one)
    augment(torch.zeros_like(pictures), 0.2, two)
    assert torch.equal(one.get_state(), two.get_state())


def test_effect_grows_with_strength(pictures: Tensor) -> None:
    upright = augmentation.PROBABILITY | {"flip": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augmentation, "PROBABILITY", upright)
        changes = [(augment(pictures, s, seeded()).float() - pictures).abs().mean() for s in (0.02, 0.2, 1.0)]
    assert changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_strength_outside_its_range_is_refused(pictures: Tensor, bad: float) -> None:
    with pytest.raises(ValueError, match="not in"):
        augment(pictures, bad, seeded())


@pytest.mark.parametrize("bad", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)])
def test_other_tensors_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        augment(bad, 0.5, seeded())


def test_no_pictures_are_no_pictures() -> None:
    assert len(augment(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), 1.0, seeded())) == 0


def test_nothing_hit_is_nothing_changed(monkeypatch: pytest.MonkeyPatch, pictures: Tensor) -> None:
    only(monkeypatch, None)
    assert torch.equal(augment(pictures, 1.0, seeded()), pictures)


def test_flip_mirrors(monkeypatch: pytest.MonkeyPatch, pictures: Tensor) -> None:
    only(monkeypatch, "flip")
    assert torch.equal(augment(pictures, 0.1, seeded()), pictures.flip(3))


def test_flip_hits_about_half_at_any_strength(monkeypatch: pytest.MonkeyPatch, pictures: Tensor) -> None:
    monkeypatch.setattr(augmentation, "PROBABILITY", dict.fromkeys(augmentation.PROBABILITY, 0.0) | {"flip": 0.5})
    many = pictures[:1].expand(1000, -1, -1, -1)
    mirrored = (augment(many, 0.1, seeded()) == pictures[:1].flip(3)).flatten(1).all(1).float().mean()
    assert 0.45 < mirrored < 0.55


@pytest.mark.parametrize("flip", [False, True])
def test_warp_rotates_zooms_and_shifts_as_opencv_does(pictures: Tensor, flip: bool) -> None:
    x = pictures.float().contiguous()
    signed = torch.tensor([[0.8, -0.5, 0.6, -0.9]]).expand(len(x), -1)
    yes = torch.ones(len(x), dtype=torch.bool)
    x = augmentation._warped(x, yes if flip else ~yes, signed)

    zoom, angle = np.exp(-0.5 * augmentation.ZOOM), np.deg2rad(0.8 * augmentation.ROTATION_DEGREES)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if flip:
        turn = turn @ np.diag([-1, 1])
    middle = np.full(2, (SIZE - 1) / 2)
    shift = np.array([0.6, -0.9]) * augmentation.SHIFT * SIZE
    matrix = np.column_stack([turn, middle - turn @ middle + shift])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for got, picture in zip(x, pictures, strict=True):
        picture_hwc = picture.permute(1, 2, 0).numpy().astype(np.float32)
        expected = cv2.warpAffine(picture_hwc, matrix, (SIZE, SIZE), flags=flags, borderMode=cv2.BORDER_REFLECT)
        assert np.abs(got.permute(1, 2, 0).numpy() - expected).max() < 1.0  # OpenCV has 5 bits of the fraction


def test_brightness_alone_adds_one_value(monkeypatch: pytest.MonkeyPatch, pictures: Tensor) -> None:
    only(monkeypatch, "colour")
    still(monkeypatch, "CONTRAST", "SATURATION", "HUE_DEGREES")
    change = (augment(pictures, 0.5, seeded()).int() - pictures.int()).flatten(1)
    assert (change.max(1).values - change.min(1).values).max() <= 1
    assert change.float().mean(1).abs().max() <= 0.5 * augmentation.BRIGHTNESS * 255 + 0.5
    assert change.float().mean(1).std() > 3


def test_contrast_alone_scales_about_the_mean_grey(monkeypatch: pytest.MonkeyPatch, pictures: Tensor) -> None:
    only(monkeypatch, "colour")
    still(monkeypatch, "BRIGHTNESS", "SATURATION", "HUE_DEGREES")
    before, after = pictures.float(), augment(pictures, 0.8, seeded()).float()
    grey = torch.tensor(augmentation._YIQ[0])
    assert (torch.einsum("bchw,c->b", after - before, grey) / SIZE**2).abs().max() < 0.5
    ratio = after.flatten(1).std(1) / before.flatten(1).std(1)
    assert ratio.min() > 1 - 0.8 * augmentation.CONTRAST - 0.05
    assert ratio.max() < 1 + 0.8 * augmentation.CONTRAST + 0.05
    assert ratio.max() - ratio.min() > 0.1


@pytest.mark.parametrize("quiet", ["HUE_DEGREES", "SATURATION"])
def test_hue_and_saturation_keep_grey(monkeypatch: pytest.MonkeyPatch, pictures: Tensor, quiet: str) -> None:
    only(monkeypatch, "colour")
    still(monkeypatch, "BRIGHTNESS", "CONTRAST", quiet)
    after = augment(pictures, 1.0, seeded())
    grey = torch.tensor(augmentation._YIQ[0])
    assert torch.einsum("bchw,c->bhw", after.float() - pictures.float(), grey).abs().max() <= 1
    assert not torch.equal(after, pictures)
    colourless = pictures[:, :1].expand(-1, 3, -1, -1)
    # The published NTSC matrix is rounded to four digits: a grey level may turn.
    assert (augment(colourless, 1.0, seeded()).int() - colourless.int()).abs().max() <= 1


def test_blur_is_a_gaussian(pictures: Tensor) -> None:
    x = pictures.float().contiguous()
    sigma = torch.linspace(0.3, 1.6, len(x))
    x = augmentation._blurred(x, sigma)
    for got, picture, s in zip(x, pictures, sigma, strict=True):
        hwc = picture.permute(1, 2, 0).numpy().astype(np.float32)
        expected = cv2.GaussianBlur(hwc, (9, 9), float(s), borderType=cv2.BORDER_REPLICATE)
        assert np.abs(got.permute(1, 2, 0).numpy() - expected).max() < 1e-2


def test_noise_has_the_level_asked_for() -> None:
    x = torch.full((4, 3, 64, 64), 100.0)
    level = torch.tensor([0.0, 3.0, 6.0, 12.0])
    augmentation._change(x, torch.tensor([True, True, False, True]), partial(augmentation._noisy, seed=7), level)
    assert torch.equal(x[2], torch.full_like(x[2], 100))
    assert x[[0, 1, 3]].flatten(1).std(1).numpy() == pytest.approx([0, 3, 12], rel=0.03)


def test_scaling_takes_fine_detail_away_and_keeps_the_mean() -> None:
    stripes = (torch.arange(SIZE) % 2 * 100.0 + 50).expand(1, 3, SIZE, SIZE).contiguous()
    stripes = torch.cat([augmentation._rescaled(stripes, scale) for scale in (1.0, 0.5, 0.375)])
    spread = stripes[..., 4:-4].flatten(1).std(1)
    assert spread[0] > 49
    assert (spread[1:] < 8).all()
    assert (stripes.mean((1, 2, 3)) - 100).abs().max() < 1


def test_jpeg_equals_pillow(pictures: Tensor) -> None:
    x = pictures.clone(memory_format=torch.channels_last)
    quality = torch.linspace(30, 95, len(x)).int()
    hit = torch.arange(len(x)) % 2 == 0
    augmentation._change(x, hit, augmentation.jpeg, quality)
    assert torch.equal(x[~hit], pictures[~hit])
    for row in hit.nonzero().flatten().tolist():
        buffer = io.BytesIO()
        Image.fromarray(pictures[row].permute(1, 2, 0).numpy()).save(buffer, "jpeg", quality=int(quality[row]))
        expected = np.asarray(Image.open(buffer)).astype(int)
        assert np.abs(x[row].permute(1, 2, 0).numpy() - expected).max() <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_device_it_is_the_same_but_for_the_noise(monkeypatch: pytest.MonkeyPatch, pictures: Tensor) -> None:
    monkeypatch.setattr(augmentation, "PROBABILITY", augmentation.PROBABILITY | {"noise": 0.0, "jpeg": 0.0})
    there = augment(pictures.cuda(), 1.0, seeded())
    assert there.is_cuda
    assert (there.cpu().int() - augment(pictures, 1.0, seeded()).int()).abs().max() <= 1
