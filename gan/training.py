"""Training a generator: a job that shows faces until its budget is spent, and that can be killed at any moment.

Running the same call again resumes. The budget in minutes counts training time over all calls.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.device import pick_device
from core.errors import UserError
from core.manifest import Manifest
from core.progress import Report, deferred_interrupt, ignore, progress_bar
from core.state import write_state
from faces.loading import Crops, load_crops
from gan.checkpoint import GeneratorCard, load_state, read_card, save_generator, start_from
from gan.config import GanConfig, refuse_changes
from gan.distributed import ProcessGroup
from gan.networks import Generator
from gan.quality import Validation
from gan.sampling import sample_grid
from gan.trainer import Trainer

FEWEST_FACES = 16
FEWEST_VALIDATION_FACES = 50  # with fewer the distance says little more than which faces they happen to be
REPORT_EVERY_IMAGES = 500
SYNC_EVERY_STEPS_ON_GPU = 16  # a GPU computes ahead of Python; reading a loss makes it wait, so it is rarely read
GRID_FACES = 48
RESIDENT_SHARE = 0.25  # of a GPU's free memory, that the faces may take; the networks need the rest
_CHUNK = 1024

_CARRIED_ON = ("seconds", "validation_seconds", "started_from")  # of a job's state
_OF_VALIDATION = ("best", "validated_at")  # likewise, as long as the validation faces are the same

_log = logging.getLogger(__name__)


def train(
    manifest: Manifest,
    config: GanConfig,
    out: Path,
    cache: Path,
    report: Report = ignore,
    group: ProcessGroup | None = None,
) -> Path:
    """Train a generator on the real faces of the train split, or resume, or return at once what is finished.

    Where the val split has enough faces, the kernel distance to them is reported as `kd_val`, the generator with the
    smallest distance is published, and training ends early when it has not improved for `config.patience_kimg`.

    Args:
        manifest: only rows whose label is `config.learn_from` and that are not synthetic are used: those of split
            train to learn from, those of val, of the same datasets, to choose the checkpoint.
        config: the budget, and the intervals of checkpoints and samples, may differ from an earlier call's.
        out: gets `generator/`, `training.pt` and `samples/NNNNNN.png` (named by thousands of pictures shown).
        cache: folder of decoded crops, see `faces.loading`. Crops become RGB squares of `config.image_size`: grey is
            tripled, what is transparent lies on grey, what is not square is squeezed.
        report: gets losses, ADA's p and images/s; the step is the count of real pictures shown.
        group: the processes that train together, see `gan.distributed`; this one alone by default.

    Returns:
        `out/generator`, the averaged generator: `weights.safetensors` and `config.json`.

    Raises:
        UserError: too few faces, another configuration or other faces than `out` was begun with, a generator to start
            from that does not fit, or a loss that is not finite.
        KeyboardInterrupt: after the state was saved.
    """
    config = config.resolved()
    group = group or ProcessGroup(pick_device(config.device))
    faces = faces_to_learn(manifest, config)
    if len(faces) < FEWEST_FACES:
        raise UserError(
            f"{len(faces)} {config.learn_from} faces in the train split, too few to learn from:"
            f" ingest at least {FEWEST_FACES}"
        )
    validation = None
    held_out = faces_to_learn(manifest, config, "val").select(dataset=list(faces.rows["dataset"].unique()))
    if config.validate_every_kimg and len(held_out) >= FEWEST_VALIDATION_FACES:
        validation = Validation(held_out, config.image_size, cache, group.device)
    elif config.validate_every_kimg:
        _log.warning(
            f"{len(held_out)} faces in the val split are too few to validate on ({FEWEST_VALIDATION_FACES} are needed):"
            " the last generator is kept, and training does not stop early"
        )
    job = TrainingJob(faces, config, Path(out), report if group.is_main else ignore, group, validation)
    job.begin()
    if not job.finished or job.validation_due:
        job.run(feeder(load_crops(faces, config.image_size, cache), group.device))
    elif not job.is_published:
        job.save()
    return job.folder


def faces_to_learn(manifest: Manifest, config: GanConfig, split: str = "train") -> Manifest:
    """The rows of a split that a configuration learns from: of its label, and never the workbench's own forgeries."""
    rows = manifest.select(split=split, label=config.learn_from)
    return rows.where(~rows.synthetic)


