"""Training images/s of the generator, and its peak memory, against stylegan2-pytorch 1.9.0.

The other side runs as it ships: its own `Trainer` with its defaults (hinge loss, gradient penalties at reals and fakes
every 4 steps, float32). What it does now and then stays out, to its advantage: its loader's decoding, path lengths
(from step 5000 on), moving averages (from step 20,000 on), sample sheets, checkpoints. Ours runs as it ships too
(relativistic loss, R1 + R2 every 8 steps, moving averages every step, bfloat16 where the hardware has it), with ADA at
a strength that it reaches on small sets; the other side's augmentation is off by default.

Each side is a process of its own, with equally many threads and the same pictures in memory. Rounds alternate: a round
times every side in turn while the others wait. `ratio` is of the medians over rounds. Images by processor time are
recorded beside it: where the two tell different stories, something else was running.

On CUDA, also at 128 px, and the `base` preset: images/s eager and compiled, and which share of the bfloat16 peak the
steps without penalties reach.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from record import hand_over, hardware, peak_memory_mib, refuse, say, versions
from sides import Side, our_step, peer_step, seconds_of

PEER_NEEDS = ("stylegan2_pytorch", "vector_quantize_pytorch", "einops", "kornia", "fire")
HOW_TO_INSTALL = (
    "stylegan2-pytorch 1.9.0 is not importable: `pip install --no-deps --target FOLDER stylegan2-pytorch==1.9.0"
    " vector-quantize-pytorch==0.1.0 einops fire kornia kornia-rs termcolor`, and call this with PYTHONPATH=FOLDER,"
    " or with --no-peer"
)
GOALS = {"small": 5.0, "equal_parameters": 4.0, "memory": 1.0}
CYCLE = 8  # steps after which both sides have done whole rounds of penalties: ours every 8, theirs every 4


def main() -> None:
    """Parse, measure, record."""
    options = _options()
    sizes = [options.image_size] if not options.device.startswith("cuda") else sorted({options.image_size, 128})
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    if options.peer:
        missing = [name for name in PEER_NEEDS if importlib.util.find_spec(name) is None]
        if missing:
            refuse(HOW_TO_INSTALL)
    machine = hardware(options.device, options.threads)
    results = {size: _compare(options, size) for size in sizes}
    device = None
    if options.device.startswith("cuda"):
        from gpu_share import shares_of_peak

        device = shares_of_peak(options)
    first = results[options.image_size]
    ratio = first["ratio"]
    hand_over(
        {
            "benchmark": "generator_speed",
            "settings": {
                name: getattr(options, name)
                for name in ("image_size", "batch_size", "rounds", "steps", "device", "threads", "ada_probability")
            },
            "at": {f"{size} px": result["sides"] for size, result in results.items()},
            "ratios_at": {f"{size} px": result["ratio"] for size, result in results.items()},
            "device": device,
            "ratio": ratio,
            "goal": {name: goal for name, goal in GOALS.items() if name in ratio} or None,
            "met": {name: _met(name, value) for name, value in ratio.items()} or None,
            "hardware": machine,
            "versions": versions("stylegan2-pytorch", "counterforge"),
        },
        options.out,
    )


def _met(name: str, ratio: float) -> bool:
    return ratio <= GOALS[name] if name == "memory" else ratio >= GOALS[name]


def _compare(options: argparse.Namespace, size: int) -> dict[str, Any]:
    """All sides at one size, in alternating rounds."""
    players: dict[str, _Player] = {}

    def start(name: str, parameters: tuple[int, int] | None = None) -> None:
        side = Side(
            name, size, options.batch_size, options.device, options.threads, options.ada_probability, parameters
        )
        say(f"{size} px: {name} warms up")
        players[name] = _Player(side)

    try:
        if options.peer:
            start("peer")
        start("small")
        if options.peer:
            start("equal_parameters", players["peer"].about["parameters"])
        for number in range(options.rounds):
            for name, player in players.items():
                rate = player.round(options.steps)
                say(f"{size} px, round {number + 1} of {options.rounds}: {name} {rate:.2f} images/s")
        sides = {name: player.finish() for name, player in players.items()}
    finally:
        for player in players.values():
            player.stop()
    ratio: dict[str, float] = {}
    if options.peer:
        for name in ("small", "equal_parameters"):
            ratio[name] = round(sides[name]["images_per_second"] / sides["peer"]["images_per_second"], 3)
        ratio["memory"] = round(
            max(sides[name]["peak_memory_mib"] for name in ("small", "equal_parameters"))
            / sides["peer"]["peak_memory_mib"],
            3,
        )
    return {"sides": sides, "ratio": ratio}


class _Player:
    """A side in its own process, which works only when it is told to."""

    def __init__(self, side: Side) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_play, args=(theirs, side), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is noticed here
        self.side = side
        self.rounds, self.by_processor_time = list[float](), list[float]()
        self.about: dict[str, Any] = self._hear()

    def round(self, steps: int) -> float:
        """Images/s of so many steps."""
        self.connection.send(steps)
        seconds, processor_seconds = self._hear()
        self.rounds.append(steps * self.side.batch_size / seconds)
        self.by_processor_time.append(steps * self.side.batch_size / processor_seconds)
        return self.rounds[-1]

    def finish(self) -> dict[str, Any]:
        """Everything that is known of the side, at the end of its work."""
        self.connection.send(0)
        generator, discriminator = self.about.pop("parameters")
        return {
            "images_per_second": round(statistics.median(self.rounds), 3),
            "rounds": [round(value, 3) for value in self.rounds],
            # Of all threads together: what other work on the machine hardly moves.
            "images_per_processor_second": round(statistics.median(self.by_processor_time), 3),
            "generator_parameters": generator,
            "discriminator_parameters": discriminator,
            **self.about,
            **self._hear(),
        }

    def stop(self) -> None:
        self.connection.close()
        self.process.join(timeout=30)
        if self.process.is_alive():
            self.process.terminate()

    def _hear(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            sys.exit(f"the process of {self.side.name} ended; what it said stands above")


def _play(connection: Connection, side: Side) -> None:
    """Life of a side's process."""
    torch.set_num_threads(side.threads)
    torch.manual_seed(0)
    with TemporaryDirectory() as scratch:
        step, about = (peer_step if side.name == "peer" else our_step)(side, Path(scratch))
        step()
        connection.send(about)
        try:
            while steps := connection.recv():
                before = time.process_time()
                seconds = seconds_of(step, steps, torch.device(side.device))
                connection.send((seconds, time.process_time() - before))
            memory = {"peak_memory_mib": round(peak_memory_mib(), 1)}
            if side.device.startswith("cuda"):
                memory = {
                    "peak_memory_mib": round(torch.cuda.max_memory_allocated(side.device) / 2**20, 1),
                    "peak_host_memory_mib": memory["peak_memory_mib"],
                }
            connection.send(memory)
        except EOFError:  # whoever asked is gone
            return


def _options() -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=CYCLE, help=f"of a round, a multiple of {CYCLE}")
    parser.add_argument("--threads", type=int, default=cores, help="of every side")
    parser.add_argument("--ada-probability", type=float, default=0.5, help="strength that our ADA is held at")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="measure our side alone: no ratio")
    parser.add_argument("--out", type=Path, help="file that gets the JSON object too")
    options = parser.parse_args()
    if options.steps % CYCLE or options.steps < 1:
        refuse(f"--steps {options.steps} is no multiple of {CYCLE}: penalties would weigh differently on the two sides")
    if options.rounds < 1:
        refuse(f"--rounds {options.rounds} is less than 1: give 5, say")
    return options


if __name__ == "__main__":
    main()
