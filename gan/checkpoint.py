"""Generators and training states on disk.

A generator is a folder: `weights.safetensors` and `config.json`, which says how to rebuild it. A training state is one
file of tensors and plain containers. Both appear whole or not at all, whenever the process is killed. A training can
begin with the weights of an earlier one (warm start), at its resolution or at twice that.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file
from safetensors.torch import save as encode
from torch import Tensor

from core.errors import UserError
from core.files import refusing_if_unwritable, sha256
from core.state import read_state
from gan.config import ARCHITECTURE, GanConfig
from gan.networks import Generator
from gan.trainer import Trainer

WEIGHTS, CONFIG = "weights.safetensors", "config.json"

_log = logging.getLogger(__name__)


class GeneratorCard(BaseModel):
    """`config.json` of a generator: its architecture, and where it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int
    channels: dict[int, int]
    z_width: int
    w_width: int
    mapping_depth: int
    noise_inputs: bool
    manifest: str = Field(description="digest of the train faces it learnt from")
    kimg: float = Field(description="thousands of real pictures it was shown")
    condition: str = Field("none", description="column of the manifest that the labels came from")
    labels: tuple[str, ...] = Field((), description="its values, in the order of the generator's labels")
    kd_val: float | None = Field(None, description="KD-lite0 to the validation faces, the least of the training's")
    kd_val_sd: float | None = None
    started_from: str | None = Field(None, description="digest of the generator that it went on from")
    training: dict[str, Any] = Field(default_factory=dict, description="the whole training configuration")
    weights: str = Field("", description="SHA-256 of the weights' file; empty in those of before it was kept")

    def build(self) -> Generator:
        """A generator of this architecture with fresh weights."""
        return Generator(**{name: getattr(self, name) for name in ARCHITECTURE}, labels=len(self.labels))


def save_generator(generator: Generator | Mapping[str, Tensor], card: GeneratorCard, folder: Path) -> Path:
    """Publish a generator, or its weights, as `folder`, in place of what stood there.

    Raises:
        UserError: the disk is full, or cannot be written for another reason; what stood there is untouched.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    retired = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    weights = generator.state_dict() if isinstance(generator, Generator) else generator
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with refusing_if_unwritable(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in (temporary, retired):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            temporary.mkdir()
            data = encode(tensors)
            card = card.model_copy(update={"weights": sha256(data)})
            (temporary / WEIGHTS).write_bytes(data)
            (temporary / CONFIG).write_text(card.model_dump_json(indent=1) + "\n")
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    # A folder cannot be replaced by a full one in one step. Killed between these two, the job's next call publishes
    # again, since its training state holds the same weights.
    if folder.exists():
        folder.replace(retired)
    temporary.replace(folder)
    shutil.rmtree(retired, ignore_errors=True)
    return folder


def read_card(folder: Path) -> GeneratorCard:
    """What `config.json` says.

    Raises:
        UserError: there is no generator in the folder, or its configuration is damaged.
    """
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise UserError(f"no generator at {folder} ({name} is missing): make one with `counterforge gan train`")
    try:
        return GeneratorCard.model_validate(json.loads((folder / CONFIG).read_text()))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{folder / CONFIG} is not a generator's configuration: train the generator again") from error


def load_generator(folder: Path) -> Generator:
    """The averaged (EMA) generator of a checkpoint, on the CPU, in evaluation mode.

    One that was trained with labels mixes them as its train faces did; see `export_label`.

    Raises:
        UserError: there is no generator in the folder, or its files do not fit each other.
    """
    generator = _read(Path(folder))
    generator.mix_labels()
    return generator


def export_label(folder: Path, label: str, out: Path) -> Path:
    """Write the generator of one label to a folder of its own, `out`, where it is a generator like any other.

    Raises:
        UserError: there is no generator in `folder`, or it does not know the label.
    """
    card = read_card(folder)
    if label not in card.labels:
        known = f"it knows {', '.join(card.labels)}" if card.labels else "it was trained without a condition"
        raise UserError(f"{folder} does not know the label {label}: {known}")
    generator = _read(folder).for_label(card.labels.index(label))
    origin = card.training | {"label": label, "label_of": generator_digest(folder)}
    card = card.model_copy(update={"labels": (), "condition": "none", "training": origin})
    return save_generator(generator, card, out)


def _read(folder: Path) -> Generator:
    card = read_card(folder)
    try:
        if card.weights and sha256(folder / WEIGHTS) != card.weights:
            raise ValueError("the checksum does not fit")
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced below
            generator = card.build()
        generator.load_state_dict(load_file(folder / WEIGHTS))
        if not all(bool(torch.isfinite(tensor).all()) for tensor in generator.state_dict().values()):
            raise ValueError("a weight is not finite")
    except Exception as error:  # safetensors raises its own kind for a damaged file, torch a RuntimeError for a misfit
        raise UserError(f"{folder / WEIGHTS} does not fit {CONFIG} beside it: train the generator again") from error
    return generator.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def generator_digest(folder: Path) -> str:
    """16 hex digits over the weights, which synthetic rows name their generator by; a UserError if there is none."""
    read_card(Path(folder))
    return sha256(Path(folder) / WEIGHTS)[:16]


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state onto the CPU.

    Raises:
        UserError: there is no file, it is damaged, or is no training state of this program.
    """
    state = read_state(path, {"config", "faces", "trainer"})
    if state is None:
        raise UserError(f"no training state at {path}: train the generator first")
    return state


