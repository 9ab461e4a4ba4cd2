"""What an experiment's differences say, in words, whichever way they went; for `run`, `compare` and the report."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from classifier.evaluation import MEAN

ALPHA = 0.05
# Fewer show next to nothing of the chance that lies in a seed, so that nothing is claimed of them.
CLAIM_SEEDS = 3
NO_DIFFERENCE = "no significant difference"
_WORDS = {
    "helped": "helped",
    "harmed": "did harm",
    "perhaps": f"95 % interval excludes zero, but Holm's p is not below {ALPHA} or seeds are fewer than {CLAIM_SEEDS}",
    "none": NO_DIFFERENCE,
    "unknown": "too few identities or sources for an interval",
}


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


def conclusions(differences: pd.DataFrame, reference: str, forged: Sequence[str], seeds: int) -> tuple[str, ...]:
    """A headline for each dataset about synthetic faces, then a sentence for every arm.

    Args:
        differences: columns arm, dataset, value, low, high, p_holm.
        forged: the arms with synthetic faces.
    """
    rows = differences.to_dict("records")
    kinds = {(r["arm"], r["dataset"]): outcome(r["low"], r["high"], r["p_holm"], seeds) for r in rows}
    figures = {(r["arm"], r["dataset"]): f"{r['value']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]" for r in rows}
    sentences = []
    for dataset, of in differences[differences["arm"].isin(forged)].groupby("dataset", sort=False):
        on, parts = _where(str(dataset)), []
        for kind in ("helped", "harmed"):
            if which := [f"{arm} {figures[arm, dataset]}" for arm in of["arm"] if kinds[arm, dataset] == kind]:
                parts.append(f"synthetic faces {_WORDS[kind]} {on}: {', '.join(which)}")
        if not parts and of["low"].isna().all():
            parts.append(f"whether synthetic faces helped {on} cannot be told: too few identities or sources")
        elif not parts:
            best = str(of.loc[of["value"].idxmax(), "arm"])
            of_several = f", the best of {len(of)}" if len(of) > 1 else ""
            said = f"synthetic faces did not help {on}"
            if any(kinds[arm, dataset] == "perhaps" for arm in of["arm"]):
                said = f"the effect of synthetic faces {on} is inconclusive"
            parts.append(f"{said}: {figures[best, dataset]} for {best}{of_several}")
        sentence = "; ".join(parts)
        sentences.append(sentence[:1].upper() + sentence[1:])
    for (arm, dataset), kind in kinds.items():
        figure = figures[arm, dataset]
        sentences.append(f"{arm} against {reference}, {_where(dataset)}: {_WORDS[kind]}, AUC {figure}")
    return tuple(sentences)


def significant(sentences: Sequence[str]) -> list[str]:
    """The conclusions without those that there is no difference."""
    return [sentence for sentence in sentences if NO_DIFFERENCE not in sentence]


def notes(
    table: pd.DataFrame, differences: pd.DataFrame, reference: str, needing_generator: Sequence[str], seeds: int
) -> tuple[str, ...]:
    """What a reader must know to read the figures right.

    Args:
        table: columns dataset, groups.
        needing_generator: the arms whose faces come from a generator.
    """
    what = (
        f"Each difference is the mean over {seeds} seeds of an arm's AUC minus that of {reference} by the same seed, "
        "by source; its 95 % interval covers both another draw of identities or sources and another seed."
    )
    if seeds == 1:
        what = (
            f"Each difference is an arm's AUC minus that of {reference}, by source, from a single seed: the 95 % "
            "interval covers another draw of identities or sources, and not another seed."
        )
    said = [what, f"p-values are Holm's over all {len(differences)} differences."]
    if seeds < CLAIM_SEEDS:
        said.append(f"Nothing is claimed: {seeds} of at least {CLAIM_SEEDS} seeds.")
    if needing_generator:
        said.append("All seeds share one generator: another training of it might do better or worse.")
    few = table[(table["groups"] < 20) & (table["dataset"] != MEAN)].drop_duplicates("dataset")
    said += [
        f"{row.dataset} has only {row.groups} identities or sources: its figures are hardly more than an anecdote."
        for row in few.itertuples()
    ]
    return tuple(said)


def _where(dataset: str) -> str:
    return "on the mean over the datasets" if dataset == MEAN else f"on {dataset}"
