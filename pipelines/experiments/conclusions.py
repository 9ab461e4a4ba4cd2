"""What a comparison found, in words, whichever way it went."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from classifier.evaluation import MEAN
from pipelines.configuration import CLAIM_SEEDS

ALPHA = 0.05
NO_DIFFERENCE = "no difference can be told"


def outcome(low: float, high: float, p_holm: float, seeds: int) -> str:
    """helped | harmed | perhaps | none | unknown: what may be claimed of one difference.

    A claim needs three seeds, and Holm's p-value under 0.05 over all differences that are shown; `perhaps` is an
    interval that lies on one side of zero without that.
    """
    if low != low:
        return "unknown"
    if not (low > 0 or high < 0):
        return "none"
    if seeds < CLAIM_SEEDS or not p_holm < ALPHA:
        return "perhaps"
    return "helped" if low > 0 else "harmed"


def verdicts(differences: pd.DataFrame, reference: str, forged: Sequence[str], seeds: int) -> tuple[str, ...]:
    """A headline for each dataset about synthetic faces, then a sentence for every arm.

    Args:
        differences: columns arm, dataset, value, low, high, p_holm.
        forged: the arms with synthetic faces.
    """
    rows = differences.to_dict("records")
    found = {(r["arm"], r["dataset"]): outcome(r["low"], r["high"], r["p_holm"], seeds) for r in rows}
    figures = {(r["arm"], r["dataset"]): f"{r['value']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]" for r in rows}
    datasets = list(dict.fromkeys(differences["dataset"]))
    sentences = []
    own = [arm for arm in dict.fromkeys(differences["arm"]) if arm in forged]
    for dataset in datasets if own else []:
        place = where(dataset)
        parts = []
        for kind, words in (("helped", f"helped {place}"), ("harmed", f"did harm {place}")):
            which = [f"{arm} {figures[arm, dataset]}" for arm in own if found[arm, dataset] == kind]
            if which:
                parts.append(f"synthetic faces {words}: {', '.join(which)}")
        if not parts:
            values = differences[(differences["dataset"] == dataset) & differences["arm"].isin(own)]
            if (values["low"] != values["low"]).all():
                parts.append(f"whether synthetic faces helped {place} cannot be told: too few identities or sources")
            else:
                best = str(values.loc[values["value"].idxmax(), "arm"])
                parts.append(
                    f"synthetic faces did not help {place}: {figures[best, dataset]} for {best}, the best of {len(own)}"
                    if len(own) > 1
                    else f"synthetic faces did not help {place}: {figures[best, dataset]} for {best}"
                )
        sentences.append(_capital("; ".join(parts)))
    for (arm, dataset), kind in found.items():
        sentences.append(f"{arm} against {reference}, {where(dataset)}: {_WORDS[kind]}, AUC {figures[arm, dataset]}")
    return tuple(sentences)


def notes(
    table: pd.DataFrame, differences: pd.DataFrame, reference: str, needing_generator: Sequence[str], seeds: int
) -> tuple[str, ...]:
    """What a reader must know to read the figures right."""
    count = len(differences)
    said = [
        f"Each difference is the mean over {seeds} seeds of an arm's AUC minus that of {reference} by the same seed, "
        "by source; its 95 % interval covers both another draw of identities or sources and another seed.",
        f"p-values are Holm's over all {count} differences.",
    ]
    if seeds == 1:
        said[0] = (
            f"Each difference is an arm's AUC minus that of {reference}, by source, from a single seed: the 95 % "
            "interval covers another draw of identities or sources, and not another seed."
        )
    if seeds < CLAIM_SEEDS:
        said.append(f"Nothing is claimed: {seeds} of at least {CLAIM_SEEDS} seeds.")
    if needing_generator:
        said.append("All seeds share one generator: another training of it might do better or worse.")
    few = table[(table["groups"] < 20) & (table["dataset"] != MEAN)].drop_duplicates("dataset")
    said += [
        f"{row.dataset} has {row.groups} identities or sources: what it says is hardly more than an anecdote."
        for row in few.itertuples()
    ]
    return tuple(said)


def where(dataset: str) -> str:
    """The dataset in a sentence."""
    return "on the mean over the datasets" if dataset == MEAN else f"on {dataset}"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


_WORDS = {
    "helped": "helped",
    "harmed": "did harm",
    "perhaps": "a difference that does not hold among so many comparisons or so few seeds",
    "none": NO_DIFFERENCE,
    "unknown": "too few identities or sources for an interval",
}