def start_from(trainer: Trainer, source: Path, labels: tuple[str, ...] = ()) -> str:
    """Copy what fits of a generator, and of the discriminator whose training state lies beside it.

    Both the trained and the averaged generator begin with the published, averaged weights. At twice the resolution the
    new block begins without colours of its own, so that the first picture is the old one, enlarged. The discriminator's
    new entry is fresh, as the whole of it is where there is no state; so are the optimisers and ADA's strength.

    Args:
        trainer: new; its networks are changed in place.
        source: folder of a generator, or of the training that made it, whose digest is returned.
        labels: of the new generator; the old one's label weights are copied only if its labels are the same.

    Raises:
        UserError: there is no generator, or its architecture does not fit the configuration.
    """
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
    state_file = folder.parent / "training.pt"
    state = load_state(state_file) if state_file.is_file() else None
    if state is None:
        _log.warning("no %s beside the generator: the discriminator begins anew", state_file.name)
    elif state["config"].get("image_size") != card.image_size:
        _log.warning("%s is of another training than the generator: the discriminator begins anew", state_file)
    else:
        old = _without_labels(state["trainer"]["discriminator"], keep=same_labels)
        if doubled:  # blocks count from the largest resolution, of which there is one more now
            kept = {name: weight for name, weight in old.items() if not name.startswith("from_rgb.")}
            old = {re.sub(r"^blocks\.(\d+)", lambda at: f"blocks.{int(at[1]) + 1}", name): kept[name] for name in kept}
        trainer.discriminator.load_state_dict(trainer.discriminator.state_dict() | old)
    return generator_digest(folder)


def _without_labels(weights: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if keep or not name.startswith("label_")}


def _refuse_misfit(card: GeneratorCard, config: GanConfig, folder: Path) -> None:
    if config.image_size not in (card.image_size, 2 * card.image_size):
        raise UserError(
            f"{folder} makes {card.image_size} px, and training goes on from it at {card.image_size} or"
            f" {2 * card.image_size} px only: image_size {config.image_size} is neither"
        )
    names = [name for name in ARCHITECTURE if name not in ("image_size", "channels")]
    pairs: dict[str, tuple[Any, Any]] = {name: (getattr(card, name), getattr(config, name)) for name in names}
    pairs |= {f"channels at {size} px": (count, config.channels[size]) for size, count in card.channels.items()}
    for name, (theirs, wanted) in pairs.items():
        if theirs != wanted:
            preset = card.training.get("preset", "another")
            raise UserError(
                f"{folder} is of another architecture ({name}: {theirs}, here {wanted}):"
                f" take its preset ({preset}) and its settings"
            )
