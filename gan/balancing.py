"""From a manifest to one whose train split holds the wanted share of fakes, forged by one method or several.

Only the train split grows, and it grows by fakes only: a real face is never synthesised. Where reals are the
minority nothing is added, and the sentence in the result says what balances them instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from core.errors import UserError
from core.manifest import Manifest, concatenate
from gan.forging.forge import METHODS, WITHOUT_GENERATOR, ForgeInputs, forge


class BalanceConfig(BaseModel):
    """How many synthetic fakes a training set gets, and of which kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(0.5, ge=0, lt=1, description="fakes among all train rows afterwards")
    method: str = Field(
        "gan",
        description="how they are made: gan, gan-matched, gan-composite or self-blend; "
        "or several, as in self-blend+gan-composite (half each) and self-blend:3+gan:1",
    )
    psi: float = Field(0.7, ge=0, le=1.5, description="truncation: 0 is the mean face, 1 the generator's own spread")
    seed: int = Field(0, ge=0, lt=2**62, description="seed of the first synthetic face")
    screen: bool = Field(True, description="pass over samples without a findable face, and over near-duplicates")

    @field_validator("method")
    @classmethod
    def _is_known(cls, text: str) -> str:
        mixture(text)
        return text

    @property
    def needs_generator(self) -> bool:
        """Whether any of the methods takes its faces from a generator."""
        return any(method not in WITHOUT_GENERATOR for method in mixture(self.method))


@dataclass(frozen=True)
class Balanced:
    """A balanced manifest, how many synthetic rows it gained, and a sentence that says what was done and why."""

    manifest: Manifest
    added: int
    explanation: str


def mixture(text: str) -> dict[str, float]:
    """The share of each method in `self-blend:3+gan`: 0.75 and 0.25. A method without a weight has the weight 1.

    Raises:
        ValueError: a method is unknown or named twice, or a weight is not above 0.
    """
    weights: dict[str, float] = {}
    for part in text.split("+"):
        method, _, weight = (word.strip() for word in part.partition(":"))
        if method not in METHODS:
            raise ValueError(f"forging method {method!r} is not known: choose from {', '.join(METHODS)}, joined by +")
        if method in weights:
            raise ValueError(f"{method} stands twice in {text!r}: name each method once")
        try:
            weights[method] = float(weight) if weight else 1.0
        except ValueError:
            raise ValueError(f"{weight!r} in {text!r} is not a weight: give a number, as in {method}:2") from None
        if not 0 < weights[method] < float("inf"):
            raise ValueError(f"the weight {weight} of {method} is not above 0: leave the method out, or give a number")
    total = sum(weights.values())
    return {method: weight / total for method, weight in weights.items()}


def dealt(count: int, shares: dict[str, float]) -> dict[str, int]:
    """Whole numbers that sum up to `count`, by the largest remainders (the earlier method where two are equal)."""
    exact = {method: count * share for method, share in shares.items()}
    numbers = {method: int(value) for method, value in exact.items()}
    by_remainder = sorted(exact, key=lambda method: numbers[method] - exact[method])
    extra = by_remainder[: count - sum(numbers.values())]
    return {method: number + (method in extra) for method, number in numbers.items()}


def wanted_fakes(reals: int, fakes: int, share: float) -> int:
    """Synthetic fakes that lift `fakes / (reals + fakes)` to at least `share`; 0 where it is reached already."""
    total = share * reals / (1 - share)
    return max(0, -int(-(total - fakes) // 1))


def balance(manifest: Manifest, generator: Path | None, config: BalanceConfig, pool: Path) -> Balanced:
    """Add as many synthetic fakes to the train split as `config.share` asks for.

    Args:
        manifest: rows of any split; those of train are counted and complemented.
        generator: folder of a generator's checkpoint; None if no method needs one.
        pool: folder that keeps what was forged, so that every share draws on the same faces.

    Raises:
        UserError: the train split holds no real face, or a method lacks what it needs.
    """
    train = manifest.select(split="train")
    fakes = int(train.targets.sum())
    reals = len(train) - fakes
    if not reals:
        raise UserError(f"the train split in {manifest.root} has no real face: there is nothing to balance")
    missing = wanted_fakes(reals, fakes, config.share)
    if not missing:
        why = f"train has {fakes} fakes beside {reals} reals, {fakes / len(train):.0%}: nothing was added"
        if fakes > reals:
            why += "; reals are the minority, and real faces are never synthesised: "
            why += "the detector weights or oversamples them (balance: weights | oversample)"
        return Balanced(manifest, 0, why)
    options = config.model_dump(include={"psi", "seed", "screen"})
    inputs = ForgeInputs(manifest=manifest, generator=generator, pool=pool, **options)
    numbers = {method: count for method, count in dealt(missing, mixture(config.method)).items() if count}
    forged = [forge(method, count, inputs) for method, count in numbers.items()]
    after = (fakes + missing) / (len(train) + missing)
    kinds = " and ".join(f"{count} of {method}" for method, count in numbers.items())
    why = f"train had {fakes} fakes beside {reals} reals; {missing} synthetic ones ({kinds}) "
    why += f"lift their share to {after:.0%}"
    return Balanced(concatenate([manifest, *forged], manifest.root), missing, why)
