"""What the players of one step are shown: reals in micro-batches, latents of fakes, and the augmentation of both.

The random numbers of step n are drawn from generators seeded by (seed, n, what they are for) alone, and for the whole
batch, whoever computes which rows of it. Neither a restart, nor micro-batches, nor several processes change them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gan import augmentation
from gan.augmentation import Rows
from gan.config import GanConfig
from gan.generator import Generator, mix_styles
from gan.seeding import FLIPS, LATENTS, derived_seed


class Part(NamedTuple):
    """A micro-batch: rows `start` ... `start + len(real) - 1` of the step's batch."""

    start: int
    real: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class Material:
    """Of one step.

    Attributes:
        config: resolved.
        device: where it is needed.
        rows: which rows of the step's batch this process takes.
        part_size: rows of a micro-batch.
        step: its number.
        probability: ADA's p.
    """

    config: GanConfig
    device: torch.device
    rows: slice
    part_size: int
    step: int
    probability: float

    @property
    def batch_size(self) -> int:
        """Of the whole step, all processes together."""
        assert self.config.batch_size is not None
        return self.config.batch_size

    def parts(self, pictures: Tensor, labels: Tensor | None) -> Iterator[Part]:
        """Micro-batches of float32 pictures in [-1, 1] on the device, half of them mirrored.

        Args:
            pictures: uint8 [b, 3, S, S], this process's `rows`.
            labels: int64 [b] or None.
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
        w = network.labelled(network.mapping(normal(network.z_width)), part.labels)
        if self.config.style_mixing:
            other = network.labelled(network.mapping(normal(network.z_width)), part.labels)
            mixed = torch.rand(count, generator=random, device=self.device) < self.config.style_mixing
            crossover = torch.randint(1, layers, (count,), generator=random, device=self.device)
            ws = mix_styles(w, other, torch.where(mixed, crossover, layers)[rows], layers)
        else:
            ws = w[:, None].expand(-1, layers, -1)
        return ws, normal(network.noise_count) if network.noise_inputs else None

    def augment(self, pictures: Tensor, purpose: int, *starts: int) -> Tensor:
        """Augment runs of the step's batch that begin at `starts`, each `part_size` long.

        Args:
            pictures: [len(starts) * part_size, 3, S, S] in [-1, 1].
            purpose: the stream of random numbers, see `gan.seeding`.
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
