"""What the augmentations leave alone, what they change, and how ADA steers them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gan import augmentation

PICTURES = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1

PIPELINES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "ada": lambda x, random: augmentation.adaptive(x, 0.7, random),
    "ada-certain": lambda x, random: augmentation.adaptive(x, 1.0, random),
    "diffaugment": augmentation.diffaugment,
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_probability_zero_changes_nothing() -> None:
    assert augmentation.adaptive(PICTURES, 0.0, seeded(0)) is PICTURES


def test_a_small_probability_leaves_most_pictures_alone() -> None:
    out = augmentation.adaptive(PICTURES, 0.01, seeded(0))
    untouched = ((out - PICTURES).abs().amax(dim=(1, 2, 3)) < 1e-4).sum()
    assert untouched >= 12


@pytest.mark.parametrize("name", PIPELINES)
def test_same_seed_same_pictures_and_other_seed_other_pictures(name: str) -> None:
    one, again, other = (PIPELINES[name](PICTURES, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == PICTURES.shape
    assert one.isfinite().all()


@pytest.mark.parametrize("name", PIPELINES)
def test_gradients_reach_the_pictures(name: str) -> None:
    pictures = PICTURES.double().float().requires_grad_(True)
    (gradient,) = torch.autograd.grad(PIPELINES[name](pictures, seeded(0)).square().sum(), pictures)
    assert gradient.isfinite().all()
    assert (gradient.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_hue_and_saturation_leave_grey_alone() -> None:
    ones = torch.ones(4)
    matrix = augmentation._colour(ones, ones, torch.tensor([0.0, 1.0, 2.0, 3.0]), ones * 1.7)
    grey = torch.full((4, 3, 1), 0.4)
    torch.testing.assert_close(matrix @ grey, grey)


def test_a_turned_hue_keeps_lengths() -> None:
    ones = torch.ones(4)
    matrix = augmentation._colour(ones, ones, torch.tensor([0.0, 1.0, 2.0, 3.0]), ones)
    torch.testing.assert_close(matrix @ matrix.transpose(1, 2), torch.eye(3).expand(4, 3, 3), atol=1e-5, rtol=0)


def test_cutout_blanks_a_quarter_at_the_centre() -> None:
    half = torch.full((2,), 0.5)
    kept = augmentation._cut(torch.ones(2, 1, 16, 16), half, half, half)
    assert kept.sum(dim=(1, 2, 3)).tolist() == [192.0, 192.0]


@pytest.mark.parametrize(("overfitting", "expected"), [(0.9, 0.31), (0.2, 0.29)])
def test_controller_raises_the_probability_when_it_overfits(overfitting: float, expected: float) -> None:
    after = augmentation.next_probability(0.3, overfitting, target=0.6, pictures=100, kimg_from_0_to_1=10)
    assert after == pytest.approx(expected)


def test_controller_stays_between_0_and_1() -> None:
    for start, overfitting, end in ((0.999, 1.0, 1.0), (0.001, -1.0, 0.0)):
        assert augmentation.next_probability(start, overfitting, target=0.6, pictures=100, kimg_from_0_to_1=1) == end
