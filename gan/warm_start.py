"""Warm start: begin a training with the weights of an earlier one, at its resolution or at twice that."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from gan.checkpoint import GeneratorCard, generator_digest, load_generator, load_state, read_card
from gan.config import GanConfig
from gan.trainer import Trainer

_log = logging.getLogger(__name__)


def start_from(trainer: Trainer, source: Path, labels: tuple[str, ...] = ()) -> str:
    """Copy what fits of a generator, and of the discriminator whose training state lies beside it.

    Both the trained and the averaged generator begin with the published, averaged weights. At twice the resolution the
    new block begins without colours of its own, so that the first picture is the old one, enlarged. The discriminator's
    new entry is fresh, as the whole of it is where there is no state; so are the optimisers and ADA's strength.

    Args:
        trainer: new; its networks are changed in place.
        source: folder of a generator, or of the training that made it.
        labels: of the new generator; the old one's label weights are copied only if its labels are the same.

    Returns:
        Digest of the generator that was copied.

    Raises:
        UserError: there is no generator, or its architecture does not fit the configuration.
    """
    source = Path(source)
    folder = source if (source / "config.json").exists() else source / "generator"
    card = read_card(folder if folder.exists() else source)
    _refuse_misfit(card, trainer.config, folder)
    doubled = card.image_size * 2 == trainer.config.image_size
    same_labels = labels == card.labels
    weights = trainer.generator.state_dict()
    weights |= _without_labels(load_generator(folder).state_dict(), keep=same_labels)
    if doubled:
        last = f"blocks.{len(trainer.generator.blocks) - 1}.to_rgb"
        for name in (f"{last}.convolution.weight", f"{last}.bias"):
            weights[name] = torch.zeros_like(weights[name])
    for network in (trainer.generator, trainer.averaged):
        network.load_state_dict(weights)
    _copy_discriminator(trainer, folder.parent / "training.pt", card, doubled=doubled, same_labels=same_labels)
    return generator_digest(folder)


def _copy_discriminator(
    trainer: Trainer, state_file: Path, card: GeneratorCard, *, doubled: bool, same_labels: bool
) -> None:
    if not state_file.is_file():
        _log.warning("no %s beside the generator: the discriminator begins anew", state_file.name)
        return
    state = load_state(state_file)
    if state["config"].get("image_size") != card.image_size:
        _log.warning("%s is of another training than the generator: the discriminator begins anew", state_file)
        return
    old = _without_labels(state["trainer"]["discriminator"], keep=same_labels)
    if doubled:
        old = {_one_block_on(name): tensor for name, tensor in old.items() if not name.startswith("from_rgb.")}
    trainer.discriminator.load_state_dict(trainer.discriminator.state_dict() | old)


def _one_block_on(name: str) -> str:
    """Blocks count from the largest resolution, of which there is one more now."""
    if not name.startswith("blocks."):
        return name
    _, index, rest = name.split(".", 2)
    return f"blocks.{int(index) + 1}.{rest}"


def _without_labels(weights: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if keep or not name.startswith("label_")}


def _refuse_misfit(card: GeneratorCard, config: GanConfig, folder: Path) -> None:
    if config.image_size not in (card.image_size, 2 * card.image_size):
        raise UserError(
            f"{folder} makes {card.image_size} px, and training goes on from it at {card.image_size} or"
            f" {2 * card.image_size} px only: image_size {config.image_size} is neither"
        )
    pairs: dict[str, tuple[Any, Any]] = {
        name: (getattr(card, name), wanted)
        for name, wanted in config.architecture.items()
        if name not in ("image_size", "channels")
    }
    pairs |= {f"channels at {size} px": (count, config.channels[size]) for size, count in card.channels.items()}
    for name, (theirs, wanted) in pairs.items():
        if theirs != wanted:
            preset = card.training.get("preset", "another")
            raise UserError(
                f"{folder} is of another architecture ({name}: {theirs}, here {wanted}):"
                f" take its preset ({preset}) and its settings"
            )
