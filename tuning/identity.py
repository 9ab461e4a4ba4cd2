"""What makes two studies comparable, and what a worker on another machine must know: kept with the study itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna import Study
from pydantic import ValidationError

from core.errors import UserError
from core.manifest import Manifest
from core.names import file_name
from gan.balancing import BalanceConfig
from tracking.store import open_store
from tuning.config import StudyConfig, check_sampler
from tuning.space import Choice, Range, Space, Value, check_point, in_order, nearest
from tuning.storage import load, names
from tuning.trial import FORGING, TrialContext, TrialSpec

# Settings that decide when a study ends and where it lives, but not what its trials are.
_FREE = {"name", "trials", "hours", "patience", "retries", "keep", "warm_start", "storage", "generators"}
# User attributes of the study.
DEFINITION, CONFIG, BASE, CONTEXT, RUN, FINAL = "definition", "config", "base", "materials", "run_id", "final"


def definition(config: StudyConfig, base: TrialSpec, context: TrialContext) -> dict[str, Any]:
    """All that makes two studies incomparable, in JSON's types."""
    searched = json.loads(config.model_dump_json(exclude=_FREE))
    searched["space"] = {name: searched["space"][name] for name in sorted(searched["space"])}
    detector = json.loads(base.model_dump_json())
    # Precisions go in by their names of before version 0.2, so that a study that was begun then is found again.
    precision = detector["detector"]["precision"]
    detector["detector"]["precision"] = {"float32": "32", "bfloat16": "bf16"}.get(precision, precision)
    return {**searched, "detector": detector, "data": context.digest, "project": context.experiment}


def study_name(config: StudyConfig, wanted: Mapping[str, Any]) -> str:
    """The study's name and 8 hex digits over its definition."""
    return f"{config.name}-{hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:8]}"


def needs_generator(config: StudyConfig, base: TrialSpec) -> bool:
    """Whether a trial may take synthetic faces from the generator of the run itself."""
    base = base.with_parameters(config.fixed)

    def possible(name: str, otherwise: Value) -> list[Value]:
        searched = config.space.get(name)
        highest = searched.high if isinstance(searched, Range) else otherwise
        drawn = searched.choices if isinstance(searched, Choice) else (highest,)
        return [*drawn, *(point[name] for point in config.enqueue if name in point)]

    methods = [BalanceConfig(method=str(each)) for each in possible(f"{FORGING}method", base.balancing().method)]
    return (
        any(share and float(share) > 0 for share in possible("synthetic_share", base.synthetic_share))
        and "" in possible("generator", base.generator)
        and any(method.needs_generator for method in methods)
    )


def check_study(config: StudyConfig, base: TrialSpec) -> TrialSpec:
    """The trial that all others vary, with the fixed values; a `UserError` for what no trial could be run with."""
    for name, folder in config.generators.items():
        if not (folder / "config.json").is_file():
            where = f"{folder} (study.generators.{name})"
            raise UserError(f"no generator in {where}: train one with `counterforge gan train`")
    for name, value in config.fixed.items():
        base = _checked(base, name, value, f"study.fixed.{name}")
    check_space(config.space, base, config.generators)
    in_order(config.space)
    for number, point in enumerate(config.enqueue):
        check_point(config.space, point, f"study.enqueue[{number}]")
    check_sampler(config)
    return base


def check_space(space: Space, base: TrialSpec, generators: Mapping[str, Path] | None = None) -> None:
    """Refuse parameters that no trial has (a `UserError` names the nearest right one) and values that none takes."""
    for name, values in space.items():
        for value in values.choices if isinstance(values, Choice) else (values.low, values.high):
            _checked(base, name, value, f"study.space.{name}", [other for other in space if other != name])
            if name == "generator" and value and value not in (generators or {}):
                raise UserError(
                    f"study.space.generator: {value!r} has no folder: name it under study.generators "
                    f"(there is {', '.join(generators or {}) or 'none'}; '' is the run's own)"
                )


def _checked(base: TrialSpec, name: str, value: object, where: str, searched: Sequence[str] = ()) -> TrialSpec:
    known = TrialSpec.known()
    if name not in known:
        remedy = nearest(name, known, f"known are {', '.join(known)}")
        raise UserError(f"{where} is not a parameter of a trial: {remedy}")
    try:
        return base.with_parameters({name: value})
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        # With another value of a parameter that is searched too, this one may be right.
        if not first["loc"] and set(searched) & set(re.findall(r"\w+", reason)):
            return base
        raise UserError(f"{where}: {value!r} cannot be searched: {reason}") from error


