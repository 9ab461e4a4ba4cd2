"""Train a generator: a job that shows faces until its budget is spent, and that can be killed at any moment.

Running the same call again resumes. The budget in minutes counts training time over all calls.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from faces.errors import UserError
from faces.loading import Crops, load_crops
from faces.manifest import Manifest
from gan.checkpoint import GeneratorCard, load_state, save_generator, save_state
from gan.config import FREE_FIELDS, GanConfig
from gan.device import pick_device
from gan.sampling import sample_grid
from gan.trainer import Trainer

Report = Callable[[Mapping[str, float], int], None]

FEWEST_FACES = 16
REPORT_EVERY_IMAGES = 500
# A GPU computes ahead of Python; looking at a loss makes it wait, so it is looked at now and then only.
LOOK_EVERY_STEPS_ON_GPU = 16
GRID_FACES = 48


def ignore(metrics: Mapping[str, float], step: int) -> None:
    """A report that goes nowhere."""


def train(manifest: Manifest, config: GanConfig, out: Path, cache: Path, report: Report = ignore) -> Path:
    """Train a generator on the real faces of the train split, or resume, or return at once what is finished.

    Args:
        manifest: rows other than split train, label real are not looked at.
        config: the budget, and the intervals of checkpoints and samples, may differ from an earlier call's.
        out: gets `generator/`, `training.pt` and `samples/NNNNNN.png` (named by thousands of pictures shown).
        cache: folder of decoded crops, see `faces.loading`.
        report: gets losses, ADA's p and images/s; the step is the count of real pictures shown.

    Returns:
        `out/generator`, the averaged generator: `weights.safetensors` and `config.json`.

    Raises:
        UserError: too few faces, another configuration or other faces than `out` was begun with, or a loss that
            is no number any more.
        KeyboardInterrupt: after the state was saved.
    """
    config = config.resolved()
    faces = manifest.select(split="train", label="real")
    if len(faces) < FEWEST_FACES:
        raise UserError(
            f"{len(faces)} real faces in the train split, too few to learn from: ingest at least {FEWEST_FACES}"
        )
    job = _Job(faces, config, Path(out), report)
    job.resume()
    if not job.finished:
        job.run(load_crops(faces, config.image_size, cache))
    elif not (job.folder / "config.json").is_file():
        job.save()
    return job.folder


def picture_indices(seed: int, start: int, count: int, faces: int) -> NDArray[np.int64]:
    """Which faces stand at places `start` ... `start + count - 1` of an endless shuffled sequence.

    Every `faces` places hold each face once. The sequence is a function of the seed, so nothing has to be remembered.
    """
    places = np.arange(start, start + count)
    epochs = places // faces
    orders = {epoch: np.random.default_rng((seed, int(epoch))).permutation(faces) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][place % faces] for epoch, place in zip(epochs, places, strict=True)], np.int64)


class _Job:
    """A trainer with a budget, a folder, and somebody to report to."""

    def __init__(self, faces: Manifest, config: GanConfig, out: Path, report: Report) -> None:
        self.faces, self.config, self.out, self.report = faces, config, out, report
        self.device = pick_device(config.device)
        self.trainer = Trainer(config, self.device)
        self.seconds = 0.0
        self.window: dict[str, tuple[Tensor, int]] = {}  # metric -> sum and count since the last report
        self.reported_at = (0.0, 0)  # seconds and images of the last report, for images/s
        self.folder, self.state_file = out / "generator", out / "training.pt"

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""
        return self.spent >= self.budget

    @property
    def budget(self) -> float:
        """Seconds, or pictures."""
        return self.config.minutes * 60 if self.config.minutes else (self.config.kimg or 0) * 1000

    @property
    def spent(self) -> float:
        """In the budget's unit."""
        return self.seconds if self.config.minutes else self.trainer.images

    def run(self, crops: Crops) -> None:
        """Train until the budget is spent; save now and then, at the end, and when interrupted."""
        trainer, config = self.trainer, self.config
        saved_at = time.monotonic()
        with (
            _deferred_interrupt() as interrupted,
            tqdm(
                total=round(self.budget),
                initial=min(round(self.spent), round(self.budget)),
                desc=f"gan {config.image_size} px",
                unit="s" if config.minutes else "img",
                mininterval=0.5 if sys.stderr.isatty() else 15,
            ) as progress,
        ):
            try:
                while not self.finished:
                    began = time.perf_counter()
                    images = trainer.images
                    indices = picture_indices(config.seed, images, trainer.batch_size, len(crops))
                    self._collect(trainer.step(crops.batch(indices)))
                    self.seconds += time.perf_counter() - began
                    progress.update(min(round(self.spent), round(self.budget)) - progress.n)
                    if images // REPORT_EVERY_IMAGES != trainer.images // REPORT_EVERY_IMAGES or self.finished:
                        progress.set_postfix(self._report(), refresh=False)
                    if interrupted():
                        raise KeyboardInterrupt
                    every = config.samples_every_kimg * 1000
                    if images // every != trainer.images // every or self.finished:
                        self._write_samples()
                    if time.monotonic() - saved_at >= config.checkpoint_every_seconds:
                        self.save()
                        saved_at = time.monotonic()
            except KeyboardInterrupt:
                self.save()
                raise
        self.save()

    def _collect(self, metrics: dict[str, Tensor]) -> None:
        for name, metric in metrics.items():
            total, count = self.window.get(name, (torch.zeros_like(metric), 0))
            self.window[name] = (total + metric, count + 1)
        if self.device.type == "cpu" or self.trainer.steps % LOOK_EVERY_STEPS_ON_GPU == 0:
            for name in ("loss_discriminator", "loss_generator"):
                value = metrics[name].item()
                if not math.isfinite(value):
                    self._stop(f"{name} is {value}")

    def _report(self) -> dict[str, float]:
        means = {name: (total / count).item() for name, (total, count) in self.window.items()}
        seconds, images = self.reported_at
        means["ada_probability"] = self.trainer.probability
        means["images_per_second"] = (self.trainer.images - images) / max(self.seconds - seconds, 1e-9)
        self.reported_at = (self.seconds, self.trainer.images)
        self.window = {}
        self.report(means, self.trainer.images)
        return {"D": means["loss_discriminator"], "G": means["loss_generator"], "img/s": means["images_per_second"]}

    def _write_samples(self) -> None:
        path = self.out / "samples" / f"{self.trainer.images // 1000:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.trainer.averaged.set_w_average()
        sample_grid(self.trainer.averaged, range(GRID_FACES), psi=1.0).save(path)

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
        trainer.averaged.set_w_average()
        state = {
            "config": self.config.model_dump(mode="json"),
            "faces": self.faces.digest,
            "seconds": self.seconds,
            "window": {name: (total.item(), count) for name, (total, count) in self.window.items()},
            "reported_at": self.reported_at,
            "trainer": trainer.state(),
        }
        save_state(state, self.state_file)
        network = trainer.averaged
        card = GeneratorCard(
            image_size=network.image_size,
            channels=self.config.channels,
            z_width=network.z_width,
            w_width=network.w_width,
            mapping_depth=self.config.mapping_depth,
            noise_inputs=network.noise_inputs,
            manifest=self.faces.digest,
            kimg=trainer.images / 1000,
            training=self.config.model_dump(mode="json"),
        )
        save_generator(network, card, self.folder)

    def resume(self) -> None:
        """Continue from `training.pt`, if there is one.

        Raises:
            UserError: it was begun with another configuration, other faces, or networks of another architecture.
        """
        if not self.state_file.is_file():
            return
        state = load_state(self.state_file)
        self._refuse_change(state)
        self.seconds = state["seconds"]
        self.reported_at = (state["reported_at"][0], state["reported_at"][1])
        self.window = {
            name: (torch.tensor(total, device=self.device), count) for name, (total, count) in state["window"].items()
        }
        try:
            self.trainer.restore(state["trainer"])
        except (RuntimeError, ValueError, KeyError) as error:  # what torch raises where shapes or names do not fit
            raise UserError(
                f"{self.state_file} holds networks of another architecture than this version of preset"
                f" {self.config.preset} builds: give another folder to start anew"
            ) from error

    def _refuse_change(self, state: Mapping[str, Any]) -> None:
        before, now = state["config"], self.config.model_dump(mode="json")
        for name in now:
            if name not in FREE_FIELDS and before.get(name) != now[name]:
                raise UserError(
                    f"{self.out} was begun with {name} {before.get(name)}, not {now[name]}:"
                    " give that value to resume, or another folder to start anew"
                )
        if state["faces"] != self.faces.digest:
            raise UserError(
                f"{self.out} was begun with other real train faces: give that manifest, or another folder to start anew"
            )


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C until the step is whole, so that what is saved is a state between two steps.

    A second one interrupts at once. Signals reach the main thread only; elsewhere there is nothing to hold back.
    """
    seen: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if seen:
            signal.default_int_handler(number, frame)
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)