@dataclass
class TrainingJob:
    """A trainer with a budget, a folder, and a report to write to; what has a default here is saved with its state."""

    faces: Manifest
    config: GanConfig
    out: Path
    report: Report
    group: ProcessGroup
    validation: Validation | None
    seconds: float = 0.0  # of training, all calls together
    validation_seconds: float = 0.0
    best: dict[str, Any] | None = None  # kd, kd_sd, images and weights of the best validation
    validated_at: int = 0  # images
    started_from: str | None = None

    def __post_init__(self) -> None:
        self.labels: Labels | None = label_faces(self.faces, self.config.condition)
        self.trainer = Trainer(self.config, self.group, self.labels.shares if self.labels else None)
        self.means = MeanMetrics()
        self.folder, self.state_file = self.out / "generator", self.out / "training.pt"

    @property
    def finished(self) -> bool:
        """Whether the budget is spent, or the kernel distance has not improved for too long."""
        return self.spent >= self.budget or self._stalled

    @property
    def _stalled(self) -> bool:
        patience = self.config.patience_kimg
        return bool(patience and self.best and self.validated_at - self.best["images"] >= patience * 1000)

    @property
    def budget(self) -> float:
        """Seconds, or pictures."""
        return self.config.minutes * 60 if self.config.minutes else (self.config.kimg or 0) * 1000

    @property
    def spent(self) -> float:
        """In the budget's unit. Seconds are those of training; what validation takes is counted apart."""
        return self.seconds if self.config.minutes else self.trainer.images

    @property
    def validation_due(self) -> bool:
        """Whether to validate before the next step, or at the end."""
        if self.validation is None or self.config.validate_every_kimg is None:
            return False
        images, last = self.trainer.images, self.validated_at
        return _passed(last, images, self.config.validate_every_kimg * 1000) or (self.finished and images > last)

    def run(self, feed: Feeder) -> None:
        """Train until the budget is spent; save now and then, at the end, and when interrupted."""
        trainer, config = self.trainer, self.config
        saved_at, elapsed = time.monotonic(), self.seconds
        total, unit = round(self.budget), "s" if config.minutes else "img"
        options = {"initial": min(round(self.spent), total), "disable": not self.group.is_main}
        bar = progress_bar(total, f"gan {config.image_size} px", unit, delay=0, **options)
        with deferred_interrupt() as interrupted, bar as progress:
            try:
                while True:
                    if self.validation_due:
                        self._validate()
                        self.save()
                        saved_at = time.monotonic()
                    if self.finished:
                        break
                    began, images = time.perf_counter(), trainer.images
                    self._step(feed)
                    elapsed += time.perf_counter() - began
                    late = time.monotonic() - saved_at >= config.checkpoint_every_seconds
                    stop, save = self._agree(elapsed, stop=interrupted(), save=late)
                    progress.update(min(round(self.spent), total) - progress.n)
                    if _passed(images, trainer.images, REPORT_EVERY_IMAGES) or self.finished:
                        progress.set_postfix(self._report(), refresh=False)
                    if stop:
                        raise KeyboardInterrupt
                    shows = _passed(images, trainer.images, config.samples_every_kimg * 1000) or self.finished
                    if shows and self.group.is_main:
                        self._write_samples()
                    if save:
                        self.save()
                        saved_at = time.monotonic()
            except KeyboardInterrupt:
                self.save()
                raise
        self.save()
        if self._stalled and self.best:
            _log.info("stopped early: the kernel distance was smallest at %g kimg", self.best["images"] / 1000)

    def _step(self, feed: Feeder) -> None:
        trainer = self.trainer
        indices = picture_indices(self.config.seed, trainer.images, trainer.batch_size, len(self.faces))[trainer.rows]
        labels = self.labels.numbers[torch.from_numpy(indices)] if self.labels else None
        metrics = trainer.step(feed(indices), labels)
        self.means.add(metrics)
        if self.group.device.type == "cpu" or trainer.steps % SYNC_EVERY_STEPS_ON_GPU == 0:
            for name in ("loss_discriminator", "loss_generator"):
                value = metrics[name].item()
                if not math.isfinite(value):
                    self._diverged(f"{name} is {value}")

    def _agree(self, elapsed: float, *, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether to stop and whether to save, for all processes alike; brings the budget's clock up to date."""
        if self.group.size > 1 and self.group.device.type != "cpu" and self.trainer.steps % SYNC_EVERY_STEPS_ON_GPU:
            return False, False
        self.seconds, stops, saves = self.group.highest([elapsed, stop, save])
        return bool(stops), bool(saves)

    def _validate(self) -> None:
        """Measure the averaged generator, and keep its weights if it is the best so far."""
        assert self.validation is not None
        began, images = time.perf_counter(), self.trainer.images
        measured = self.validation.distance(self._published_form()) if self.group.is_main else (-math.inf, -math.inf)
        distance, deviation = self.group.highest(measured)
        self.validated_at = images
        if self.best is None or distance < self.best["kd"]:
            self.trainer.averaged.set_w_average()
            weights = {name: tensor.to("cpu", copy=True) for name, tensor in self.trainer.averaged.state_dict().items()}
            self.best = {"kd": distance, "kd_sd": deviation, "images": images, "weights": weights}
        (self.validation_seconds,) = self.group.highest([self.validation_seconds + time.perf_counter() - began])
        metrics = {"kd_val": distance, "kd_val_sd": deviation, "kd_val_best": self.best["kd"]}
        self.report(metrics | {"validation_seconds": self.validation_seconds}, images)

    def _report(self) -> dict[str, float]:
        means = self.means.close(self.seconds, self.trainer.images)
        means["ada_probability"] = self.trainer.probability
        self.report(means, self.trainer.images)
        return {"D": means["loss_discriminator"], "G": means["loss_generator"], "img/s": means["images_per_second"]}

    def _published_form(self) -> Generator:
        """The averaged generator as `load_generator` gives it to its users."""
        if self.labels is None:
            return self.trainer.averaged
        generator = copy.deepcopy(self.trainer.averaged)
        generator.set_w_average()
        generator.mix_labels()
        return generator

    def _write_samples(self) -> None:
        path = self.out / "samples" / f"{self.trainer.images // 1000:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sample_grid(self._published_form(), range(GRID_FACES), psi=1.0).save(path)

    def _diverged(self, what: str) -> None:
        kept = "last good checkpoint kept in" if self.state_file.exists() else "nothing was saved in"
        where = f"at step {self.trainer.steps} of {self.out}"
        raise UserError(f"{what} {where}; {kept} {self.out}; lower the learning rate")

    def save(self) -> None:
        """Write the state and publish the generator, unless a weight is not finite."""
        trainer = self.trainer
        if not trainer.is_finite():
            self._diverged("a weight is nan")
        if not self.group.is_main:
            return
        trainer.averaged.set_w_average()
        state = {
            "config": self.config.model_dump(mode="json"),
            "faces": self.faces.digest,
            "validation_faces": self.validation.faces.digest if self.validation else None,
            "trainer": trainer.state(),
            **self.means.state(),
            **{name: getattr(self, name) for name in (*_CARRIED_ON, *_OF_VALIDATION)},
        }
        write_state(self.state_file, state)
        if not self.is_published:
            save_generator(self.best["weights"] if self.best else trainer.averaged, self._card, self.folder)

    @property
    def is_published(self) -> bool:
        """Whether `folder` holds the generator that belongs to this state."""
        try:
            return read_card(self.folder).model_copy(update={"weights": ""}) == self._card
        except UserError:
            return False

    @property
    def _card(self) -> GeneratorCard:
        """Of the generator to publish: the best, or else the last."""
        best = self.best or {"images": self.trainer.images}
        return GeneratorCard(
            **self.config.architecture,
            manifest=self.faces.digest,
            kimg=best["images"] / 1000,
            condition=self.config.condition,
            labels=self.labels.names if self.labels else (),
            kd_val=best.get("kd"),
            kd_val_sd=best.get("kd_sd"),
            started_from=self.started_from,
            training=self.config.model_dump(mode="json"),
        )

    def begin(self) -> None:
        """Continue from `training.pt` if there is one, or else from the generator to start from, if there is one.

        Raises:
            UserError: it was begun with another configuration, other faces, or networks of another architecture.
        """
        if not self.state_file.is_file():
            if self.config.start_from:
                names = self.labels.names if self.labels else ()
                self.started_from = start_from(self.trainer, Path(self.config.start_from), names)
            return
        state = load_state(self.state_file)
        refuse_changes(state["config"], self.config, self.out)
        if state["faces"] != self.faces.digest:
            raise UserError(
                f"{self.out} was begun with other {self.config.learn_from} train faces:"
                " give that manifest, or another folder to start anew"
            )
        self.means.restore(state, self.group.device)
        validates_alike = self.validation and state.get("validation_faces") == self.validation.faces.digest
        for name in (*_CARRIED_ON, *(_OF_VALIDATION if validates_alike else ())):
            setattr(self, name, state.get(name, getattr(self, name)))  # an older version kept fewer
        try:
            self.trainer.restore(state["trainer"])
        except (RuntimeError, ValueError, KeyError) as error:  # what torch raises where shapes or names do not fit
            raise UserError(
                f"{self.state_file} holds networks of another architecture than this version of preset"
                f" {self.config.preset} builds: give another folder to start anew"
            ) from error


def _passed(before: int, images: int, every: float) -> bool:
    """Whether a multiple of `every` lies between two numbers of images."""
    return images // every != before // every


class MeanMetrics:
    """Means of metrics between two reports, kept on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[Tensor, int]] = {}  # metric -> sum and count
        self.began = (0.0, 0)  # seconds and images at the last report, for images/s

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Count scalars in, without waiting for the device."""
        for name, metric in metrics.items():
            total, count = self.sums.get(name, (torch.zeros_like(metric), 0))
            self.sums[name] = (total + metric, count + 1)

    def close(self, seconds: float, images: int) -> dict[str, float]:
        """Means since the last report, and images/s; then counting starts anew."""
        means = {name: (total / count).item() for name, (total, count) in self.sums.items()}
        means["images_per_second"] = (images - self.began[1]) / max(seconds - self.began[0], 1e-9)
        self.sums, self.began = {}, (seconds, images)
        return means

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in plain containers."""
        window = {name: (total.item(), count) for name, (total, count) in self.sums.items()}
        return {"window": window, "reported_at": self.began}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from a `state()`."""
        self.began = (state["reported_at"][0], state["reported_at"][1])
        window = state["window"].items()
        self.sums = {name: (torch.tensor(total, device=device), count) for name, (total, count) in window}


Feeder = Callable[[NDArray[np.int64]], Tensor]


def picture_indices(seed: int, start: int, count: int, faces: int) -> NDArray[np.int64]:
    """Which faces stand at positions `start` ... `start + count - 1` of an endless shuffled sequence.

    Every `faces` positions hold each face once. The sequence is a function of the seed, so it needs no state.
    """
    positions = np.arange(start, start + count)
    epochs = positions // faces
    orders = {epoch: np.random.default_rng((seed, int(epoch))).permutation(faces) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][at % faces] for epoch, at in zip(epochs, positions, strict=True)], np.int64)


