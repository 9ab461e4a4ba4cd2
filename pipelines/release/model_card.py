"""The model card of a registered version: what it was made of, what it reached, and where not to trust it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from classifier.calibration import ERROR, Band
from classifier.models.ensemble import Ensemble, FaceModel
from core.errors import one_line
from pipelines.release.lineage import CLAIMED, IMPORTED, Model, licence_of, untraced
from tracking.registry import Registry, Version
from tracking.store import Store

_FIGURES = ("ap", "eer", "accuracy", "recall", "fpr", "ece")


def version_card(store: Store, version: Version, extra: Sequence[str] = ()) -> str:
    """Markdown, from what the registry holds; no test row is opened for it.

    Args:
        extra: sentences about the files that go with it, such as the parity of an export.
    """
    model = Model(store, version).load()
    registry = Registry(store)
    return _card(version, model, registry.metrics(version), untraced(store, version, model), extra)


def _card(
    version: Version, model: FaceModel, metrics: Mapping[str, float], missing: Sequence[str], extra: Sequence[str]
) -> str:
    datasets = sorted(name.removeprefix("auc/") for name in metrics if name.startswith("auc/"))
    tags = version.tags
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    lines = [
        f"# {version.name}, version {version.number}{aliases}",
        "",
        "A detector of fake faces: it takes a face crop and gives P(fake), the calibrated probability that the face "
        "was synthesised or manipulated.",
        "",
        f"- **Network** {model.config.backbone}, pictures of {model.config.image_size} x {model.config.image_size} px, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters",
        *(_members(model) if isinstance(model, Ensemble) else []),
        f"- **Threshold** fake where P(fake) >= {model.threshold:.4f}, fixed on val; "
        f"temperature {model.temperature:.3f}",
        *_abstains(model.band),
        f"- **Made** {version.created:%Y-%m-%d}, commit {tags.get('git_commit') or 'not recorded'}, "
        f"{tags.get('code') or 'version not recorded'}",
        f"- **Licence** {licence_of(version) or 'not stated'}",
        "",
        "## Data",
        "",
        f"- Trained and calibrated on the manifest `{tags.get('training_manifest') or model.manifest_digest or '?'}` "
        f"(of `{tags.get('manifest', '?')}`), whose test rows stayed sealed",
        f"- Synthetic faces: {_synthetic(tags)}",
        f"- Evaluated on {', '.join(datasets) or 'nothing yet: run `counterforge evaluate`'}",
        "",
    ]
    if datasets:
        lines += ["## Figures, by source (photograph or video), on sealed test rows", "", *_table(metrics, datasets)]
        lines += ["", "Accuracy, recall and false positive rate (fpr) are at the threshold that was fixed on val.", ""]
    if IMPORTED in tags:
        lines += _claims(tags, metrics)
    lines += ["## Limits", "", *(f"- {limit}" for limit in _limits(metrics, datasets, missing)), ""]
    if extra:
        lines += ["## Files", "", *(f"- {sentence}" for sentence in extra), ""]
    if tags.get("promoted_because"):
        lines += [
            "## Promotion",
            "",
            f"{tags.get('promoted_at', '')} by {tags.get('promoted_by', '?')}: {tags['promoted_because']}.",
            "",
        ]
    return "\n".join(lines)


def _table(metrics: Mapping[str, float], datasets: Sequence[str]) -> list[str]:
    lines = [f"| dataset | AUC [95 % interval] | {' | '.join(_FIGURES)} |", "|---|---|" + "---|" * len(_FIGURES)]
    for dataset in datasets:
        low, high = (metrics.get(f"auc_{end}/{dataset}", math.nan) for end in ("low", "high"))
        auc = f"{metrics[f'auc/{dataset}']:.3f} [{_number(low)}, {_number(high)}]"
        values = " | ".join(_number(metrics.get(f"{name}/{dataset}", math.nan)) for name in _FIGURES)
        lines.append(f"| {dataset} | {auc} | {values} |")
    return lines


def _claims(tags: Mapping[str, str], metrics: Mapping[str, float]) -> list[str]:
    """What a bundle says of itself, apart from what was measured here."""
    told = {name.removeprefix(CLAIMED): value for name, value in metrics.items() if name.startswith(CLAIMED)}
    datasets = sorted(name.removeprefix("auc/") for name in told if name.startswith("auc/"))
    lines = [
        "## Claimed by the bundle, not checked here",
        "",
        f"It was imported from {_quoted(tags[IMPORTED])} by {tags.get('imported_by', '?')}, signed by "
        f"{tags.get('signed_by', 'nobody')}. Manifest, generator and code above are what the bundle says of itself; "
        "none of the following counts at the gate.",
        "",
    ]
    claims = {name.removeprefix(CLAIMED): value for name, value in sorted(tags.items()) if name.startswith(CLAIMED)}
    lines += [f"- {name}: {_quoted(value)}" for name, value in claims.items()]
    return [*lines, "", *(_table(told, datasets) if datasets else []), ""]


def _quoted(text: str) -> str:
    """Text of strangers as markdown that means nothing but itself."""
    return f"`{one_line(text, 200).replace('`', chr(39))}`"


def _abstains(band: Band | None) -> list[str]:
    if band is None or band.low == band.high:
        return []
    return [
        f"- **Abstain** where {band.low:.4f} <= P(fake) < {band.high:.4f}: beside that band at most {ERROR:.0%} of "
        "each class were called wrong on val"
    ]


def _members(model: Ensemble) -> list[str]:
    parts = [
        f"{member.config.backbone} (seed {member.config.seed}, weight {weight:.3f})"
        for member, weight in zip(model.detectors, model.weights, strict=True)
    ]
    return [f"- **Members** {', '.join(parts)}; combined by {model.config.combination}"]


def _synthetic(tags: Mapping[str, str]) -> str:
    generator = tags.get("generator")
    if generator is None:
        return "not recorded"
    if generator == "none":
        return "none"
    return f"{tags.get('synthetic_faces', 'some')} in train, of the generator `{generator}`"


def _limits(metrics: Mapping[str, float], datasets: Sequence[str], missing: Sequence[str]) -> list[str]:
    """What the figures say against it, in sentences."""
    limits = []
    for dataset in datasets:
        low, high = (metrics.get(f"auc_{end}/{dataset}", math.nan) for end in ("low", "high"))
        if high < 0.5:
            limits.append(
                f"On {dataset} its AUC lies below 0.5 (the 95 % interval excludes it): reals rank above fakes."
            )
        elif low <= 0.5:
            limits.append(f"On {dataset} it cannot be told from guessing: the interval of its AUC holds 0.5.")
        fpr, recall = (metrics.get(f"{name}/{dataset}", math.nan) for name in ("fpr", "recall"))
        if fpr > 0.2:
            limits.append(f"On {dataset} it calls {fpr:.0%} of the real faces fake at its threshold.")
        if recall < 0.5:
            limits.append(f"On {dataset} it misses {1 - recall:.0%} of the fakes at its threshold.")
        if metrics.get(f"ece/{dataset}", 0.0) > 0.15:
            limits.append(f"On {dataset} its probabilities are off by {metrics[f'ece/{dataset}']:.2f} on average.")
    limits += [f"Lineage: {what}." for what in missing]
    limits.append(
        "Fakes of methods that are not in the table were not tested; expect less there than in any row of it."
    )
    limits.append("A score is no proof: it says how a face compares with the data above, and nothing about its origin.")
    return limits


def _number(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.3f}"
