"""A step in micro-batches, or on several processes, is the step of the whole batch."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gan.training
from core.errors import UserError
from core.manifest import Manifest
from faces.loading import load_crops
from gan import distributed
from gan.checkpoint import load_state
from gan.config import GanConfig
from gan.distributed import ProcessGroup
from gan.trainer import Trainer
from gan.training import feeder, train

CPU = torch.device("cpu")
Metrics = list[dict[str, float]]


def batches(steps: int, size: int = 16) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (size, 3, 16, 16), dtype=torch.uint8, generator=random) for _ in range(steps)]


def steps_of(trainer: Trainer, count: int) -> Metrics:
    return [{name: value.item() for name, value in trainer.step(batch).items()} for batch in batches(count)]


def without_amplification(trainer: Trainer) -> None:
    """Adam divides by the gradient's size, which turns a rounding of a tiny gradient into a whole step: not so here."""
    for optimiser in (trainer.generator_optimiser, trainer.discriminator_optimiser):
        for group in optimiser.param_groups:
            group["eps"] = 0.1


def assert_alike(one: Metrics, other: Metrics, tolerance: float) -> None:
    assert len(one) == len(other)
    for step, (a, b) in enumerate(zip(one, other, strict=True)):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=tolerance, abs=tolerance), f"{name} at step {step}"


@pytest.mark.parametrize("loss", ["relativistic", "ns-r1"])
@pytest.mark.parametrize("augment", ["ada", "diffaugment"])
def test_micro_batches_equal_the_whole_batch(loss: str, augment: str, smallest: GanConfig) -> None:
    config = smallest.model_copy(
        update={"batch_size": 16, "loss": loss, "augment": augment, "precision": "float32"}
    ).resolved()
    whole, shared = (Trainer(config.model_copy(update={"accumulate": parts}), CPU) for parts in (1, 4))
    for trainer in (whole, shared):
        trainer.probability = 0.5
        without_amplification(trainer)
    assert_alike(steps_of(whole, 5), steps_of(shared, 5), 1e-3)
    assert whole.probability == shared.probability
    for one, other in zip(whole.generator.parameters(), shared.generator.parameters(), strict=True):
        assert (one - other).abs().max() < 1e-4


def test_gradients_of_micro_batches_equal_those_of_the_whole_batch(smallest: GanConfig) -> None:
    """Before Adam, which turns a rounding into a whole step where a gradient is near zero."""
    config = smallest.model_copy(update={"batch_size": 16, "precision": "float32"}).resolved()
    found: list[list[torch.Tensor]] = []
    for parts in (1, 2, 4):
        trainer = Trainer(config.model_copy(update={"accumulate": parts}), CPU)
        trainer.probability = 0.5
        gradients: list[torch.Tensor] = []

        def keep(network: torch.nn.Module, kept: list[torch.Tensor] = gradients) -> None:
            kept.extend(p.grad.clone() for p in network.parameters() if p.grad is not None)

        trainer.discriminator_optimiser.step = functools.partial(keep, trainer.discriminator)  # type: ignore[method-assign]
        trainer.generator_optimiser.step = functools.partial(keep, trainer.generator)  # type: ignore[method-assign]
        trainer.step(batches(1)[0])
        found.append(gradients)
    whole = found[0]
    discriminator = len(list(trainer.discriminator.parameters()))
    assert len(whole) > 2 * discriminator  # of the loss, of the penalty (but for biases behind it), of the generator
    for shared in found[1:]:
        for one, other in zip(whole, shared, strict=True):
            assert (one - other).norm() <= 1e-4 * one.norm() + 1e-7


