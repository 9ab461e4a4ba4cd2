"""The model card of a registered version: what it was made of, what it reached, and where not to trust it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from classifier.calibration import ERROR
from classifier.models.ensemble import Ensemble
from core.errors import one_line
from pipelines.release.lineage import CLAIMED, IMPORTED, Model, licence_of, untraced
from tracking.registry import Registry, Version
from tracking.store import Store

_FIGURES = ("ap", "eer", "accuracy", "recall", "fpr", "ece")


def version_card(store: Store, version: Version, extra: Sequence[str] = ()) -> str:
    """Markdown, from what the registry holds, with sentences about the files that go with it; no test row is opened."""
    model, tags, metrics = Model(store, version).load(), version.tags, Registry(store).metrics(version)
    claimed = {name.removeprefix(CLAIMED): value for name, value in metrics.items() if name.startswith(CLAIMED)}
    members = []
    if isinstance(model, Ensemble):
        members = [
            f"{member.config.backbone} (seed {member.config.seed}, weight {weight:.3f})"
            for member, weight in zip(model.detectors, model.weights, strict=True)
        ]
    folder = Path(__file__).parents[1] / "templates"
    environment = Environment(loader=FileSystemLoader(folder), trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"quoted": _quoted, "number": lambda value: "?" if math.isnan(value) else f"{value:.3f}"}
    card = environment.get_template("model_card.md").render(
        version=version,
        model=model,
        tags=tags,
        millions=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        members=members,
        band=model.band,
        error=ERROR,
        licence=licence_of(version),
        synthetic=_synthetic(tags),
        names=_FIGURES,
        figures=_figures(metrics),
        imported=tags.get(IMPORTED),
        claims={n.removeprefix(CLAIMED): value for n, value in sorted(tags.items()) if n.startswith(CLAIMED)},
        claimed=_figures(claimed),
        limits=_limits(metrics, untraced(store, version, model)),
        extra=extra,
    )
    return card.rstrip("\n") + "\n"


def _figures(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for each dataset that was tested on."""
    known = {name.removeprefix("auc/"): value for name, value in sorted(metrics.items()) if name.startswith("auc/")}
    return [
        {"dataset": dataset, "auc": auc}
        | {end: metrics.get(f"auc_{end}/{dataset}", math.nan) for end in ("low", "high")}
        | {"others": [metrics.get(f"{name}/{dataset}", math.nan) for name in _FIGURES]}
        for dataset, auc in known.items()
    ]


def _quoted(text: str) -> str:
    """Text of strangers as markdown that means nothing but itself."""
    return f"`{one_line(text, 200).replace('`', chr(39))}`"


def _synthetic(tags: Mapping[str, str]) -> str:
    generator = tags.get("generator")
    if generator in (None, "none"):
        return generator or "not recorded"
    return f"{tags.get('synthetic_faces', 'some')} in train, of the generator `{generator}`"


def _limits(metrics: Mapping[str, float], missing: Sequence[str]) -> list[str]:
    """What the figures say against it, in sentences."""
    limits = []
    for row in _figures(metrics):
        dataset, others = row["dataset"], dict(zip(_FIGURES, row["others"], strict=True))
        if row["high"] < 0.5:
            limits.append(
                f"On {dataset} its AUC lies below 0.5 (the 95 % interval excludes it): reals rank above fakes."
            )
        elif row["low"] <= 0.5:
            limits.append(f"On {dataset} it cannot be told from guessing: the interval of its AUC holds 0.5.")
        if others["fpr"] > 0.2:
            limits.append(f"On {dataset} it calls {others['fpr']:.0%} of the real faces fake at its threshold.")
        if others["recall"] < 0.5:
            limits.append(f"On {dataset} it misses {1 - others['recall']:.0%} of the fakes at its threshold.")
        if others["ece"] > 0.15:
            limits.append(f"On {dataset} its probabilities are off by {others['ece']:.2f} on average.")
    limits += [f"Lineage: {what}." for what in missing]
    return [
        *limits,
        "Fakes of methods that are not in the table were not tested; expect less there than in any row of it.",
        "A score is no proof: it says how a face compares with the data above, and nothing about its origin.",
    ]
