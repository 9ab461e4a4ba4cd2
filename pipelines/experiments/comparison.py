"""Did synthetic faces help? Every arm with every seed, all else equal, on sealed faces of every test dataset.

An arm is what is done about the shortage of fakes (`pipelines.experiments.arms`). All arms see the same real-world
rows and the same settings; those with synthetic faces get the same number of them. Nothing is chosen by test rows:
they are opened once, when all detectors are trained, and the opening is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from classifier.evaluation import MEAN
from classifier.figures import forest_plot
from core.errors import UserError
from core.groups import shared_persons, split_notes
from core.locks import alone_in
from core.manifest import Manifest
from gan.balancing import mixture, wanted_fakes
from gan.checkpoint import read_card
from gan.sampling import SMALLEST_SCREENED
from metrics.repeated import holm, mean_over_sets, two_sided
from pipelines.configuration import RunConfig
from pipelines.evaluation.sealed import known, sealed_rows
from pipelines.experiments.arms import Arm, Trials, forged, needing_generator, trials_to_compare
from pipelines.experiments.runner import Key, Measured, Result, TrainJob, by_dataset, cells, estimate, measured, wide
from pipelines.inputs import Steps, prepare_dataset, train_or_load_generator
from tracking.runs import test_openings
from tracking.store import open_store
from tuning.trial import TrialContext

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
# Metrics of an arm's run, and the columns of `table` and `differences` that they are.
_AUC = {"auc": "auc", "auc_low": "low", "auc_high": "high"}
_DIFFERENCE = {"difference": "value", "difference_low": "low", "difference_high": "high", "p_holm": "p_holm"}


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """What came out.

    Attributes:
        table: one row an arm and dataset (`mean` of them too, where there are several): arm, dataset, auc, low, high,
            per_seed, real, fake, groups, synthetic (faces), objective (on val, the mean over the seeds).
        differences: one row an arm but the reference, and dataset: arm, dataset, value, low, high, per_seed, p, p_holm.
        detectors: one row a detector: arm, seed, objective, synthetic, model_id, folder, scores (file).
        conclusions: sentences, the headlines first.
        hours: of faces and generator, and of all detectors one after another, over all attempts.
    """

    reference: str
    table: pd.DataFrame
    differences: pd.DataFrame
    detectors: pd.DataFrame
    conclusions: tuple[str, ...]
    hours: dict[str, float]


@alone_in("config.out", "a comparison")
def execute(config: RunConfig, workers: int = 1) -> Comparison:
    """Compare the arms of the section `comparison`; what is done already is read back.

    Of two processes at once on one `config.out`, the second waits and returns what the first made.

    Raises:
        UserError: an arm cannot be made, a test dataset has one class, or a detector cannot be trained.
    """
    plan = config.comparison
    needing = needing_generator(plan.arms)
    _check_generator(config, needing)
    trials = trials_to_compare(config)
    store = open_store(config.mlruns)
    to_train = plan.generator == "train" and bool(needing)
    steps = Steps(config.out / "steps", total=1 + to_train)
    dataset = prepare_dataset(config, store, steps)
    sealed_rows(dataset.full, config.datasets.test)
    _check_rows(config, dataset.context.manifest)
    generator = plan.generator_folder if needing else None
    if to_train:
        generator = train_or_load_generator(config, dataset.context, steps)
    context = replace(dataset.context, generator=generator)
    return compare_arms(config, trials, context, dataset.full, steps, reference=plan.reference, workers=workers)


def compare_arms(
    config: RunConfig,
    trials: Trials,
    context: TrialContext,
    full: Manifest,
    steps: Steps,
    *,
    reference: str,
    parent: str | None = None,
    workers: int = 1,
) -> Comparison:
    """Train, score and compare; what is done already is read back.

    `full` has all real-world fakes, and its test rows are opened; the hours of `steps`, done before, count.

    Raises:
        UserError: a test dataset has one class, or a detector cannot be trained.
    """
    arms, seeds = (tuple(dict.fromkeys(names)) for names in zip(*trials, strict=True))
    test = sealed_rows(full, config.datasets.test)
    with_all = replace(context, manifest=full)
    jobs = {
        (arm, seed): TrainJob(spec, with_all if Arm.parse(arm).all_fakes else context, {"arm": arm})
        for (arm, seed), spec in trials.items()
    }
    with measured(
        "comparison",
        "comparison",
        jobs,
        test,
        by_dataset(test.rows),
        params={"arms": list(arms), "seeds": list(seeds), "reference": reference}
        | config.model_dump(mode="json", include={"datasets", "keep_train_fakes", "synthetic_share", "psi"}),
        tags={"manifest": full.digest},
        description=f"{len(arms)} arms, {len(seeds)} seeds each, held against {reference!r}: "
        "one run below for each arm, and one below that for each detector.",
        parent=parent,
        workers=workers,
    ) as done:
        table, differences = tabulate(done.tables, reference)
        known = len(shared_persons(full.rows))
        detectors = pd.DataFrame(
            {"arm": arm, "seed": seed, "objective": one.objective, "synthetic": one.synthetic}
            | {"model_id": one.model_id, "folder": one.folder, "scores": str(done.files[arm, seed])}
            for (arm, seed), one in done.trained.items()
        )
        table = table.join(detectors.groupby("arm").agg({"synthetic": "last", "objective": "mean"}), on="arm")
        spent = {name: seconds for name, seconds in steps.seconds.items() if name in ("faces", "generator")}
        spent["detectors"] = sum(trained.seconds for trained in done.trained.values())
        result = Comparison(
            reference=reference,
            seeds=seeds,
            table=table,
            differences=differences,
            detectors=detectors,
            conclusions=conclusions(differences, reference, forged(arms), len(seeds)),
            notes=(
                *notes(table, differences, reference, needing_generator(arms), len(seeds)),
                *(f"{note}." for note in split_notes(test.rows)),
                *([f"{known} persons of the test rows stand in train or val too."] if known else []),
            ),
            openings=test_openings(context.store, context.experiment),
            hours={name: seconds / 3600 for name, seconds in spent.items()},
            folder=done.folder,
            run=done.run.id,
        )
        _record(result, done)
    return result


def tabulate(tables: Mapping[Key, pd.DataFrame], reference: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """AUC by source of every arm on every dataset and on the mean of several, and the differences to the reference.

    From score tables of the same rows: `table` and `differences` of a `Comparison`, without what detectors tell.
    """
    first = next(iter(tables.values()))
    masks = by_dataset(first)
    found = {dataset: estimate(tables, keep, reference) for dataset, keep in masks.items()}
    if len(masks) > 1:
        found[MEAN] = {arm: mean_over_sets([of[arm] for of in found.values()]) for arm, _ in tables}
        masks[MEAN] = np.ones(len(first), dtype=np.bool_)
    table = pd.DataFrame(
        {"arm": one.pop("arm"), "dataset": dataset} | one
        for dataset, figures in found.items()
        for one in cells(figures, first[masks[dataset]])
    )
    changes = pd.DataFrame(
        {"arm": arm, "dataset": dataset, "value": change.value, "low": change.low, "high": change.high}
        | {"per_seed": list(of.differences), "p": two_sided(change)}
        for dataset, figures in found.items()
        for arm, of in figures.items()
        if arm != reference and (change := of.difference) is not None
    )
    return table, changes.assign(p_holm=holm(changes["p"].tolist()))


def _check_generator(config: RunConfig, needing: list[str]) -> None:
    """Refuse, before any work is done, arms that no generator can serve."""
    if not needing:
        return
    plan = config.comparison
    who = f"the arm {needing[0]} needs" if len(needing) == 1 else f"the arms {', '.join(needing)} need"
    if plan.generator == "none":
        raise UserError(
            f"{who} a generator, and comparison.generator is none: set it to train, or to a checkpoint's "
            "folder, or leave them out"
        )
    folder = plan.generator_folder
    size = config.gan.resolved().image_size if folder is None else read_card(folder).image_size
    composite = [arm for arm in needing if "gan-composite" in mixture(Arm.parse(arm).method)]
    if composite and size < SMALLEST_SCREENED:
        raise UserError(
            f"the arm {composite[0]} needs faces of {SMALLEST_SCREENED} pixels or more, and the generator makes "
            f"{size}: raise gan.image_size, or leave the arm out"
        )


def _check_rows(config: RunConfig, reduced: Manifest) -> None:
    train = reduced.select(dataset=config.datasets.train, split="train")
    fakes = int(train.targets.sum())
    reals = len(train) - fakes
    if not (reals and fakes):
        raise UserError(
            f"the train rows of {', '.join(config.datasets.train)} hold {reals} reals and {fakes} fakes: every arm "
            "learns from both, so add what is missing"
        )
    if forged(config.comparison.arms) and not wanted_fakes(reals, fakes, config.synthetic_share):
        raise UserError(
            f"synthetic_share {config.synthetic_share} is reached by the {fakes} real-world fakes beside {reals} "
            "reals: no arm would get a synthetic face; raise it, or lower keep_train_fakes"
        )


def _record(result: Comparison, done: Measured) -> None:
    """Files in the comparison's folder and in MLflow, and the figures on the runs of the arms."""
    figure = forest_plot(result.differences, result.reference, len(result.seeds))
    text = "\n".join([*result.conclusions, "", *result.notes]) + "\n"
    result.keep(done.run, {"forest": figure}, text)
    done.run.tags({"conclusions": " ".join(result.conclusions), "mlflow.note.content": described(result)})
    for arm, run in done.runs.items():
        own, change = (table[table["arm"] == arm] for table in (result.table, result.differences))
        metrics = {"synthetic_faces": float(own["synthetic"].iloc[0])}
        for rows, names in ((own, _AUC), (change, _DIFFERENCE)):
            metrics |= {f"{n}/{row['dataset']}": row[c] for row in rows.to_dict("records") for n, c in names.items()}
        run.metrics(known(metrics))
        run.tags({"arm": arm})


def described(result: Comparison) -> str:
    """What the experiment's run says of itself in the MLflow UI, markdown: what can be told, and every AUC."""
    aucs = wide(result.table)
    told = significant(result.conclusions) or [f"{NO_DIFFERENCE} between any arm and '{result.reference}'"]
    lines = [*(f"- {sentence}" for sentence in told), "", "AUC by source, 95 % interval over groups and seeds:", ""]
    lines += [f"| arm | {' | '.join(aucs.columns)} |", "|---" * (len(aucs.columns) + 1) + "|"]
    lines += [f"| {arm} | {' | '.join(row)} |" for arm, row in zip(aucs.index, aucs.to_numpy(), strict=True)]
    where = (
        f"{len(result.seeds)} seeds each, held against '{result.reference}'. The differences are drawn in `forest.png` "
        "(Artifacts); below this run stands one for each arm, and below that one for each detector."
    )
    return "\n".join([*lines, "", where])


# --- what the differences say, whichever way they went


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
    """A headline for each dataset about synthetic faces (those of the arms `forged`), then a sentence for every arm.

    `differences` has the columns arm, dataset, value, low, high, p_holm.
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
    """What a reader must know to read the figures right; `table` has the columns dataset and groups."""
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
