"""The two sides of a comparison of training speed: our trainer, and stylegan2-pytorch's, each step a plain call."""

from __future__ import annotations

import sys
import time
import types
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from core.device import has_fast_bfloat16
from gan import trainer as gan_trainer
from gan.config import PRESETS, GanConfig
from gan.networks import Discriminator, Generator
from gan.trainer import Trainer

PICTURES = 256
TOLERANCE = 0.1  # of parameter counts that are called equal


@dataclass(frozen=True)
class Side:
    """Whom a process plays, and how large."""

    name: str  # peer, small, equal_parameters, base
    image_size: int
    batch_size: int
    device: str
    threads: int
    ada_probability: float
    parameters: tuple[int, int] | None = None  # of equal_parameters: what G and D shall count
    compiled: bool | None = None  # None leaves it to the trainer


def our_step(side: Side, _: Path) -> tuple[Callable[[], object], dict[str, Any]]:
    """A step of our trainer, and what is to be known of it: the parameters of G and D, and the precision."""
    trainer = our_trainer(side)
    batches = batches_of(pictures_of(side), side.batch_size)
    trainer.probability = side.ada_probability
    fast = trainer.config.precision == "auto" and has_fast_bfloat16(trainer.device)
    precision = "bfloat16" if fast else trainer.config.precision.replace("auto", "float32")
    about = {
        "parameters": (count(trainer.generator), count(trainer.discriminator)),
        "precision": precision,
    }
    return lambda: trainer.step(next(batches)), about


def our_trainer(side: Side) -> Trainer:
    """A trainer of the preset that the side is called after, or of networks that count `side.parameters`."""
    settings: dict[str, Any] = {"image_size": side.image_size, "batch_size": side.batch_size, "device": side.device}
    if can_compile() and side.compiled is not None:
        settings["compiled"] = side.compiled
    config = GanConfig(preset=side.name if side.name in PRESETS else "small", **settings).resolved()
    if side.parameters is None:
        return Trainer(config, torch.device(side.device))
    generator_channels, discriminator_channels = matched_channels(config, *side.parameters)

    # A configuration has one dial for both networks. To meet two counts at once, each gets channels of its own here.
    def generator(**rest: Any) -> Generator:
        return Generator(**(rest | {"channels": generator_channels}))

    def discriminator(image_size: int, _: object, **rest: Any) -> Discriminator:
        return Discriminator(image_size, discriminator_channels, **rest)

    with mock.patch.multiple(gan_trainer, Generator=generator, Discriminator=discriminator):
        made = Trainer(config, torch.device(side.device))
    for network, target in zip((made.generator, made.discriminator), side.parameters, strict=True):
        if abs(count(network) / target - 1) > TOLERANCE:
            raise ValueError(f"{count(network)} parameters are not within {TOLERANCE:.0%} of {target}")
    return made


def can_compile() -> bool:
    """Whether the trainer offers to compile its main passes."""
    return "compiled" in GanConfig.model_fields


def matched_channels(config: GanConfig, generator: int, discriminator: int) -> tuple[dict[int, int], dict[int, int]]:
    """Channels with which our networks count as many parameters as the other side's.

    At full resolution both have 64 channels, as the other side's discriminator has (its generator has 32), or twice as
    many where these cannot reach the count; how wide the lowest resolutions are is searched for.
    """

    def generator_count(channels: dict[int, int]) -> int:
        return count(Generator(**(config.architecture | {"channels": channels})))

    def discriminator_count(channels: dict[int, int]) -> int:
        return count(Discriminator(config.image_size, channels, blur=config.blur))

    def search(target: int, counted: Callable[[dict[int, int]], int]) -> dict[int, int]:
        for narrowest in (64, 128, 256):
            base = PRESETS["small"]._replace(channel_base=narrowest * config.image_size)
            choices = [base._replace(channel_max=widest).channels(config.image_size) for widest in range(64, 2049, 8)]
            place = bisect_left(choices, target, key=counted)
            if place < len(choices):
                return choices[place]
        raise ValueError(f"no channels give {target} parameters at {config.image_size} px")

    with torch.device("meta"):
        return search(generator, generator_count), search(discriminator, discriminator_count)


def peer_step(side: Side, scratch: Path) -> tuple[Callable[[], object], dict[str, Any]]:
    """The same of the other side, which writes its folders into `scratch`."""
    on_cpu = side.device == "cpu"
    # An experiment tracker, which it uses only when it is told to log.
    sys.modules.setdefault("aim", types.ModuleType("aim"))
    with mock.patch.object(torch.cuda, "is_available", return_value=True):  # asserted on import, and needed nowhere
        from stylegan2_pytorch import Trainer as PeerTrainer
    if on_cpu:
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
        torch.nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    trainer = PeerTrainer(
        base_dir=scratch,
        image_size=side.image_size,
        batch_size=side.batch_size,
        rank=0 if on_cpu else torch.device(side.device).index or 0,
    )
    trainer.is_main = True  # a rank above 0 is a GPU's number here
    trainer.save = trainer.evaluate = lambda *_: None
    trainer.loader = (
        pictures.float().div(255).contiguous() for pictures in batches_of(pictures_of(side), side.batch_size)
    )
    trainer.init_GAN()
    networks = trainer.GAN
    about = {"parameters": (count(networks.G, networks.S), count(networks.D)), "precision": "float32"}
    return trainer.train, about


def pictures_of(side: Side) -> Tensor:
    """uint8 [PICTURES, 3, S, S], channels last, as `faces.loading` gives them; the same for every side."""
    shape = (PICTURES, side.image_size, side.image_size, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return pixels.permute(0, 3, 1, 2)


def batches_of(pictures: Tensor, size: int) -> Iterator[Tensor]:
    """Batches of `size`, without end."""
    start = 0
    while True:
        start = (start + size) % (len(pictures) - size + 1)
        yield pictures[start : start + size]


def count(*networks: Any) -> int:
    """Parameters of networks."""
    return sum(weight.numel() for network in networks for weight in network.parameters())


def seconds_of(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Wall-clock time of so many steps, to the end of the device's work."""
    _wait_for(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    _wait_for(device)
    return time.perf_counter() - began


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