def feeder(crops: Crops, device: torch.device, *, resident: bool | None = None) -> Feeder:
    """A function from indices [B] to those faces, uint8 [B, 3, S, S], for networks on `device`.

    `resident` keeps all of them there; by default on a GPU whose memory has room for it.
    """
    size = crops.pixels.shape[1]
    if resident is None:
        taken = len(crops) * 3 * size**2
        resident = device.type == "cuda" and taken <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    if not resident:
        return crops.batch
    held = torch.empty((len(crops), 3, size, size), dtype=torch.uint8, device=device)
    for start in range(0, len(crops), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(crops)))
        held[start : start + len(rows)] = crops.batch(rows).to(device)
    return lambda indices: held[torch.from_numpy(indices).to(device, non_blocking=True)]


class Labels(NamedTuple):
    """Labels of N faces."""

    names: tuple[str, ...]  # in the order of their numbers
    numbers: Tensor  # int64 [N]

    @property
    def shares(self) -> Tensor:
        """[labels], the share of the faces that has each."""
        counts = torch.bincount(self.numbers, minlength=len(self.names))
        return counts / counts.sum()


def label_faces(faces: Manifest, condition: str) -> Labels | None:
    """Labels from a column, or None for `none`.

    Raises:
        UserError: all faces have the same value.
    """
    if condition == "none":
        return None
    names, numbers = np.unique(faces.rows[condition].to_numpy(dtype=np.str_), return_inverse=True)
    if len(names) < 2:
        raise UserError(
            f"condition {condition} needs faces of 2 or more, and all train faces to learn from are {names[0]}:"
            " take condition none, or other faces (learn_from)"
        )
    return Labels(tuple(map(str, names)), torch.from_numpy(numbers.astype(np.int64)))
