"""Train a generator: a job that shows faces until its budget is spent, and that can be killed at any moment.

Running the same call again resumes. The budget in minutes counts training time over all calls.
"""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from core.device import pick_device
from core.errors import UserError
from core.manifest import Manifest
from core.progress import Report, ignore
from core.signals import deferred_interrupt
from faces.features import Features, features
from faces.loading import Crops, load_crops
from gan.checkpoint import GeneratorCard, load_state, read_card, save_generator, save_state
from gan.config import GanConfig, refuse_changes
from gan.distributed import ProcessGroup
from gan.networks.generator import Generator
from gan.quality import sampled_distance
from gan.sampling import sample_grid
from gan.trainer import Trainer
from gan.warm_start import start_from
from metrics.distributions import Estimate

FEWEST_FACES = 16


def train(
    manifest: Manifest,
    config: GanConfig,
    out: Path,
    cache: Path,
    report: Report = ignore,
    team: ProcessGroup | None = None,
) -> Path:
    """Train a generator on the real faces of the train split, or resume, or return at once what is finished.

    Where the val split has faces enough, the kernel distance to them is reported as `kd_val`, the generator that is
    published is the one for which it was least, and training ends early when it has not become better for long.

    Args:
        manifest: only rows whose label is `config.learn_from` and that are not synthetic are looked at; those of split
            train are learnt from, those of val, of the same datasets, choose the checkpoint.
        config: the budget, and the intervals of checkpoints and samples, may differ from an earlier call's.
        out: gets `generator/`, `training.pt` and `samples/NNNNNN.png` (named by thousands of pictures shown).
        cache: folder of decoded crops, see `faces.loading`. Crops become RGB squares of `config.image_size`: grey is
            tripled, transparency dropped, what is not square squeezed.
        report: gets losses, ADA's p and images/s; the step is the count of real pictures shown.
        team: the processes that train together, see `gan.distributed`; this one alone by default.

    Returns:
        `out/generator`, the averaged generator: `weights.safetensors` and `config.json`.

    Raises:
        UserError: too few faces, another configuration or other faces than `out` was begun with, a generator to start
            from that does not fit, or a loss that is no number any more.
        KeyboardInterrupt: after the state was saved.
    """
    config = config.resolved()
    team = team or ProcessGroup(pick_device(config.device))
    faces = faces_to_learn(manifest, config)
    if len(faces) < FEWEST_FACES:
        raise UserError(
            f"{len(faces)} {config.learn_from} faces in the train split, too few to learn from:"
            f" ingest at least {FEWEST_FACES}"
        )
    validation = None
    if config.validate_every_kimg:
        held_out = faces_to_learn(manifest, config, "val")
        held_out = held_out.select(dataset=list(faces.rows["dataset"].unique()))
        validation = validation_of(held_out, config.image_size, cache, team.device)
    job = Job(faces, config, Path(out), report if team.leads else ignore, team, validation)
    job.begin()
    if not job.finished or job.validation_due:
        job.run(feeder(load_crops(faces, config.image_size, cache), team.device))
    elif not job.is_published:
        job.save()
    return job.folder


def faces_to_learn(manifest: Manifest, config: GanConfig, split: str = "train") -> Manifest:
    """The rows of a split that a configuration learns from: of its label, and never the workbench's own forgeries."""
    rows = manifest.select(split=split, label=config.learn_from)
    return rows.where(~rows.synthetic)


REPORT_EVERY_IMAGES = 500
# A GPU computes ahead of Python; looking at a loss makes it wait, so it is looked at now and then only.
LOOK_EVERY_STEPS_ON_GPU = 16
GRID_FACES = 48

_log = logging.getLogger(__name__)


