"""Both networks, whole, against float64 references that follow the papers and share no code with them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan.losses import gradient_penalty
from gan.networks import Discriminator, Generator

State = dict[str, Tensor]
SIZE = 16
CHANNELS = {4: 12, 8: 10, 16: 6}


def randomised(network: torch.nn.Module, seed: int = 0) -> State:
    """Double precision, and every weight random, biases and noise strengths too; the state that holds them."""
    network.double()
    random = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    return dict(network.state_dict())


def dense(state: State, name: str, x: Tensor, *, rate: float = 1.0) -> Tensor:
    weight = state[f"{name}.weight"] * rate / math.sqrt(x.shape[1])
    return x @ weight.T + state[f"{name}.bias"] * rate


def activation(x: Tensor, gain: float = math.sqrt(2)) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * gain


def modulated(state: State, name: str, x: Tensor, w: Tensor, *, demodulate: bool) -> Tensor:
    """StyleGAN2, equations 1 and 3, sample by sample."""
    weight = state[f"{name}.weight"]
    weight = weight / math.sqrt(weight[0].numel())
    outputs = []
    for picture, style in zip(x, dense(state, f"{name}.affine", w), strict=True):
        own = weight * style[None, :, None, None]
        if demodulate:
            own = own / (own.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        outputs.append(F.conv2d(picture[None], own, padding=own.shape[-1] // 2))
    return torch.cat(outputs)


def doubled(x: Tensor) -> Tensor:
    """Bilinear by hand: every output pixel is 3/4 of the nearest input and 1/4 of the next, along both axes."""
    for axis in (2, 3):
        before = torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        after = torch.cat([x.narrow(axis, 1, x.shape[axis] - 1), x.narrow(axis, x.shape[axis] - 1, 1)], axis)
        pair = torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.flatten(axis, axis + 1)
    return x


def reference_generator(state: State, z: Tensor, noise: Tensor) -> Tensor:
    w = z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    for index in range(2):
        w = activation(dense(state, f"mapping.layers.{index}", w, rate=0.01))
    x = state["constant"].expand(len(z), -1, -1, -1)
    picture: Tensor | None = None
    used = 0
    for block in range(3):
        for layer in range(1 if block == 0 else 2):
            name = f"blocks.{block}.layers.{layer}"
            x = doubled(x) if layer == 1 else x
            side = x.shape[-1]
            field = noise[:, used : used + side**2].reshape(-1, 1, side, side)
            used += side**2
            x = modulated(state, f"{name}.convolution", x, w, demodulate=True)
            x = activation(x + field * state[f"{name}.noise_strength"] + state[f"{name}.bias"][:, None, None])
        name = f"blocks.{block}.to_rgb"
        rgb = modulated(state, f"{name}.convolution", x, w, demodulate=False) + state[f"{name}.bias"][:, None, None]
        picture = rgb if picture is None else doubled(picture) + rgb
    assert picture is not None
    return picture


def reference_discriminator(state: State, pictures: Tensor) -> Tensor:
    def convolution(name: str, x: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        weight = weight / math.sqrt(weight[0].numel())
        return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def halved(x: Tensor) -> Tensor:
        return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4

    x = activation(convolution("from_rgb", pictures))
    for block in range(2):
        inner = halved(activation(convolution(f"blocks.{block}.first", x)))
        inner = activation(convolution(f"blocks.{block}.second", inner))
        x = (inner + convolution(f"blocks.{block}.shortcut", halved(x))) / math.sqrt(2)
    groups = []
    for start in range(0, len(x), 4):
        own = x[start : start + 4]
        deviation = ((own - own.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean()
        groups.append(torch.cat([own, deviation.expand(4, 1, 4, 4)], dim=1))
    x = activation(convolution("last", torch.cat(groups)))
    return dense(state, "logit", activation(dense(state, "hidden", x.flatten(1)))).squeeze(1)


def test_generator_equals_the_reference() -> None:
    generator = Generator(SIZE, CHANNELS, z_width=5, w_width=7, mapping_depth=2)
    state = randomised(generator)
    random = torch.Generator().manual_seed(1)
    z = torch.randn(3, 5, generator=random, dtype=torch.float64)
    noise = torch.randn(3, generator.noise_count, generator=random, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(generator(z, noise), reference_generator(state, z, noise))


def test_discriminator_equals_the_reference() -> None:
    discriminator = Discriminator(SIZE, CHANNELS, blur=False)
    state = randomised(discriminator)
    pictures = torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(discriminator(pictures), reference_discriminator(state, pictures))


def test_penalty_is_the_squared_gradient_by_finite_differences() -> None:
    """R1 at reals and R2 at fakes are this one function: every pixel of four pictures is moved by hand."""
    size = 8
    discriminator = Discriminator(size, {4: 6, 8: 4}, blur=False)
    state = randomised(discriminator)
    pictures = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-6
    expected = []
    with torch.no_grad():
        for index in range(4):  # a picture enters the logits of its whole group, through the deviation
            moved = pictures.repeat(pictures[0].numel(), 1, 1, 1, 1)
            moves = step * torch.eye(pictures[0].numel(), dtype=torch.float64).view(-1, 3, size, size)
            moved[:, index] += moves
            above = discriminator(moved.flatten(0, 1)).view(-1, 4).sum(dim=1)
            moved[:, index] -= 2 * moves
            below = discriminator(moved.flatten(0, 1)).view(-1, 4).sum(dim=1)
            expected.append(((above - below) / (2 * step)).square().sum())
    penalty = gradient_penalty(discriminator, pictures).detach()
    assert state["logit.weight"].dtype == torch.float64
    torch.testing.assert_close(penalty, torch.stack(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("side", [4, 6])
def test_the_reference_doubles_as_interpolation_does(side: int) -> None:
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    torch.testing.assert_close(doubled(x), F.interpolate(x, scale_factor=2, mode="bilinear"))
