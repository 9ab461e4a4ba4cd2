"""One training step of generator and discriminator: its random inputs, its updates, and the state that is saved.

The random numbers of a step follow from seed, step and purpose (see `core.device`) and are always drawn for the whole
batch. A state therefore holds no random states, and a step in micro-batches or on several devices sees the same inputs.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core.device import FLIPS, FORGED, LATENTS, PAIRED, SHOWN, autocast, derived_seed, keep_freed_memory, seeded
from core.errors import UserError
from gan import augmentation
from gan.augmentation import Rows
from gan.config import GanConfig
from gan.distributed import ProcessGroup
from gan.losses import LOSSES, gradient_penalty, share_on_real_side
from gan.networks import GROUP_SIZE, Discriminator, Generator, mix_styles

# Steps between two adjustments of ADA's probability (Karras et al. 2020, section 3).
ADA_EVERY = 4
_LEARNT = ("generator", "averaged", "discriminator", "generator_optimiser", "discriminator_optimiser")  # of a state


class Part(NamedTuple):
    """A micro-batch: rows `start` ... `start + len(real) - 1` of the step's batch."""

    start: int
    real: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class StepInputs:
    """What one step is fed with: mirrored reals, latents and noise, augmented pictures."""

    config: GanConfig
    device: torch.device
    batch_size: int  # of the whole step, all processes together
    rows: slice  # of the batch, those that this process takes
    part_size: int  # rows of a micro-batch
    step: int
    probability: float  # ADA's p

    def parts(self, pictures: Tensor, labels: Tensor | None) -> Iterator[Part]:
        """Micro-batches of float32 pictures in [-1, 1] on the device, half of them mirrored.

        From this process's `rows`: pictures uint8 [b, 3, S, S], labels int64 [b] or None.
        """
        real = pictures.to(self.device, non_blocking=True).float() / 127.5 - 1.0
        if self.config.flip:
            random = self._random(FLIPS)
            mirror = (torch.rand(self.batch_size, generator=random, device=self.device) < 0.5)[self.rows]
            real = torch.where(mirror[:, None, None, None], real.flip(3), real)
        if labels is not None:
            labels = labels.to(self.device)
        for start in range(0, len(real), self.part_size):
            own = slice(start, start + self.part_size)
            yield Part(self.rows.start + start, real[own], None if labels is None else labels[own])

    def latents(self, network: Generator, part: Part) -> tuple[Tensor, Tensor | None]:
        """A w a layer, with style mixing, and the noise: what `Generator.synthesise` takes."""
        count = self.batch_size
        random, rows = self._random(LATENTS), slice(part.start, part.start + self.part_size)

        def normal(width: int) -> Tensor:
            return torch.randn(count, width, generator=random, device=self.device)[rows]

        layers = network.layer_count
        w = network.condition(network.mapping(normal(network.z_width)), part.labels)
        if self.config.style_mixing:
            other = network.condition(network.mapping(normal(network.z_width)), part.labels)
            mixed = torch.rand(count, generator=random, device=self.device) < self.config.style_mixing
            crossover = torch.randint(1, layers, (count,), generator=random, device=self.device)
            ws = mix_styles(w, other, torch.where(mixed, crossover, layers)[rows], layers)
        else:
            ws = w[:, None].expand(-1, layers, -1)
        return ws, normal(network.noise_count) if network.noise_inputs else None

    def augment(self, pictures: Tensor, purpose: int, *starts: int) -> Tensor:
        """Augment pictures [len(starts) * part_size, 3, S, S] in [-1, 1], runs of the batch that begin at `starts`.

        `purpose` is the stream of random numbers, see `core.device`.
        """
        if self.config.augment == "none":
            return pictures
        random, rows = self._random(purpose), None
        total = len(starts) * self.batch_size
        if len(pictures) < total:
            picked = [torch.arange(start, start + self.part_size, device=self.device) for start in starts]
            rows = Rows(torch.cat(picked), total)
        with torch.autocast(self.device.type, enabled=False):
            if self.config.augment == "ada":
                return augmentation.adaptive(pictures, self.probability, random, rows)
            return augmentation.diffaugment(pictures, random, rows)

    def _random(self, purpose: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(derived_seed(self.config.seed, self.step, purpose))


class Trainer:
    """Networks, averaged generator, optimisers and augmentation strength.

    Args:
        config: resolved.
        device: where everything is computed, or the group of processes of which this is one.
        label_shares: [labels], shares that sum to 1, for networks that know labels.

    Raises:
        UserError: the batch cannot be shared among so many.
    """

    def __init__(
        self, config: GanConfig, device: torch.device | ProcessGroup, label_shares: Tensor | None = None
    ) -> None:
        assert config.batch_size is not None
        assert config.learning_rate is not None
        assert config.gamma is not None
        group = device if isinstance(device, ProcessGroup) else ProcessGroup(device)
        self.config, self.group, self.device = config, group, group.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.batch_size, self.gamma = config.batch_size, config.gamma
        shares = group.size * config.accumulate
        if self.batch_size % (GROUP_SIZE * shares):
            raise UserError(
                f"batch_size {self.batch_size} on {group.size} devices in {config.accumulate} micro-batches does not"
                f" leave multiples of {GROUP_SIZE} pictures to each: take a multiple of {GROUP_SIZE * shares}"
            )
        self.part_size = self.batch_size // shares
        first = group.rank * config.accumulate * self.part_size
        self.rows = slice(first, first + config.accumulate * self.part_size)  # of a step's batch, this process's
        labels = 0 if label_shares is None else len(label_shares)
        with seeded(config.seed):
            generator = Generator(**config.architecture, labels=labels)
            discriminator = Discriminator(config.image_size, config.channels, blur=config.blur, labels=labels)
        if label_shares is not None:
            generator.label_shares.copy_(label_shares)
        self.generator = generator.to(self.device).to(memory_format=torch.channels_last)
        self.discriminator = discriminator.to(self.device).to(memory_format=torch.channels_last)
        # An exponential moving average of the weights: the generator that is published.
        self.averaged = copy.deepcopy(self.generator).eval().requires_grad_(False)
        # A lazy penalty takes steps of its own; the rescaling keeps Adam's path the same (StyleGAN2, appendix B).
        lazy = config.penalty_every / (config.penalty_every + 1) if self.gamma else 1.0
        self.generator_optimiser = _adam(self.generator, config.learning_rate, 1.0)
        self.discriminator_optimiser = _adam(self.discriminator, config.learning_rate, lazy)
        # The penalty differentiates twice, which compiled passes cannot: it calls the network itself.
        compiles = self.device.type == "cuda" if config.compiled is None else config.compiled
        self._discriminate, self._synthesise = (
            (torch.compile(function, dynamic=False) if compiles else function)
            for function in (self.discriminator, self.generator.synthesise)
        )
        self.probability = 0.0  # ADA's p
        self.overfitting = torch.zeros((), device=self.device)
        self.steps = 0

    @property
    def images(self) -> int:
        """Real pictures shown so far, by all processes."""
        return self.steps * self.batch_size

    def step(self, pictures: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Update both networks once (the discriminator twice where a penalty is due).

        From this process's `rows`, pictures uint8 [b, 3, S, S] and, for networks that know labels, int64 [b], to losses
        and mean logits of the whole batch, detached scalars on the device.
        """
        self._ramp_label_weight()
        sizes = self.batch_size, self.rows, self.part_size
        inputs = StepInputs(self.config, self.device, *sizes, self.steps, self.probability)
        parts = list(inputs.parts(pictures, labels))
        fakes = [self._fakes(inputs, part, with_graph=len(parts) == 1) for part in parts]
        of_discriminator = self._train_discriminator(inputs, parts, fakes)
        of_generator = self._train_generator(inputs, parts, fakes if len(parts) == 1 else None)
        metrics = self._metrics(self.group.gather(torch.cat([of_discriminator, of_generator])))
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

    def _train_discriminator(self, inputs: StepInputs, parts: list[Part], fakes: list[Tensor]) -> Tensor:
        """Update the discriminator; the logits at reals and fakes, and their penalties where due: [2 or 3, b]."""
        loss_of, _, penalise_fakes = LOSSES[self.config.loss]
        shown: list[Tensor] = []
        logits: list[Tensor] = []
        self.discriminator_optimiser.zero_grad(set_to_none=True)
        for part, fake in zip(parts, fakes, strict=True):
            # One pass over both: minibatch deviation groups neighbours, so reals and fakes never share a group.
            both = torch.cat([part.real, fake.detach()])
            with torch.no_grad():
                shown.append(inputs.augment(both, SHOWN, part.start, part.start + self.batch_size))
            with autocast(self.device, self.config.precision):
                real_and_fake = self._discriminate(shown[-1], _twice(part.labels)).view(2, -1)
            _backward(loss_of(real_and_fake[0], real_and_fake[1]) / len(parts))
            logits.append(real_and_fake.detach())
        self._update(self.discriminator_optimiser, self.discriminator)
        if not self.gamma or self.steps % self.config.penalty_every:
            return torch.cat(logits, dim=1)
        penalties: list[Tensor] = []
        precision = "float32" if self.config.penalty_precision == "float32" else self.config.precision
        self.discriminator_optimiser.zero_grad(set_to_none=True)
        for part, pictures in zip(parts, shown, strict=True):
            labels = _twice(part.labels)
            if not penalise_fakes:
                pictures, labels = pictures[: self.part_size], part.labels
            with autocast(self.device, precision):
                of_part = gradient_penalty(functools.partial(self.discriminator, labels=labels), pictures)
            # R1 and R2 have one mean each; both halves of the batch are equally long.
            penalty = of_part.view(-1, self.part_size).sum(dim=0)
            _backward(penalty.mean() * (self.gamma / 2 * self.config.penalty_every / len(parts)))
            penalties.append(penalty.detach())
        self._update(self.discriminator_optimiser, self.discriminator)
        return torch.cat([torch.cat(logits, dim=1), torch.cat(penalties)[None]])

    def _train_generator(self, inputs: StepInputs, parts: list[Part], fakes: list[Tensor] | None) -> Tensor:
        """Update the generator, on new fakes if none are given; the logits at reals and fakes: [2, b]."""
        _, loss_of, relativistic = LOSSES[self.config.loss]
        self.discriminator.requires_grad_(False)
        logits: list[Tensor] = []
        self.generator_optimiser.zero_grad(set_to_none=True)
        for index, part in enumerate(parts):
            fake = fakes[index] if fakes else self._fakes(inputs, part, with_graph=True)
            with autocast(self.device, self.config.precision):
                of_fake = self._discriminate(inputs.augment(fake, FORGED, part.start), part.labels)
                of_real = of_fake.detach()
                if relativistic:
                    with torch.no_grad():
                        of_real = self._discriminate(inputs.augment(part.real, PAIRED, part.start), part.labels)
            _backward(loss_of(of_real, of_fake) / len(parts))
            logits.append(torch.stack([of_real, of_fake.detach()]))
        self._update(self.generator_optimiser, self.generator)
        self.discriminator.requires_grad_(True)
        return torch.cat(logits, dim=1)

    def _metrics(self, logits: Tensor) -> dict[str, Tensor]:
        """logits: [4 or 5, batch_size], of all processes."""
        of_discriminator, of_generator, relativistic = LOSSES[self.config.loss]
        real, fake, *penalties, paired, forged = logits.unbind()
        sign = share_on_real_side(real, fake, relativistic=relativistic)
        self.overfitting = self.overfitting + sign
        return {
            "loss_discriminator": of_discriminator(real, fake),
            "loss_generator": of_generator(paired, forged),
            "logit_real": real.mean(),
            "logit_fake": fake.mean(),
            "ada_overfitting": sign,
            **({"penalty": penalties[0].mean()} if penalties else {}),
        }

    def _fakes(self, inputs: StepInputs, part: Part, *, with_graph: bool) -> Tensor:
        """A part's fakes. Both networks train on the same ones, which saves a pass where the graph can be kept."""
        with torch.set_grad_enabled(with_graph), autocast(self.device, self.config.precision):
            fake: Tensor = self._synthesise(*inputs.latents(self.generator, part))
            return fake

    def _ramp_label_weight(self) -> None:
        """Labels come in gradually: with them from the start, few pictures make it collapse (Shahbazi et al. 2022)."""
        if self.generator.label_offsets is None:
            return
        start, end = self.config.condition_start_kimg * 1000, self.config.condition_end_kimg * 1000
        weight = min(1.0, max(0.0, (self.images - start) / (end - start)))
        for network in (self.generator, self.averaged, self.discriminator):
            network.label_weight.fill_(weight)

    def _average(self) -> None:
        """EMA with a half-life that grows with what was shown (StyleGAN2-ADA), in place and without copies."""
        half_life = min(self.config.ema_kimg * 1000, self.images * self.config.ema_rampup)
        weight = 1.0 - 0.5 ** (self.batch_size / max(half_life, 1e-8))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.generator.parameters()), weight)

    def _update(self, optimiser: torch.optim.Optimizer, network: nn.Module) -> None:
        self.group.average_gradients(network.parameters())
        optimiser.step()

    def is_finite(self) -> bool:
        """Whether every weight of both networks is a number."""
        weights: list[Tensor] = [*self.generator.parameters(), *self.discriminator.parameters()]
        return bool(torch.stack(torch._foreach_norm(weights)).isfinite().all())

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, tensors and plain containers only."""
        figures = {"steps": self.steps, "probability": self.probability, "overfitting": self.overfitting.item()}
        return figures | {name: getattr(self, name).state_dict() for name in _LEARNT}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()` of the same configuration."""
        for name in _LEARNT:
            getattr(self, name).load_state_dict(state[name])
        self.steps, self.probability = state["steps"], state["probability"]
        self.overfitting = torch.tensor(state["overfitting"], device=self.device)


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _twice(labels: Tensor | None) -> Tensor | None:
    return None if labels is None else torch.cat([labels, labels])


def _adam(network: nn.Module, learning_rate: float, lazy: float) -> torch.optim.Adam:
    return torch.optim.Adam(
        network.parameters(), lr=learning_rate * lazy, betas=(0.0, 0.99**lazy), eps=1e-8, fused=True
    )