class Job:
    """A trainer with a budget, a folder, and somebody to report to."""

    def __init__(
        self,
        faces: Manifest,
        config: GanConfig,
        out: Path,
        report: Report,
        team: ProcessGroup,
        validation: Validation | None,
    ) -> None:
        self.faces, self.config, self.out, self.report = faces, config, out, report
        self.team, self.device, self.validation = team, team.device, validation
        self.labels: Labels | None = label_faces(faces, config.condition)
        self.trainer = Trainer(config, team, self.labels.shares if self.labels else None)
        self.seconds = 0.0
        self.window = Window()
        self.best: dict[str, Any] | None = None  # kd, sd, images and weights of the best validation
        self.validated_at, self.validation_seconds = 0, 0.0
        self.started_from: str | None = None
        self.written: tuple[float, float | None] | None = None  # what this process has published last
        self.folder, self.state_file = out / "generator", out / "training.pt"

    @property
    def finished(self) -> bool:
        """Whether the budget is spent, or nothing has become better for too long."""
        return self.spent >= self.budget or self._stalled

    @property
    def _stalled(self) -> bool:
        patience = self.config.patience_kimg
        if patience is None or self.best is None:
            return False
        return bool(self.validated_at - self.best["images"] >= patience * 1000)

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
        """Whether the validation faces are to be looked at before the next step, or at the end."""
        if self.validation is None or self.config.validate_every_kimg is None:
            return False
        every, images = self.config.validate_every_kimg * 1000, self.trainer.images
        return images // every > self.validated_at // every or (self.finished and images > self.validated_at)

    def run(self, feed: Feeder) -> None:
        """Train until the budget is spent; save now and then, at the end, and when interrupted."""
        trainer, config = self.trainer, self.config
        saved_at, elapsed = time.monotonic(), self.seconds
        with (
            deferred_interrupt() as interrupted,
            tqdm(
                total=round(self.budget),
                initial=min(round(self.spent), round(self.budget)),
                desc=f"gan {config.image_size} px",
                unit="s" if config.minutes else "img",
                mininterval=0.5 if sys.stderr.isatty() else 15,
                disable=not self.team.leads,
            ) as progress,
        ):
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
                    progress.update(min(round(self.spent), round(self.budget)) - progress.n)
                    if images // REPORT_EVERY_IMAGES != trainer.images // REPORT_EVERY_IMAGES or self.finished:
                        progress.set_postfix(self._report(), refresh=False)
                    if stop:
                        raise KeyboardInterrupt
                    every = config.samples_every_kimg * 1000
                    if images // every != trainer.images // every or self.finished:
                        self._write_samples()
                    if save:
                        self.save()
                        saved_at = time.monotonic()
            except KeyboardInterrupt:
                self.save()
                raise
        self.save()
        if self._stalled and self.best:
            _log.info("stopped: the kernel distance was least at %g thousand pictures", self.best["images"] / 1000)

    def _step(self, feed: Feeder) -> None:
        trainer = self.trainer
        indices = picture_indices(self.config.seed, trainer.images, trainer.batch_size, len(self.faces))[trainer.rows]
        labels = self.labels.numbers[torch.from_numpy(indices)] if self.labels else None
        self._collect(trainer.step(feed(indices), labels))

    def _agree(self, elapsed: float, *, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether to stop and whether to save, for all processes alike; brings the budget's clock up to date."""
        if self.team.size > 1 and self.device.type != "cpu" and self.trainer.steps % LOOK_EVERY_STEPS_ON_GPU:
            return False, False
        self.seconds, stops, saves = self.team.highest([elapsed, stop, save])
        return bool(stops), bool(saves)

    def _validate(self) -> None:
        """Measure the averaged generator, and keep its weights if it is the best so far."""
        assert self.validation is not None
        began, images = time.perf_counter(), self.trainer.images
        measured = self.validation.distance(self._settled()) if self.team.leads else (-math.inf, -math.inf)
        distance, deviation = self.team.highest(measured)
        self.validated_at = images
        if self.best is None or distance < self.best["kd"]:
            self.trainer.averaged.set_w_average()
            weights = {name: tensor.to("cpu", copy=True) for name, tensor in self.trainer.averaged.state_dict().items()}
            self.best = {"kd": distance, "kd_sd": deviation, "images": images, "weights": weights}
        (self.validation_seconds,) = self.team.highest([self.validation_seconds + time.perf_counter() - began])
        self.report(
            {
                "kd_val": distance,
                "kd_val_sd": deviation,
                "kd_val_best": self.best["kd"],
                "validation_seconds": self.validation_seconds,
            },
            images,
        )

    def _collect(self, metrics: dict[str, Tensor]) -> None:
        self.window.add(metrics)
        if self.device.type == "cpu" or self.trainer.steps % LOOK_EVERY_STEPS_ON_GPU == 0:
            for name in ("loss_discriminator", "loss_generator"):
                value = metrics[name].item()
                if not math.isfinite(value):
                    self._stop(f"{name} is {value}")

    def _report(self) -> dict[str, float]:
        means = self.window.close(self.seconds, self.trainer.images)
        means["ada_probability"] = self.trainer.probability
        self.report(means, self.trainer.images)
        return {"D": means["loss_discriminator"], "G": means["loss_generator"], "img/s": means["images_per_second"]}

    def _settled(self) -> Generator:
        """The averaged generator as its users get it."""
        if self.labels is None:
            return self.trainer.averaged
        settled = copy.deepcopy(self.trainer.averaged)
        settled.set_w_average()
        settled.settle()
        return settled

    def _write_samples(self) -> None:
        if not self.team.leads:
            return
        path = self.out / "samples" / f"{self.trainer.images // 1000:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sample_grid(self._settled(), range(GRID_FACES), psi=1.0).save(path)

    def _stop(self, what: str) -> None:
        kept = (
            f"last good checkpoint kept in {self.out}"
            if self.state_file.exists()
            else f"nothing was saved in {self.out}"
        )
        raise UserError(f"{what} at step {self.trainer.steps} of {self.out}; {kept}; lower the learning rate")

    def save(self) -> None:
        """Write the state and publish the generator, unless a weight is no number any more."""
        trainer = self.trainer
        if not trainer.is_finite():
            self._stop("a weight is nan")
        if not self.team.leads:
            return
        trainer.averaged.set_w_average()
        state = {
            "config": self.config.model_dump(mode="json"),
            "faces": self.faces.digest,
            "seconds": self.seconds,
            **self.window.state(),
            "best": self.best,
            "validated_at": self.validated_at,
            "validation_seconds": self.validation_seconds,
            "validation_faces": self.validation.faces.digest if self.validation else None,
            "started_from": self.started_from,
            "trainer": trainer.state(),
        }
        save_state(state, self.state_file)
        if self.written != self._to_publish:
            self._publish()

    @property
    def _to_publish(self) -> tuple[float, float | None]:
        """Thousands of pictures and kernel distance of the generator to publish: the best, or else the last."""
        return (self.best["images"] / 1000, self.best["kd"]) if self.best else (self.trainer.images / 1000, None)

    @property
    def is_published(self) -> bool:
        """Whether `folder` holds the generator that belongs to this state."""
        try:
            card = read_card(self.folder)
        except UserError:
            return False
        return (card.kimg, card.kd_val) == self._to_publish

    def _publish(self) -> None:
        network = self.trainer.averaged
        kimg, distance = self._to_publish
        card = GeneratorCard(
            image_size=network.image_size,
            channels=self.config.channels,
            z_width=network.z_width,
            w_width=network.w_width,
            mapping_depth=self.config.mapping_depth,
            noise_inputs=network.noise_inputs,
            manifest=self.faces.digest,
            kimg=kimg,
            condition=self.config.condition,
            labels=self.labels.names if self.labels else (),
            kd_val=distance,
            kd_val_sd=self.best["kd_sd"] if self.best else None,
            started_from=self.started_from,
            training=self.config.model_dump(mode="json"),
        )
        save_generator(self.best["weights"] if self.best else network.state_dict(), card, self.folder)
        self.written = self._to_publish

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
        self.seconds = state["seconds"]
        self.window.restore(state, self.device)
        if self.validation and state.get("validation_faces") == self.validation.faces.digest:
            self.best, self.validated_at = state["best"], state["validated_at"]
        self.validation_seconds = state.get("validation_seconds", 0.0)
        self.started_from = state.get("started_from")
        try:
            self.trainer.restore(state["trainer"])
        except (RuntimeError, ValueError, KeyError) as error:  # what torch raises where shapes or names do not fit
            raise UserError(
                f"{self.state_file} holds networks of another architecture than this version of preset"
                f" {self.config.preset} builds: give another folder to start anew"
            ) from error


# Share of a GPU's free memory that the faces may take; the networks need the rest.
RESIDENT_SHARE = 0.25
_CHUNK = 1024

Feeder = Callable[[NDArray[np.int64]], Tensor]


def picture_indices(seed: int, start: int, count: int, faces: int) -> NDArray[np.int64]:
    """Which faces stand at places `start` ... `start + count - 1` of an endless shuffled sequence.

    Every `faces` places hold each face once. The sequence is a function of the seed, so nothing has to be remembered.
    """
    places = np.arange(start, start + count)
    epochs = places // faces
    orders = {epoch: np.random.default_rng((seed, int(epoch))).permutation(faces) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][place % faces] for epoch, place in zip(epochs, places, strict=True)], np.int64)


