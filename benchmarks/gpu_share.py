"""How much of a GPU's bfloat16 peak the training of the `base` preset reaches, eager and compiled."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from record import say
from sides import Side, batches_of, can_compile, our_trainer, pictures_of, seconds_of
from torch.utils.flop_counter import FlopCounterMode

from gan.config import PRESETS

SIZES = (64, 128)
STEPS = 64  # that are timed at once, whole rounds of penalties
# Dense bfloat16 figures of the data sheets, in 10^12 operations a second.
DATA_SHEETS = {"H200": 989.4, "H100": 989.4, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10G": 70.0}


def shares_of_peak(options: argparse.Namespace) -> dict[str, Any]:
    """Images/s of whole training at 64 and 128 px, and the rate of operations of the steps without penalties."""
    device = torch.device(options.device)
    matmul = _matmul_rate(device)
    name = torch.cuda.get_device_name(device)
    sheet = next((rate * 1e12 for chip, rate in DATA_SHEETS.items() if chip in name), None)
    figures: dict[str, Any] = {
        "tflops_of_a_large_matmul": round(matmul / 1e12, 1),
        "tflops_of_the_data_sheet": sheet and sheet / 1e12,
        "compiled": "measured" if can_compile() else "not offered by the trainer",
    }
    for size in SIZES:
        rates: dict[bool, float] = {}
        flops = 0
        for compiled in (False, True) if can_compile() else (False,):
            say(f"{size} px, base, {'compiled' if compiled else 'eager'}")
            step, main_step = _steps(options, size, compiled)
            # Inside a compiled graph nothing is counted: the eager side, which comes first, counts for both.
            flops = flops or _flops(main_step)
            batch = PRESETS["base"].batch_size
            warm_up = seconds_of(step, 16, device)
            whole = statistics.median(seconds_of(step, STEPS, device) / STEPS for _ in range(options.rounds))
            main = statistics.median(seconds_of(main_step, STEPS, device) / STEPS for _ in range(options.rounds))
            rates[compiled] = batch / whole
            figures[f"{size} px {'compiled' if compiled else 'eager'}"] = {
                "batch_size": batch,
                "images_per_second": round(rates[compiled], 1),
                "warm_up_seconds": round(warm_up, 1),
                "main_step_ms": round(main * 1e3, 3),
                "gflops_per_image": round(flops / batch / 1e9, 2),
                "share_of_matmul": round(flops / main / matmul, 4),
                "share_of_data_sheet": sheet and round(flops / main / sheet, 4),
            }
        if can_compile():
            figures[f"{size} px compiled over eager"] = round(rates[True] / rates[False], 3)
    return figures


def _steps(options: argparse.Namespace, size: int, compiled: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    """A step of training, and a step in which no penalty is due."""
    batch = PRESETS["base"].batch_size
    side = Side("base", size, batch, options.device, options.threads, options.ada_probability, compiled=compiled)
    trainer = our_trainer(side)
    trainer.probability = side.ada_probability
    batches = batches_of(pictures_of(side).to(options.device), batch)

    def main_step() -> None:
        trainer.steps = 1
        trainer.step(next(batches))

    return lambda: trainer.step(next(batches)), main_step


def _flops(step: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def _matmul_rate(device: torch.device, width: int = 8192) -> float:
    """Operations a second of a large bfloat16 matrix product: what the device gives, whatever its data sheet says."""
    a, b = (torch.randn(width, width, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds_of(lambda: a @ b, 10, device)
    return 2 * width**3 * 50 / seconds_of(lambda: a @ b, 50, device)
