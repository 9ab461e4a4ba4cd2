"""A training job: a trainer with a budget, a folder that it resumes from, and somebody to report to."""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from faces.errors import UserError
from faces.manifest import Manifest
from gan.checkpoint import GeneratorCard, load_state, read_card, save_generator, save_state
from gan.config import GanConfig, refuse_changes
from gan.feeding import Feeder, picture_indices
from gan.finetuning import start_from
from gan.generator import Generator
from gan.interrupts import deferred_interrupt
from gan.labels import Labels, label_faces
from gan.parallel import Team
from gan.reporting import Report, Window
from gan.sampling import sample_grid
from gan.trainer import Trainer
from gan.validation import Validation

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
        team: Team,
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
