"""What a comparison compares: arms that differ in nothing but what they do about the shortage of fakes, and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pandas as pd
from pydantic import ValidationError

from classifier.config import DetectorConfig
from core.errors import UserError
from core.manifest import Manifest
from core.splits import split_of
from pipelines.configuration import PLAIN, RunConfig
from tuning.trial import TrialContext, TrialSpec, train_and_log

# Between the first synthetic faces of two seeds: no training set takes so many that they would meet.
_STRIDE = 1_000_000


def arm_trial(arm: str, seed: int, detector: DetectorConfig, share: float, psi: float) -> TrialSpec:
    """The detector of an arm and a seed.

    Arms with synthetic faces neither weight nor oversample, so that each differs from `none` in one thing. Each seed
    draws its own head, order and augmentation, and its own synthetic faces.

    Raises:
        UserError: the detector's other settings do not allow the arm.
    """
    settings = detector.model_dump() | {"seed": seed, "balance": PLAIN.get(arm, "none")}
    try:
        own = DetectorConfig.model_validate(settings)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"the arm {arm} cannot be trained by these settings of the detector: {reason}") from error
    if arm in PLAIN:
        return TrialSpec(detector=own)
    forging: dict[str, int | float | str] = {"method": arm, "seed": seed * _STRIDE}
    return TrialSpec.model_validate({"detector": own, "synthetic_share": share, "psi": psi, "forging": forging})


WITHOUT, WITH, ALL_FAKES = "without synthetic", "with synthetic", "all real-world fakes"


def base_trial(config: RunConfig) -> TrialSpec:
    """The detector of a run with the synthetic faces of its configuration, before anything is searched."""
    forging = {"method": config.synthetic_method} if config.synthetic_method != "gan" else {}
    return TrialSpec(
        detector=config.detector, synthetic_share=config.synthetic_share, psi=config.psi, forging=dict(forging)
    )


def plan_arms(config: RunConfig, base: TrialSpec, best: TrialSpec) -> dict[str, TrialSpec]:
    """The detectors that are compared: all else equal, only the synthetic faces differ.

    The study's winner lends its settings, at the full cost of `config.detector`; the reference with all real-world
    fakes is trained by the plain recipe.
    """
    searched = set(config.study.space) if config.study is not None else set()
    values = {
        name: value
        for name, value in best.parameters().items()
        if name in searched and name not in ("psi", "synthetic_share")
    }
    spec = base.with_parameters(values)
    share = best.synthetic_share or config.synthetic_share
    arms = {
        WITHOUT: spec.with_parameters({"synthetic_share": 0.0}),
        WITH: spec.with_parameters({"synthetic_share": share, "psi": best.psi}),
    }
    for method in config.compare_methods:
        if method != arms[WITH].balancing().method:
            arms[arm_of(method)] = arms[WITH].with_parameters({"synthetic_method": method})
    if config.keep_train_fakes < 1:
        arms[ALL_FAKES] = base.with_parameters({"synthetic_share": 0.0})
    return arms


def arm_of(method: str) -> str:
    """Name of the arm with synthetic faces of one kind, in letters that MLflow takes."""
    return f"with {method.replace('+', ' and ')}"


def keep_few_fakes(manifest: Manifest, datasets: tuple[str, ...], share: float, seed: int = 0) -> Manifest:
    """The manifest without some train fakes of the given datasets: `share` of their groups stay, chosen by name."""
    rows = manifest.rows
    concerned = rows["dataset"].isin(datasets) & (rows["split"] == "train") & (rows["label"] == "fake")
    stays = [split_of(f"few/{group}", seed, (share, 1 - share, 0.0)) == "train" for group in manifest.groups]
    return manifest.where((~concerned | pd.Series(stays, index=rows.index)).to_numpy(dtype=bool))


def train_arms(arms: Mapping[str, TrialSpec], materials: TrialContext, full: Manifest, parent: str) -> dict[str, Any]:
    """Train and log every arm; the result is by arm's name, in JSON's types."""
    trained: dict[str, Any] = {}
    for name, spec in arms.items():
        own = materials if name != ALL_FAKES else replace(materials, manifest=full)
        trained[name] = asdict(train_and_log(spec, own, name=name, parent=parent, tags={"arm": name}))
    return trained
