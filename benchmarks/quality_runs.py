"""Trainings of equal wall-clock time, and how near their samples come to the reals: a process each, two side by side.

A run's result stands in a file of its own, so that a benchmark that was killed goes on where it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from record import say
from sides import count as parameters_of
from torch import Tensor

from core.files import write_json
from core.manifest import Manifest
from faces.loading import Crops, load_crops
from gan.config import GanConfig
from gan.quality import of_pictures
from gan.sampling import Pixels, render, tiled
from gan.trainer import Trainer
from gan.training import picture_indices
from metrics.distributions import frechet_distance, kernel_distance


@dataclass(frozen=True)
class Run:
    """One training, and what its samples are compared with.

    Attributes:
        arm: name of what is compared; `peer` is stylegan2-pytorch, anything else our trainer.
        seed: of the training.
        minutes: of training: of the processor's time where one thread trains, which is what a clock shows on a quiet
            machine, whatever else runs beside it; of the clock elsewhere. What is measured between costs none of them.
        train, held_out: how many of the manifest's real train faces it learns from, and is compared with: the last
            ones of an order that is the same for every run. 0 compares with all.
        points: how often it is measured, evenly over its time.
        settings: of `GanConfig`.
    """

    arm: str
    seed: int
    minutes: float
    manifest: str
    train: int
    held_out: int
    threads: int
    device: str
    points: int = 5
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.arm}-{self.seed}"


def run_all(runs: Sequence[Run], side_by_side: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Results of all runs by name, `side_by_side` of them at a time, those of a killed call kept."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [run for run in runs if not _finished(run, folder)]
    active: list[tuple[Run, subprocess.Popen[bytes]]] = []
    try:
        while waiting or active:
            while waiting and len(active) < side_by_side:
                run = waiting.pop(0)
                say(f"{run.name} begins: {run.minutes:g} minutes")
                environment = os.environ | {"OMP_NUM_THREADS": str(run.threads), "OMP_WAIT_POLICY": "PASSIVE"}
                command = [sys.executable, __file__, json.dumps(asdict(run)), str(folder)]
                active.append((run, subprocess.Popen(command, env=environment)))
            for run, process in list(active):
                if process.poll() is not None:
                    active.remove((run, process))
                    if process.returncode:
                        raise RuntimeError(f"{run.name} ended with exit {process.returncode}")
            time.sleep(1)
    finally:
        for _, process in active:
            process.kill()
    return {run.name: json.loads((folder / f"{run.name}.json").read_text())["result"] for run in runs}


def _finished(run: Run, folder: Path) -> bool:
    path = folder / f"{run.name}.json"
    return path.is_file() and json.loads(path.read_text())["run"] == asdict(run)


@dataclass
class _Player:
    """A training behind the same three calls, whoever it is."""

    step: Callable[[Tensor], object]
    sample: Callable[[int], Pixels]  # so many, at psi 1
    batch_size: int
    parameters: tuple[int, int]
    augmentation: Callable[[], dict[str, float]] = dict  # how ADA stands, for a point of the curve


def play(run: Run, folder: Path) -> None:
    """Train, measure on the way, and write `folder/NAME.json` and `folder/NAME.png`."""
    torch.set_num_threads(run.threads)
    reals = Manifest.read(Path(run.manifest)).select(split="train", label="real")
    size = int(run.settings.get("image_size", 32))
    crops = load_crops(reals, size, folder / "cache")
    order = np.random.default_rng(0).permutation(len(reals))
    train = order[: run.train]
    compared = order[-run.held_out :] if run.held_out else order
    real = of_pictures(_pictures(crops, compared))
    player = _peer(run, size, folder) if run.arm == "peer" else _ours(run)
    curve: list[dict[str, float]] = []
    clock = time.process_time if run.device == "cpu" and run.threads == 1 else time.perf_counter
    seconds, steps = 0.0, 0
    for point in range(1, run.points + 1):
        until = run.minutes * 60 * point / run.points
        while seconds < until:
            began = clock()
            places = picture_indices(run.seed, steps * player.batch_size, player.batch_size, len(train))
            player.step(crops.batch(train[places]))
            steps += 1
            seconds += clock() - began
        pictures = player.sample(len(compared))
        fake = of_pictures(pictures)
        kernel = kernel_distance(real.deep, fake.deep)
        curve.append(
            {
                "minutes": round(seconds / 60, 2),
                "kimg": round(steps * player.batch_size / 1000, 2),
                "kd_lite0": kernel.mean,
                "kd_lite0_sd": kernel.sd,
                "fd_lite0": frechet_distance(real.stage, fake.stage),
                "epochs": round(steps * player.batch_size / len(train), 1),
                **player.augmentation(),
            }
        )
        say(f"{run.name}: {json.dumps(curve[-1])}")
        grid = Image.fromarray(tiled(pictures[:48], 8))
        grid.resize((grid.width * 3, grid.height * 3), Image.Resampling.BICUBIC).save(folder / f"{run.name}.png")
    result = {
        **curve[-1],
        "images_per_second": steps * player.batch_size / seconds,
        "parameters": player.parameters,
        "curve": curve,
    }
    write_json(folder / f"{run.name}.json", {"run": asdict(run), "result": result})


def floor(manifest: Path, image_size: int, count: int, cache: Path) -> dict[str, float]:
    """Distances between two sets of `count` of the reals, the kernel's and the Fréchet's."""
    reals = Manifest.read(manifest).select(split="train", label="real")
    crops = load_crops(reals, image_size, cache)
    order = np.random.default_rng(0).permutation(len(reals))
    one, other = (of_pictures(_pictures(crops, half)) for half in (order[:count], order[count : 2 * count]))
    kernel = kernel_distance(one.deep, other.deep)
    found = {"pictures": float(len(other.deep)), "kd_lite0": kernel.mean, "kd_lite0_sd": kernel.sd}
    if len(other.deep) > other.stage.shape[1]:
        found["fd_lite0"] = frechet_distance(one.stage, other.stage)
    return found


def _ours(run: Run) -> _Player:
    config = GanConfig(seed=run.seed, device=run.device, **run.settings).resolved()
    trainer = Trainer(config, torch.device(run.device))

    def sample(count: int) -> Pixels:
        trainer.averaged.set_w_average()
        return render(trainer.averaged, range(count), 1.0)

    signs: list[Tensor] = []

    def step(pictures: Tensor) -> None:
        signs.append(trainer.step(pictures)["ada_overfitting"])

    def augmentation() -> dict[str, float]:
        mean = torch.stack(signs).mean().item()
        signs.clear()
        # r_t of equation 1, the mean since the last point, which ADA steers to its target.
        return {"ada_probability": trainer.probability, "ada_overfitting": mean}

    counts = (parameters_of(trainer.generator), parameters_of(trainer.discriminator))
    return _Player(step, sample, trainer.batch_size, counts, augmentation)


def _peer(run: Run, size: int, folder: Path) -> _Player:
    """stylegan2-pytorch with its own defaults at batch 16, its pictures mirrored at random as its loader does."""
    sys.modules.setdefault("aim", types.ModuleType("aim"))  # an experiment tracker, used only when it is told to log
    with mock.patch.object(torch.cuda, "is_available", return_value=True):  # asserted on import, and needed nowhere
        import stylegan2_pytorch.stylegan2_pytorch as peer
    if run.device == "cpu":
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
        torch.nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    torch.manual_seed(run.seed)
    batch_size = 16
    trainer = peer.Trainer(base_dir=folder / run.name, image_size=size, batch_size=batch_size, rank=0)
    trainer.save = trainer.evaluate = lambda *_: None
    queue: list[Tensor] = []
    trainer.loader = (queue.pop() for _ in iter(int, 1))
    trainer.init_GAN()
    networks = trainer.GAN

    def step(pictures: Tensor) -> None:
        # Its step takes one batch of reals.
        mirrored = torch.where(torch.rand(len(pictures), 1, 1, 1) < 0.5, pictures.flip(3), pictures)
        queue.append(mirrored.float().div(255).contiguous().to(run.device))
        trainer.train()

    @torch.no_grad()
    def sample(count: int) -> Pixels:
        # Its moving average starts at step 20,000 only: until then the generator itself is what it has.
        parts = []
        networks.eval()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for start in range(0, count, 50):
                n = min(50, count - start)
                styles = peer.noise_list(n, networks.G.num_layers, networks.G.latent_dim, device=run.device)
                w = peer.styles_def_to_tensor(peer.latent_to_w(networks.S, styles))
                parts.append(networks.G(w, peer.image_noise(n, size, device=run.device)).clamp(0, 1))
        networks.train()
        joined = (torch.cat(parts) * 255).round().to(torch.uint8)
        return joined.permute(0, 2, 3, 1).cpu().numpy()

    return _Player(step, sample, batch_size, (parameters_of(networks.G, networks.S), parameters_of(networks.D)))


def _pictures(crops: Crops, rows: NDArray[np.int64]) -> Pixels:
    return crops.batch(rows).permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    play(Run(**json.loads(sys.argv[1])), Path(sys.argv[2]))
