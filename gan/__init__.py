"""The generator: networks, losses, training, sampling, forging and the balance of a training set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import lazy_exports

if TYPE_CHECKING:
    from gan.balancing import BalanceConfig as BalanceConfig
    from gan.balancing import balance as balance
    from gan.checkpoint import load_generator as load_generator
    from gan.config import GanConfig as GanConfig
    from gan.forging.forge import ForgeInputs as ForgeInputs
    from gan.forging.forge import forge as forge
    from gan.quality import score_generator as score_generator
    from gan.sampling import render as render
    from gan.sampling import sample_grid as sample_grid
    from gan.sampling import sample_screened as sample_screened
    from gan.training import train as train
    from gan.visualise import show as show

_HOMES = {
    "BalanceConfig": "balancing",
    "balance": "balancing",
    "load_generator": "checkpoint",
    "GanConfig": "config",
    "ForgeInputs": "forging.forge",
    "forge": "forging.forge",
    "score_generator": "quality",
    "render": "sampling",
    "sample_grid": "sampling",
    "sample_screened": "sampling",
    "train": "training",
    "show": "visualise",
}
__all__ = [*_HOMES]

__getattr__ = lazy_exports(__name__, _HOMES)
