"""From a manifest and a generator to a manifest whose train split holds the wanted share of fakes.

Only the train split grows, and it grows by fakes only: a real face is never synthesised. Where reals are the
minority nothing is added, and the sentence in the result says what balances them instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from faces.errors import UserError
from faces.manifest import Manifest, concatenate
from gan.checkpoint import generator_digest
from gan.sampling import sample


class BalanceConfig(BaseModel):
    """How many synthetic fakes a training set gets, and of which kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(0.5, ge=0, lt=1, description="fakes among all train rows afterwards")
    psi: float = Field(0.7, ge=0, le=1.5, description="truncation: 0 is the mean face, 1 the generator's own spread")
    seed: int = Field(0, ge=0, description="seed of the first synthetic face")


@dataclass(frozen=True)
class Balanced:
    """A balanced manifest, how many synthetic rows it gained, and a sentence that says what was done and why."""

    manifest: Manifest
    added: int
    explanation: str


def wanted_fakes(reals: int, fakes: int, share: float) -> int:
    """Synthetic fakes that lift `fakes / (reals + fakes)` to at least `share`; 0 where it is reached already."""
    total = share * reals / (1 - share)
    return max(0, -int(-(total - fakes) // 1))


def balance(manifest: Manifest, generator: Path, config: BalanceConfig, pool: Path) -> Balanced:
    """Add as many synthetic fakes to the train split as `config.share` asks for.

    Args:
        manifest: rows of any split; those of train are counted and complemented.
        generator: folder of a generator's checkpoint.
        pool: folder that keeps the samples of each generator and psi, so that every share draws on the same ones.

    Raises:
        UserError: the train split holds no real face.
    """
    train = manifest.select(split="train")
    fakes = int(train.targets.sum())
    reals = len(train) - fakes
    if not reals:
        raise UserError(
            f"the train split of the manifest in {manifest.root} has no real face: there is nothing to balance"
        )
    missing = wanted_fakes(reals, fakes, config.share)
    if not missing:
        why = f"train has {fakes} fakes beside {reals} reals, {fakes / len(train):.0%}: nothing was added"
        if fakes > reals:
            why += "; reals are the minority, and real faces are never synthesised: "
            why += "the detector weights or oversamples them (balance: weights | oversample)"
        return Balanced(manifest, 0, why)
    folder = pool / f"{generator_digest(generator)}-psi{config.psi:g}"
    synthetic = sample(generator, range(config.seed, config.seed + missing), config.psi, folder)
    # A pool may hold more samples, of a run that asked for more.
    seeds = {str(seed) for seed in range(config.seed, config.seed + missing)}
    synthetic = synthetic.where(synthetic.rows["seed"].astype("string").isin(seeds).to_numpy(dtype=bool))
    joined = concatenate([manifest, synthetic], manifest.root)
    after = (fakes + missing) / (len(train) + missing)
    why = f"train had {fakes} fakes beside {reals} reals; {missing} synthetic ones lift their share to {after:.0%}"
    return Balanced(joined, missing, why)