SCRIPT = """
import json, sys
from pathlib import Path
import torch
import gan.training
from core.manifest import Manifest
from gan.config import GanConfig
from gan.distributed import launch

class Kept(gan.training.Trainer):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        for optimiser in (self.generator_optimiser, self.discriminator_optimiser):
            optimiser.param_groups[0]["eps"] = 0.1
        kept.append(self)

kept, seen = [], []
gan.training.Trainer, gan.training.REPORT_EVERY_IMAGES = Kept, 1
faces, config, out, cache, devices = sys.argv[1:]
config, out, faces = GanConfig.model_validate_json(config), Path(out), Manifest.read(faces)
group = launch("cpu", int(devices))
gan.training.train(faces, config, out / "job", Path(cache), lambda metrics, step: seen.append((step, metrics)), group)
networks = [kept[0].generator, kept[0].averaged, kept[0].discriminator]
weights = torch.cat([weight.detach().flatten() for network in networks for weight in network.parameters()])
one, other = group.gather(weights[None]).view(2, -1)
assert torch.equal(one, other), "the processes' weights differ"
if group.is_main:
    (out / "seen.json").write_text(json.dumps(seen))
"""


@pytest.mark.parametrize("started_by", ["torchrun", "fabric"])
def test_two_processes_equal_one(
    started_by: str, blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gan.training, "REPORT_EVERY_IMAGES", 1)
    config = smallest.model_copy(update={"batch_size": 16, "kimg": 0.096, "precision": "float32"})
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    words = [str(script), str(blobs.root), config.model_dump_json(), str(tmp_path), str(cache)]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if started_by == "torchrun" else []
    devices = "1" if started_by == "torchrun" else "2"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, *start, *words, devices], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    alone: list[tuple[int, Mapping[str, float]]] = []

    class Tame(Trainer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            without_amplification(self)

    monkeypatch.setattr(gan.training, "Trainer", Tame)
    train(blobs, config, tmp_path / "alone", cache, lambda metrics, step: alone.append((step, metrics)))
    together: list[tuple[int, dict[str, float]]] = json.loads((tmp_path / "seen.json").read_text())
    assert [step for step, _ in together] == [step for step, _ in alone] == list(range(16, 97, 16))
    for (step, one), (_, other) in zip(alone, together, strict=True):
        for name in one.keys() - {"images_per_second"}:
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-3), f"{name} at {step}"
    states = [load_state(tmp_path / name / "training.pt") for name in ("alone", "job")]
    assert states[0]["trainer"]["steps"] == states[1]["trainer"]["steps"] == 6
    # What one process has begun two can finish, and the other way round.
    longer = config.model_copy(update={"kimg": 0.128})
    assert train(blobs, longer, tmp_path / "job", cache).is_dir()


def test_batch_that_cannot_be_shared_is_refused(smallest: GanConfig) -> None:
    with pytest.raises(UserError, match=r"batch_size 8 on 2 devices in 2 micro-batches .* take a multiple of 16"):
        Trainer(smallest.model_copy(update={"accumulate": 2}).resolved(), ProcessGroup(CPU, 0, 2))


def test_single_device_for_several_processes_is_refused() -> None:
    with pytest.raises(UserError, match="device cpu:0 is a single one"):
        distributed.launch("cpu:0", devices=2)


def test_faces_on_the_device_are_those_of_the_memory_map(blobs: Manifest, cache: Path) -> None:
    crops = load_crops(blobs, 16, cache)
    indices = np.array([3, 0, 3, 23])
    resident = feeder(crops, CPU, resident=True)(indices)
    assert resident.dtype == torch.uint8
    assert torch.equal(resident, feeder(crops, CPU)(indices))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_compiled_passes_on_a_gpu_equal_eager_ones(smallest: GanConfig) -> None:
    config = smallest.model_copy(update={"batch_size": 16, "precision": "float32"}).resolved()
    device = torch.device("cuda")
    eager, compiled = (Trainer(config.model_copy(update={"compiled": on}), device) for on in (False, True))
    assert_alike(steps_of(eager, 3), steps_of(compiled, 3), 1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_a_gpu_keeps_its_faces_there_and_resumes(
    blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path
) -> None:
    config = smallest.model_copy(update={"device": "cuda"})
    assert feeder(load_crops(blobs, 16, cache), torch.device("cuda"))(np.arange(4)).is_cuda
    train(blobs, config.model_copy(update={"kimg": 0.04}), tmp_path, cache)
    train(blobs, config, tmp_path, cache)
    assert load_state(tmp_path / "training.pt")["trainer"]["steps"] == 10
    trainer = Trainer(config.resolved(), torch.device("cuda"))
    assert all(group["fused"] for group in trainer.generator_optimiser.param_groups)
