"""One step of the game between generator and discriminator, and everything that must survive a restart.

The random numbers of step n are drawn from generators seeded by (seed, n) alone. A state therefore needs no random
states, and a resumed job continues exactly as if it had never stopped.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gan import augmentation
from gan.config import GanConfig
from gan.device import autocast
from gan.discriminator import Discriminator
from gan.generator import Generator, mix_styles
from gan.losses import LOSSES, gradient_penalty, share_on_real_side

# Steps between two adjustments of ADA's probability (Karras et al. 2020, section 3).
ADA_EVERY = 4


class Trainer:
    """Networks, averaged generator, optimisers and augmentation strength.

    Args:
        config: resolved.
        device: where everything lives.

    Attributes:
        averaged: the generator whose weights are an exponential moving average, the one that is published.
        steps, images: steps done, real pictures shown.
        probability: ADA's p.
    """

    def __init__(self, config: GanConfig, device: torch.device) -> None:
        assert config.batch_size is not None
        assert config.learning_rate is not None
        assert config.z_width is not None
        assert config.w_width is not None
        assert config.gamma is not None
        assert config.noise_inputs is not None
        self.config, self.device = config, device
        self.batch_size, self.gamma = config.batch_size, config.gamma
        with _seeded(config.seed):
            generator = Generator(
                config.image_size,
                config.channels,
                z_width=config.z_width,
                w_width=config.w_width,
                mapping_depth=config.mapping_depth,
                noise_inputs=config.noise_inputs,
            )
            discriminator = Discriminator(config.image_size, config.channels, blur=config.blur)
        self.generator = _placed(generator, device)
        self.discriminator = _placed(discriminator, device)
        self.averaged = copy.deepcopy(self.generator).eval().requires_grad_(False)
        # A lazy penalty takes steps of its own; the rescaling keeps Adam's path the same (StyleGAN2, appendix B).
        lazy = config.penalty_every / (config.penalty_every + 1) if self.gamma else 1.0
        self.generator_optimiser = _adam(self.generator, config.learning_rate, 1.0)
        self.discriminator_optimiser = _adam(self.discriminator, config.learning_rate, lazy)
        self.probability = 0.0
        self.overfitting = torch.zeros((), device=device)
        self.steps = 0

    @property
    def images(self) -> int:
        """Real pictures shown so far."""
        return self.steps * self.batch_size

    def step(self, pictures: Tensor) -> dict[str, Tensor]:
        """Update both networks once (the discriminator twice where a penalty is due).

        Args:
            pictures: uint8 [batch_size, 3, S, S].

        Returns:
            Losses and mean logits, detached scalars on the device.
        """
        random = self._random(self.steps)
        real = self._prepare(pictures, random)
        with autocast(self.device, self.config.precision):
            fake = self._forge(random)
        metrics = self._train_discriminator(real, fake.detach(), random)
        metrics |= self._train_generator(real, fake, random)
        self.steps += 1
        self._average()
        if self.config.augment == "ada" and self.steps % ADA_EVERY == 0:
            self.probability = augmentation.next_probability(
                self.probability,
                self.overfitting.item() / ADA_EVERY,
                target=self.config.ada_target,
                pictures=ADA_EVERY * self.batch_size,
                kimg_from_0_to_1=self.config.ada_kimg,
            )
            self.overfitting = torch.zeros_like(self.overfitting)
        return metrics

    def _train_discriminator(self, real: Tensor, fake: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        loss_of, _, penalise_fakes = LOSSES[self.config.loss]
        count = len(real)
        with torch.no_grad():
            # One pass over both: minibatch deviation groups neighbours, so reals and fakes never share a group.
            shown = self._augment(torch.cat([real, fake]), random)
        with autocast(self.device, self.config.precision):
            real_logits, fake_logits = self.discriminator(shown).split(count)
        loss = loss_of(real_logits, fake_logits)
        self._update(self.discriminator_optimiser, loss)
        real_logits, fake_logits = real_logits.detach(), fake_logits.detach()
        sign = share_on_real_side(real_logits, fake_logits, relativistic=penalise_fakes)
        self.overfitting = self.overfitting + sign
        metrics = {
            "loss_discriminator": loss.detach(),
            "logit_real": real_logits.mean(),
            "logit_fake": fake_logits.mean(),
            "ada_overfitting": sign,
        }
        if self.gamma and self.steps % self.config.penalty_every == 0:
            with autocast(
                self.device, "float32" if self.config.penalty_precision == "float32" else self.config.precision
            ):
                penalties = gradient_penalty(self.discriminator, shown if penalise_fakes else shown[:count])
            # R1 and R2 have one mean each; both halves of the batch are equally long.
            penalty = penalties.mean() * (2 if penalise_fakes else 1)
            self._update(self.discriminator_optimiser, penalty * (self.gamma / 2 * self.config.penalty_every))
            metrics["penalty"] = penalty.detach()
        return metrics

    def _train_generator(self, real: Tensor, fake: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        _, loss_of, relativistic = LOSSES[self.config.loss]
        self.discriminator.requires_grad_(False)
        with autocast(self.device, self.config.precision):
            fake_logits = self.discriminator(self._augment(fake, random))
            if relativistic:
                with torch.no_grad():
                    real_logits = self.discriminator(self._augment(real, random))
            else:
                real_logits = fake_logits.detach()
        loss = loss_of(real_logits, fake_logits)
        self._update(self.generator_optimiser, loss)
        self.discriminator.requires_grad_(True)
        return {"loss_generator": loss.detach()}

    def _forge(self, random: torch.Generator) -> Tensor:
        """The step's fakes; both players train on the same ones, which saves a pass of the generator."""
        network, count = self.generator, self.batch_size

        def normal(width: int) -> Tensor:
            return torch.randn(count, width, generator=random, device=self.device)

        w, noise = network.mapping(normal(network.z_width)), normal(network.noise_count)
        layers = network.layer_count
        if not self.config.style_mixing:
            return network.synthesise(w[:, None].expand(-1, layers, -1), noise)
        other = network.mapping(normal(network.z_width))
        mixed = torch.rand(count, generator=random, device=self.device) < self.config.style_mixing
        crossover = torch.randint(1, layers, (count,), generator=random, device=self.device)
        return network.synthesise(mix_styles(w, other, torch.where(mixed, crossover, layers), layers), noise)

    def _prepare(self, pictures: Tensor, random: torch.Generator) -> Tensor:
        """uint8 [B, 3, S, S] -> float32 in [-1, 1] on the device, half of them mirrored."""
        real = pictures.to(self.device, non_blocking=True).float() / 127.5 - 1.0
        if self.config.flip:
            mirror = torch.rand(len(real), generator=random, device=self.device) < 0.5
            real = torch.where(mirror[:, None, None, None], real.flip(3), real)
        return real

    def _augment(self, pictures: Tensor, random: torch.Generator) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            if self.config.augment == "ada":
                return augmentation.adaptive(pictures, self.probability, random)
            if self.config.augment == "diffaugment":
                return augmentation.diffaugment(pictures, random)
            return pictures

    def _average(self) -> None:
        """EMA with a half-life that grows with what was shown (StyleGAN2-ADA), in place and without copies."""
        half_life = min(self.config.ema_kimg * 1000, self.images * self.config.ema_rampup)
        weight = 1.0 - 0.5 ** (self.batch_size / max(half_life, 1e-8))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.generator.parameters()), weight)

    @staticmethod
    def _update(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    def _random(self, step: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(derived_seed(self.config.seed, step))

    def is_finite(self) -> bool:
        """Whether every weight of both networks is a number."""
        weights = [*self.generator.parameters(), *self.discriminator.parameters()]
        return bool(torch.stack(torch._foreach_norm(weights)).isfinite().all())

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, tensors and plain containers only."""
        return {
            "steps": self.steps,
            "probability": self.probability,
            "overfitting": self.overfitting.item(),
            "generator": self.generator.state_dict(),
            "averaged": self.averaged.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "generator_optimiser": self.generator_optimiser.state_dict(),
            "discriminator_optimiser": self.discriminator_optimiser.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()` of the same configuration."""
        for name in ("generator", "averaged", "discriminator", "generator_optimiser", "discriminator_optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.steps, self.probability = state["steps"], state["probability"]
        self.overfitting = torch.tensor(state["overfitting"], device=self.device)


def derived_seed(*entropy: int) -> int:
    """A 63-bit seed from a few integers, such that neighbours give unrelated streams (NumPy's SeedSequence)."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _adam(network: nn.Module, learning_rate: float, lazy: float) -> torch.optim.Adam:
    return torch.optim.Adam(
        network.parameters(), lr=learning_rate * lazy, betas=(0.0, 0.99**lazy), eps=1e-8, fused=True
    )


def _placed(network: Any, device: torch.device) -> Any:
    return network.to(device).to(memory_format=torch.channels_last)


class _seeded:  # noqa: N801, a context manager reads as a verb
    """Initialise weights from a seed, and leave torch's global generator as it was: nn.Parameter takes no generator."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.before = torch.get_rng_state()
        torch.manual_seed(derived_seed(self.seed))

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self.before)
