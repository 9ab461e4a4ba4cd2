"""The vocabulary of arms, one for `run`, `compare` and the report: what is done about the shortage of fakes.

    none, class weights, oversampling   the real-world train rows alone, by a balance of the detector's
    self-blend, gan, self-blend+gan     synthetic fakes of a method or a mixture are added to them
    all real-world fakes                those that `keep_train_fakes` took away are back

An arm of the second and third kind neither weights nor oversamples, unless its name says so: `gan with class weights`.
So every arm differs in one thing from the arm with the same balance.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from classifier.config import DetectorConfig
from core.errors import UserError
from gan.balancing import BalanceConfig, mixture
from gan.forging.forge import METHODS
from tuning.trial import TrialSpec

if TYPE_CHECKING:
    from pipelines.configuration import RunConfig

NONE = "none"
# What can be done without new faces, as the detector's own setting names it.
BALANCES = {NONE: "none", "class weights": "weights", "oversampling": "oversample"}
ALL_FAKES = "all real-world fakes"
ARMS = (*BALANCES, "self-blend", "gan", "gan-matched", "gan-composite", "self-blend+gan-composite")
Trials = dict[tuple[str, int], TrialSpec]
"""The detectors of an experiment, by arm and seed."""
# Between the first synthetic faces of two seeds: no training set takes so many that they would meet.
_STRIDE = 1_000_000


@dataclass(frozen=True)
class Arm:
    """One arm: the method of its synthetic faces ("" for none), and the detector's `balance`."""

    name: str
    method: str
    balance: str

    @classmethod
    def parse(cls, name: str) -> Arm:
        """The arm of this name.

        Raises:
            ValueError: there is none, or its mixture of methods is none.
        """
        faces, _, balance = name.partition(" with ")
        if name in BALANCES:
            return cls(name, "", BALANCES[name])
        if balance and (balance not in BALANCES or balance == NONE):
            known = " or ".join([*BALANCES][1:])
            raise ValueError(f"there is no balance {balance!r} in the arm {name!r}: it is {known}")
        if faces != ALL_FAKES:
            _check(faces)
        return cls(name, "" if faces == ALL_FAKES else faces, BALANCES[balance or NONE])

    @property
    def all_fakes(self) -> bool:
        """Whether it learns from the fakes that `keep_train_fakes` took away."""
        return self.name.startswith(ALL_FAKES)

    def trial(self, base: TrialSpec, seed: int, draw: int) -> TrialSpec:
        """The detector of this arm and a seed, which draws its own head, order and augmentation.

        Args:
            base: the settings that all arms share, with share and psi of the synthetic faces.
            draw: which synthetic faces it gets: those of two draws have nothing in common.

        Raises:
            UserError: the detector's other settings do not allow the arm.
        """
        settings = base.detector.model_dump() | {"seed": seed, "balance": self.balance}
        try:
            detector = DetectorConfig.model_validate(settings)
        except ValidationError as error:
            why = f"with these settings of the detector: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
            raise UserError(f"the arm {self.name} cannot be trained {why}") from error
        if not self.method:
            return TrialSpec(detector=detector)
        first = base.balancing().seed + draw * _STRIDE
        forging = {**base.forging, "method": self.method, "seed": first}
        return TrialSpec.model_validate({**base.model_dump(), "detector": detector, "forging": forging})


def forged(arms: Iterable[str]) -> tuple[str, ...]:
    """Those of the arms that have synthetic faces."""
    return tuple(arm for arm in arms if Arm.parse(arm).method)


def needing_generator(arms: Iterable[str]) -> list[str]:
    """Those of the arms whose faces come from a generator, wholly or in part."""
    methods = {arm: Arm.parse(arm).method for arm in arms}
    return [arm for arm, method in methods.items() if method and BalanceConfig(method=method).needs_generator]


def base_trial(config: RunConfig) -> TrialSpec:
    """The detector of a run with the synthetic faces of its configuration, before anything is searched."""
    forging = {"method": config.synthetic_method} if config.synthetic_method != "gan" else {}
    share, psi = config.synthetic_share, config.psi
    return TrialSpec(detector=config.detector, synthetic_share=share, psi=psi, forging=dict(forging))


def trials_to_compare(config: RunConfig) -> Trials:
    """The detectors of `compare`: every arm by every seed of the section `comparison`.

    Raises:
        UserError: the detector's other settings do not allow an arm.
    """
    base, plan = base_trial(config), config.comparison
    return {(arm, seed): Arm.parse(arm).trial(base, seed, seed) for arm in plan.arms for seed in plan.seeds}


def trials_of_run(config: RunConfig, best: TrialSpec) -> Trials:
    """The detectors of `run`, the reference first: arms and seeds of the section `experiment`.

    By default these are the detector's own balance, and beside it synthetic faces of `synthetic_method` and of each of
    `compare_methods`, and all real-world fakes where `keep_train_fakes` made them rare; and the detector's own seed.

    The study's winner lends what was searched, at the full cost of `config.detector`. The arm with all real-world fakes
    is trained as configured: the winner was chosen for few fakes.

    Raises:
        UserError: the detector's other settings do not allow an arm.
    """
    base = base_trial(config)
    searched = set(config.study.space) if config.study is not None else set()
    values = {name: value for name, value in best.parameters().items() if name in searched}
    share = best.synthetic_share or config.synthetic_share
    winner = base.with_parameters(values | {"synthetic_share": share, "psi": best.psi})
    seeds = config.experiment.seeds or (config.detector.seed,)
    return {
        (arm.name, seed): arm.trial(base if arm.all_fakes else winner, seed, draw)
        for arm in map(Arm.parse, config.experiment.arms or _arms_of_run(config, base, winner))
        for draw, seed in enumerate(seeds)
    }


def _arms_of_run(config: RunConfig, base: TrialSpec, winner: TrialSpec) -> list[str]:
    methods = dict.fromkeys([winner.balancing().method, *config.compare_methods])
    faces = [(method, winner) for method in methods]
    faces += [(ALL_FAKES, base)] if config.keep_train_fakes < 1 else []
    names = {balance: name for name, balance in BALANCES.items()}
    balanced = ((what, names[spec.detector.balance]) for what, spec in faces)
    arms = [what if balance == NONE else f"{what} with {balance}" for what, balance in balanced]
    return [names[winner.detector.balance], *arms]


def _check(method: str) -> None:
    try:
        mixture(method)
    except ValueError as error:
        parts = [part.partition(":")[0].strip() for part in method.split("+")]
        if all(part in METHODS for part in parts):
            raise ValueError(f"arm {method!r}: {error}") from error
        near = difflib.get_close_matches(method, [*ARMS, *METHODS, ALL_FAKES], n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(ARMS)}"
        raise ValueError(f"there is no arm {method!r}: {remedy}") from error