def refuse_other_of_same_name(name: str, config: StudyConfig, wanted: Mapping[str, Any], root: Path) -> None:
    """Refuse a name that another definition has taken, unless the study exists: a `UserError` says what differs."""
    known = names(root, config.storage)
    others = [each for each in known if each.rsplit("-", 1)[0] == config.name]
    if name in known or not others:
        return
    definitions = {each: load(root, each, config.storage).user_attrs.get(DEFINITION, {}) for each in others}
    unlike = {each: differences(before, wanted) for each, before in definitions.items()}
    closest = min(unlike, key=lambda each: len(unlike[each]))
    raise UserError(
        f"the study {closest} has another definition ({'; '.join(unlike[closest])}): "
        "give study.name another value, or add --new to begin one beside it"
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Short sentences, one a setting that differs."""
    unlike = []
    for key in unequal(before, now):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            unlike.append(f"{key} differs in {', '.join(unequal(old, new))}")
        elif key == "data":
            unlike.append("the faces or the generator have changed")
        else:
            unlike.append(f"{key}: {old}, now {new}")
    return unlike


def unequal(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys, sorted, under which two mappings hold different values."""
    return [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


# --- for workers elsewhere


@dataclass(frozen=True)
class FinalTraining:
    """What the winner of a study is trained by and judged on, beside what its trials have in common."""

    base: TrialSpec  # at full cost, where the trials were made cheaper
    manifest: Path  # with the sealed test rows
    datasets: tuple[str, ...]  # whose test rows the gate looks at; all where it is empty


def remember(
    study: Study,
    config: StudyConfig,
    base: TrialSpec,
    context: TrialContext,
    run: str,
    final: FinalTraining | None,
) -> None:
    """Write down with the study what a worker needs; the data must lie at the same path for every worker."""
    path = context.work.resolve() / "studies" / file_name(study.study_name) / "manifest.parquet"
    if not path.is_file():
        context.manifest.write(path)
    content: dict[str, Any] = {
        CONFIG: config.model_dump(mode="json", exclude={"storage"}),  # it may hold a password
        BASE: base.model_dump(mode="json"),
        RUN: run,
        CONTEXT: {
            "manifest": str(path),
            "train_datasets": list(context.train_datasets),
            "validation_datasets": list(context.validation_datasets),
            "generator": str(context.generator.resolve()) if context.generator else None,
            "generators": {key: str(value) for key, value in context.generators.items()},
            "work": str(context.work.resolve()),
            "cache": str(context.cache.resolve()),
            "mlruns": str(context.store.root),
            "tracking": context.store.tracking_uri if context.store.is_server else None,
            "experiment": context.experiment,
        },
    }
    if final is not None:
        whole, manifest = final.base.model_dump(mode="json"), str(final.manifest.resolve())
        content[FINAL] = {"base": whole, "manifest": manifest, "datasets": list(final.datasets)}
    known = study.user_attrs
    for key, value in content.items():
        if known.get(key) != value:
            study.set_user_attr(key, value)


def recall(study: Study) -> tuple[StudyConfig, TrialSpec, TrialContext, str]:
    """What `remember` wrote; a `UserError` where it is missing, or the data are not where they were."""
    known = study.user_attrs
    if CONTEXT not in known:
        raise UserError(f"the study {study.study_name} was not made by `counterforge study launch`: launch it anew")
    of = known[CONTEXT]
    if of["tracking"] and not os.environ.get("MLFLOW_TRACKING_URI"):
        os.environ["MLFLOW_TRACKING_URI"] = of["tracking"]
    if not Path(of["manifest"]).is_file():
        raise UserError(
            f"the faces of {study.study_name} are not at {of['manifest']} on this machine: mount the folder at the "
            "same path as where the study was launched"
        )
    context = TrialContext(
        Manifest.read(of["manifest"]),
        tuple(of.get("train_datasets") or of["train_domains"]),  # as it was called before version 0.2
        tuple(of["validation_datasets"] if "validation_datasets" in of else of["validation_domains"]),
        Path(of["generator"]) if of["generator"] else None,
        Path(of["work"]),
        Path(of["cache"]),
        open_store(Path(of["mlruns"])),
        of["experiment"],
        {key: Path(value) for key, value in of["generators"].items()},
    )
    return StudyConfig.model_validate(known[CONFIG]), TrialSpec.model_validate(known[BASE]), context, str(known[RUN])


def recall_final(study: Study) -> FinalTraining:
    """What the winner is trained by, as `remember` wrote it; a `UserError` where it is missing."""
    known = study.user_attrs.get(FINAL)
    if known is None:
        raise UserError(
            f"the study {study.study_name} was launched by a version before 0.2, and does not say how its winner is "
            "trained: launch it again with the same configuration (finished trials stay), then register it"
        )
    return FinalTraining(TrialSpec.model_validate(known["base"]), Path(known["manifest"]), tuple(known["datasets"]))
