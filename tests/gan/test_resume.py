"""A job that is killed again and again, or finds the disk full, ends in the state of one that was left alone."""

from __future__ import annotations

import functools
import json
import multiprocessing
import random
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from core.manifest import Manifest
from core.state import write_state
from gan.checkpoint import load_generator, load_state, read_card, save_generator
from gan.config import GanConfig
from gan.training import train

KILLS = 10


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Processes of their own, without seconds of imports each: a server imports once, and forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gan.training"])
    return context


def test_ten_kills_at_random_moments_change_no_bit(
    processes: multiprocessing.context.ForkServerContext,
    blobs: Manifest,
    cache: Path,
    smallest: GanConfig,
    differences: Callable[[Any, Any], list[str]],
    tmp_path: Path,
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    moments = random.Random(seed)
    config = smallest.model_copy(update={"kimg": 1.0, "checkpoint_every_seconds": 1000.0})
    hasty = config.model_copy(update={"checkpoint_every_seconds": 0.02})

    def run(out: str) -> None:
        # In a process as fresh as those that are killed: other tests may have left torch other settings in this one.
        process = processes.Process(target=functools.partial(train, blobs, config, tmp_path / out, cache))
        process.start()
        process.join()
        assert process.exitcode == 0

    run("whole")
    state, generator = tmp_path / "killed" / "training.pt", tmp_path / "killed" / "generator"
    for kill in range(KILLS):
        before = state.stat().st_mtime_ns if state.exists() else 0
        job = functools.partial(train, blobs, hasty, tmp_path / "killed", cache)
        process = processes.Process(target=job)
        process.start()
        # Every other one dies while it starts; those between get as far as a checkpoint, or else none would ever end.
        while kill % 2 and process.is_alive() and (not state.exists() or state.stat().st_mtime_ns == before):
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.1 if kill % 2 else 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it had ended before it was killed: give it a larger budget"
        if state.exists():
            load_state(state)
        if generator.exists():
            load_generator(generator)
    run("killed")
    one, other = (load_state(tmp_path / name / "training.pt") for name in ("whole", "killed"))
    assert one["trainer"]["probability"] > 0
    assert not differences(one["trainer"], other["trainer"]), f"moments of seed {seed}"
    published = [(tmp_path / name / "generator" / "weights.safetensors").read_bytes() for name in ("whole", "killed")]
    assert published[0] == published[1]


def on_a_small_disk(limit: int, write: Callable[[], object]) -> str:
    """What a user is told when no file may grow beyond `limit` bytes: the kernel's refusal, as of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # Python ignores the signal that comes with it
    try:
        with pytest.raises(UserError) as error:
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return str(error.value)


def test_full_disk_leaves_the_old_checkpoint_whole(
    trained: Path, blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path: Path
) -> None:
    out = tmp_path / "job"
    shutil.copytree(trained.parent, out)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    longer = smallest.model_copy(update={"kimg": 0.12})
    sentence = on_a_small_disk(100_000, lambda: train(blobs, longer, out, cache))
    assert re.fullmatch(r".*training\.pt could not be written \(file too large\); what stood .* is whole: .*", sentence)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    train(blobs, longer, out, cache)
    assert load_state(out / "training.pt")["trainer"]["steps"] == 15


def test_full_disk_leaves_the_old_generator_whole(trained: Path, tmp_path: Path) -> None:
    generator, card = load_generator(trained), read_card(trained)
    save_generator(generator, card, tmp_path / "generator")
    sentence = on_a_small_disk(100_000, lambda: save_generator(generator, card, tmp_path / "generator"))
    assert "generator could not be written (file too large); what stood there before is whole" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["generator"]
    assert load_generator(tmp_path / "generator").image_size == 16


def test_states_of_plain_containers_only(tmp_path: Path) -> None:
    write_state(tmp_path / "new" / "training.pt", {"config": {}, "faces": "", "trainer": {"steps": 1}})
    assert load_state(tmp_path / "new" / "training.pt")["trainer"] == {"steps": 1}
    sentence = on_a_small_disk(0, lambda: write_state(tmp_path / "other.pt", {"config": {}}))
    assert "nothing stood there before" in sentence
    assert not (tmp_path / "other.pt").exists()


def test_damaged_weights_are_not_loaded(trained: Path, tmp_path: Path) -> None:
    folder = save_generator(load_generator(trained), read_card(trained), tmp_path / "generator")
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "weights.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"weights\.safetensors does not fit config\.json"):
        load_generator(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["weights"]  # as in generators of before the checksum was kept
    (folder / "config.json").write_text(json.dumps(config))
    load_generator(folder)