def feeder(crops: Crops, device: torch.device, *, resident: bool | None = None) -> Feeder:
    """A function from indices [B] to those faces, uint8 [B, 3, S, S].

    Args:
        crops: decoded faces.
        device: where they are needed.
        resident: whether to keep all of them on the device; by default on a GPU whose memory has room for it.
    """
    if resident is None:
        resident = device.type == "cuda" and _bytes(crops) <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    if not resident:
        return crops.batch
    size = crops.pixels.shape[1]
    held = torch.empty((len(crops), 3, size, size), dtype=torch.uint8, device=device)
    for start in range(0, len(crops), _CHUNK):
        stop = min(start + _CHUNK, len(crops))
        held[start:stop] = crops.batch(np.arange(start, stop)).to(device)
    return lambda indices: held[torch.from_numpy(indices).to(device, non_blocking=True)]


def _bytes(crops: Crops) -> int:
    return len(crops) * int(np.prod(crops.pixels.shape[1:]))


class Window:
    """What has been measured since the last report."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[Tensor, int]] = {}  # metric -> sum and count
        self.began = (0.0, 0)  # seconds and images at the last report, for images/s

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Count scalars in, without waiting for the device."""
        for name, metric in metrics.items():
            total, count = self.sums.get(name, (torch.zeros_like(metric), 0))
            self.sums[name] = (total + metric, count + 1)

    def close(self, seconds: float, images: int) -> dict[str, float]:
        """Means since the last report, and images/s; then the window is empty."""
        means = {name: (total / count).item() for name, (total, count) in self.sums.items()}
        before, shown = self.began
        means["images_per_second"] = (images - shown) / max(seconds - before, 1e-9)
        self.sums, self.began = {}, (seconds, images)
        return means

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in plain containers."""
        return {
            "window": {name: (total.item(), count) for name, (total, count) in self.sums.items()},
            "reported_at": self.began,
        }

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from a `state()`."""
        self.began = (state["reported_at"][0], state["reported_at"][1])
        self.sums = {
            name: (torch.tensor(total, device=device), count) for name, (total, count) in state["window"].items()
        }


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


