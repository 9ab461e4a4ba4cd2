"""Shapes, and what generator and discriminator promise beyond them."""

from __future__ import annotations

import pytest
import torch

from gan.config import PRESETS
from gan.networks import Discriminator, Generator, mix_styles


def build(image_size: int = 16, **options: bool) -> Generator:
    torch.manual_seed(0)
    channels = PRESETS["tiny"].channels(image_size)
    generator = Generator(image_size, channels, z_width=8, w_width=8, mapping_depth=2, **options)
    for block in generator.blocks:
        for layer in block.layers:
            torch.nn.init.constant_(layer.noise_strength, 0.5)
    return generator


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("image_size", [16, 32])
def test_every_preset_builds_and_runs(preset: str, image_size: int) -> None:
    sizes = PRESETS[preset]
    channels = sizes.channels(image_size)
    generator = Generator(image_size, channels, z_width=sizes.z_width, w_width=sizes.w_width, mapping_depth=2)
    discriminator = Discriminator(image_size, channels, blur=True)
    with torch.no_grad():
        pictures = generator(torch.randn(4, sizes.z_width), torch.randn(4, generator.noise_count))
        assert pictures.shape == (4, 3, image_size, image_size)
        assert discriminator(pictures).shape == (4,)


def test_truncation_pulls_to_the_average_face() -> None:
    generator = build()
    generator.set_w_average()
    z = torch.randn(3, 8)
    with torch.no_grad():
        average = generator(z, None, psi=0.0)
        whole, half = generator(z, None, psi=1.0), generator(z, None, psi=0.5)
    torch.testing.assert_close(average[0], average[1])
    assert (half - average).norm() < (whole - average).norm()


def test_noise_matters_only_where_there_are_noise_inputs() -> None:
    z = torch.randn(2, 8)
    for inputs in (True, False):
        generator = build(noise_inputs=inputs)
        with torch.no_grad():
            one, other = (generator(z, torch.randn(2, generator.noise_count)) for _ in range(2))
        assert torch.equal(one, other) is not inputs


def test_mixing_takes_the_other_style_from_the_crossover_on() -> None:
    w, other = torch.zeros(2, 3), torch.ones(2, 3)
    mixed = mix_styles(w, other, torch.tensor([2, 5]), 5)
    assert mixed[:, :, 0].tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]


def test_reals_and_fakes_in_one_batch_score_as_in_two() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(16, PRESETS["tiny"].channels(16), blur=False)
    real, fake = torch.randn(4, 3, 16, 16), torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        joined = discriminator(torch.cat([real, fake]))
        torch.testing.assert_close(joined, torch.cat([discriminator(real), discriminator(fake)]), rtol=1e-4, atol=1e-5)


def test_logits_stay_float32_under_autocast() -> None:
    discriminator = Discriminator(16, PRESETS["tiny"].channels(16), blur=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert discriminator(torch.randn(4, 3, 16, 16)).dtype == torch.float32
