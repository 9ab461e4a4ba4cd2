"""What training and sampling cost against the work: picture size and batch size.

A cell of the table is the seconds of a thousand training pictures at one size and one batch size, penalties included:
steps with and without a penalty are timed apart and weighed by how often they are due, so that a cell needs a few
steps only. Sampling is images/s at each size. `ratio` is the largest growth of the cost from one size to the next of
twice the side; the goal says that it grows no faster than the pixels, four times.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

import torch
from record import hand_over, hardware, peak_memory_mib, refuse, say, versions
from sides import Side, batches_of, count, our_trainer, pictures_of, seconds_of

from gan.networks import Generator
from gan.sampling import render

SIZES, BATCHES = (16, 32, 64, 128), (4, 16, 64)
GOAL = 4.0
FEWEST_STEPS = 2  # of a kind in a cell
SAMPLING_BATCH = 64
_COLOURS = ("#0072B2", "#D55E00", "#009E73")  # of Okabe and Ito's palette


def main() -> None:
    """Parse, measure cell by cell, record."""
    options = _options()
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    machine = hardware(options.device, options.threads)
    table: dict[str, dict[str, float]] = {}
    sampling: dict[str, float] = {}
    parameters: dict[str, list[int]] = {}
    for size in options.sizes:
        row: dict[str, float] = {}
        for batch in options.batches:
            side = Side(options.preset, size, batch, options.device, options.threads, options.ada_probability)
            trainer = our_trainer(side)
            trainer.probability = options.ada_probability
            seconds = _seconds_of_1000(trainer, side, options.seconds)
            row[str(batch)] = round(seconds, 3)
            say(f"{size} px, batch {batch}: {seconds:.1f} s a thousand pictures")
        table[str(size)] = row
        parameters[str(size)] = [count(trainer.generator), count(trainer.discriminator)]
        sampling[str(size)] = round(_samples_a_second(trainer.averaged, options.seconds, device), 1)
        say(f"{size} px: {sampling[str(size)]:.1f} samples/s")
    ratio = _largest_growth(table)
    if options.plot:
        _plot(table, sampling, options.plot, f"preset {options.preset}, {machine.get('gpu', machine['processor'])}")
    hand_over(
        {
            "benchmark": "generator_cost",
            "settings": {
                name: getattr(options, name) for name in ("preset", "device", "threads", "seconds", "ada_probability")
            },
            "seconds_of_1000_training_pictures": {"unit": "by side in pixels, then by batch size", **table},
            "samples_per_second": sampling,
            "parameters_of_generator_and_discriminator": parameters,
            "peak_memory_mib": round(peak_memory_mib(), 1),
            "ratio": ratio,
            "goal": None if ratio is None else GOAL,
            "met": None if ratio is None else ratio <= GOAL,
            "hardware": machine,
            "versions": versions("counterforge"),
        },
        options.out,
    )


def _seconds_of_1000(trainer: Any, side: Side, budget: float) -> float:
    device = torch.device(side.device)
    batches = batches_of(pictures_of(side).to(device), side.batch_size)
    every = trainer.config.penalty_every

    def step(number: int) -> None:
        trainer.steps = number  # decides whether a penalty is due
        trainer.step(next(batches))

    due, not_due = (
        _median_seconds(lambda: step(0), budget / 2, device),
        _median_seconds(lambda: step(1), budget, device),
    )
    return (due + (every - 1) * not_due) / every / side.batch_size * 1000


def _median_seconds(step: Any, budget: float, device: torch.device) -> float:
    """Of one step, after one that warms up, from as many as fit the budget in seconds."""
    seconds_of(step, 1, device)
    taken: list[float] = []
    while len(taken) < FEWEST_STEPS or sum(taken) < budget:
        taken.append(seconds_of(step, 1, device))
    return statistics.median(taken)


def _samples_a_second(generator: Generator, budget: float, device: torch.device) -> float:
    """As `gan sample` draws them: latents by seed, float32, 8-bit pictures in memory."""

    def batch() -> None:
        render(generator, range(SAMPLING_BATCH), 0.7, SAMPLING_BATCH)

    return SAMPLING_BATCH / _median_seconds(batch, budget, device)


def _largest_growth(table: dict[str, dict[str, float]]) -> float | None:
    """Of the cost from one size to the next of twice the side, over all batch sizes."""
    growth = [
        row[batch] / table[str(int(size) // 2)][batch]
        for size, row in table.items()
        if str(int(size) // 2) in table
        for batch in row
    ]
    return round(max(growth), 3) if growth else None


def _plot(table: dict[str, dict[str, float]], sampling: dict[str, float], path: Path, title: str) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(9.0, 4.2), dpi=100, layout="constrained")
    training, samples = figure.subplots(1, 2)
    sizes = [int(size) for size in table]
    for batch, colour in zip(next(iter(table.values())), _COLOURS * 3, strict=False):
        training.plot(sizes, [row[batch] for row in table.values()], "o-", color=colour, label=f"batch {batch}")
    first = min(min(row.values()) for row in table.values())
    training.plot(
        sizes, [first * (size / sizes[0]) ** 2 for size in sizes], ":", color="#666666", label="as the pixels"
    )
    training.set(title="training", ylabel="seconds of 1000 pictures")
    training.legend(frameon=False)
    samples.plot(sizes, list(sampling.values()), "o-", color=_COLOURS[0])
    samples.set(title="sampling", ylabel="samples a second")
    for axes in (training, samples):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xlabel("side in pixels")
        axes.grid(visible=True, which="both", color="#e2e2e2", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--preset", default="small", choices=("tiny", "small", "base"))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a cell, about, and at least a few steps")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--ada-probability", type=float, default=0.5, help="strength that ADA is held at")
    parser.add_argument("--out", type=Path, help="file that gets the JSON object too")
    parser.add_argument("--plot", type=Path, help="file that gets the plot, such as cost.png")
    options = parser.parse_args()
    for size in options.sizes:
        if size & (size - 1) or not 16 <= size <= 256:
            refuse(f"--sizes {size} is no power of two from 16 to 256")
    for batch in options.batches:
        if batch % 4 or batch < 4 or batch > 256:
            refuse(f"--batches {batch} is no multiple of 4 up to 256")
    return options


if __name__ == "__main__":
    main()