# Below this many the distance says little more than which faces they happen to be.
FEWEST_VALIDATION_FACES = 50
# A second or three of a CPU core for every hundred, each time.
MOST_VALIDATION_FACES = 500


class Validation:
    """The faces of the val split, and the kernel distance of a generator's samples to them (KD-lite0).

    Args:
        faces: any number; of more than 500, a fixed choice.
        image_size: side of the pictures.
        cache: folder of decoded crops.
        device: where features are computed.
    """

    def __init__(self, faces: Manifest, image_size: int, cache: Path, device: torch.device) -> None:
        if len(faces) > MOST_VALIDATION_FACES:
            chosen = np.random.default_rng(0).permutation(len(faces))[:MOST_VALIDATION_FACES]
            faces = faces.where(np.isin(np.arange(len(faces)), chosen))
        self.faces, self.image_size, self.cache, self.device = faces, image_size, cache, device

    @cached_property
    def seen(self) -> Features:
        """Features of the faces, computed at the first use."""
        crops = load_crops(self.faces, self.image_size, self.cache)
        return features(len(crops), lambda start, stop: crops.batch(np.arange(start, stop)), self.device)

    def distance(self, generator: Generator) -> Estimate:
        """Kernel distance between the faces and as many samples of always the same seeds."""
        return sampled_distance(generator, self.seen)


def validation_of(faces: Manifest, image_size: int, cache: Path, device: torch.device) -> Validation | None:
    """A validation on these faces of the val split, or None, with a line in the log, if they are too few."""
    if len(faces) >= FEWEST_VALIDATION_FACES:
        return Validation(faces, image_size, cache, device)
    _log.warning(
        "%d faces in the val split are too few to validate by (%d are needed):"
        " the last generator is kept, and nothing stops early",
        len(faces),
        FEWEST_VALIDATION_FACES,
    )
    return None
