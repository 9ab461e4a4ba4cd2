"""Degradations: each against a reference or an invariant, and none that knows its neighbours."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from classifier.robustness import LADDERS, degrade

KINDS = list(LADDERS)


def faces(count: int = 3, side: int = 48) -> torch.Tensor:
    """Smooth coloured pictures with some texture, uint8 [B, 3, S, S]."""
    random = torch.Generator().manual_seed(0)
    low = torch.nn.functional.interpolate(torch.rand(count, 3, 6, 6, generator=random), (side, side), mode="bicubic")
    texture = 12 * torch.randn(count, 1, side, side, generator=random)
    return (40 + 170 * low.clamp(0, 1) + texture).clamp(0, 255).to(torch.uint8)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_every_rung_is_worse_than_the_one_before(kind: str) -> None:
    images = faces(side=160)
    before = images.clone()
    far = [distance(images, degrade(images, kind, level)) for level in LADDERS[kind]]
    # Of gammas two neighbours lighten and darken by about as much: those two steps further on count.
    pairs = zip(far, far[2:], strict=False) if kind == "gamma" else pairwise(far)
    assert all(a < b for a, b in pairs)
    assert (images == before).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [48, 33])
def test_a_picture_does_not_know_its_batch(kind: str, side: int) -> None:
    images = faces(4, side)
    level = LADDERS[kind][2]
    together = degrade(images, kind, level)
    assert together.dtype == torch.uint8
    assert together.shape == images.shape
    alone = torch.cat([degrade(one[None], kind, level) for one in images.flip(0)]).flip(0)
    assert (together == alone).all()
    assert (degrade(images, kind, level) == together).all()


def test_jpeg_is_that_of_pillow() -> None:
    images = faces(2)
    found = degrade(images, "jpeg", 50)
    for one, coded in zip(images, found, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(one.permute(1, 2, 0).numpy()).save(buffer, "jpeg", quality=50, subsampling="4:2:0")
        assert (coded.permute(1, 2, 0).numpy() == np.asarray(Image.open(buffer))).all()


def test_noise_has_the_deviation_and_follows_the_key_and_the_seed() -> None:
    grey = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
    noise = degrade(grey, "noise", 10, ["a", "b"]).float() - 128
    assert noise.std() == pytest.approx(10, rel=0.03)
    assert abs(float(noise.mean())) < 0.2
    assert not (noise[0] == noise[1]).all()
    again = degrade(grey, "noise", 10, ["b", "a"]).float() - 128
    assert (again.flip(0) == noise).all()
    assert not (degrade(grey, "noise", 10, ["a", "b"], seed=1).float() - 128 == noise).all()


def test_gamma_crop_and_blur_by_their_definitions() -> None:
    images = faces(1)
    expected = np.rint(255 * (images.numpy() / 255.0) ** 1.7)
    assert np.abs(degrade(images, "gamma", 1.7).numpy() - expected).max() <= 1
    assert (degrade(images, "gamma", 1.0) == images).all()
    assert (degrade(images, "crop", 1.0) == images).all()
    flat = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    for kind in KINDS:
        if kind not in ("noise", "gamma"):
            assert (degrade(flat, kind, LADDERS[kind][0]).float() - 77).abs().max() <= 2
    point = torch.zeros(1, 3, 65, 65, dtype=torch.uint8)
    point[..., 32, 32] = 255
    blurred = degrade(point, "blur", 100 * 2 / 65)[0, 0, 32].float()
    assert blurred.argmax() == 32
    assert float(blurred[34] / blurred[32]) == pytest.approx(np.exp(-0.5), abs=0.1)  # two pixels are one sigma


def test_h264_knows_more_than_one_frame_and_odd_sides() -> None:
    images = faces(5, 47)
    assert degrade(images, "h264", 22).shape == images.shape
    assert distance(images, degrade(images, "h264", 22)) < 8


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'fog'.*jpeg"):
        degrade(faces(), "fog", 1)
    with pytest.raises(ValueError, match="uint8"):
        degrade(faces().float(), "jpeg", 50)
    assert len(degrade(faces()[:0], "h264", 30)) == 0
