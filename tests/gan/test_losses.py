"""Losses against their formulas, and the penalty's gradient against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gan.losses import LOSSES, gradient_penalty, share_on_real_side

REAL, FAKE = torch.tensor([1.0, -0.5, 2.0]), torch.tensor([0.3, 0.8, -1.0])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        (
            "relativistic",
            mean([softplus(f - r) for r, f in zip(REAL.tolist(), FAKE.tolist(), strict=True)]),
            mean([softplus(r - f) for r, f in zip(REAL.tolist(), FAKE.tolist(), strict=True)]),
        ),
        (
            "ns-r1",
            mean([softplus(-r) for r in REAL.tolist()]) + mean([softplus(f) for f in FAKE.tolist()]),
            mean([softplus(-f) for f in FAKE.tolist()]),
        ),
    ],
)
def test_losses_follow_their_formulas(name: str, discriminator: float, generator: float) -> None:
    of_discriminator, of_generator, _ = LOSSES[name]
    assert of_discriminator(REAL, FAKE).item() == pytest.approx(discriminator, rel=1e-5)
    assert of_generator(REAL, FAKE).item() == pytest.approx(generator, rel=1e-5)


def test_penalty_of_a_linear_discriminator_is_its_squared_weight() -> None:
    weight = torch.randn(3, 4, 4)
    penalty = gradient_penalty(lambda x: (x * weight).sum(dim=(1, 2, 3)), torch.randn(5, 3, 4, 4))
    torch.testing.assert_close(penalty, weight.square().sum().expand(5))


def test_gradient_of_the_penalty_by_finite_differences() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(16, 1)).double()
    pictures = torch.randn(2, 3, 4, 4, dtype=torch.float64)

    def penalty() -> Tensor:
        return gradient_penalty(lambda x: network(x).squeeze(1), pictures).sum()

    weight = network[0].weight
    (gradient,) = torch.autograd.grad(penalty(), weight)
    direction = torch.randn_like(weight)
    step = 1e-4
    with torch.no_grad():
        weight += step * direction
    above = penalty().item()
    with torch.no_grad():
        weight -= 2 * step * direction
    below = penalty().item()
    assert (above - below) / (2 * step) == pytest.approx((gradient * direction).sum().item(), rel=1e-5)


def test_overfitting_signal_ignores_the_offset_of_relativistic_logits() -> None:
    real, fake = torch.tensor([3.0, 4.0, 5.0, 0.5]), torch.tensor([0.0, 1.0, 2.0, 1.0])
    assert share_on_real_side(real, fake, relativistic=True).item() == 0.5
    assert share_on_real_side(real - 100, fake - 100, relativistic=True).item() == 0.5
    assert share_on_real_side(real - 100, fake - 100, relativistic=False).item() == -1.0
