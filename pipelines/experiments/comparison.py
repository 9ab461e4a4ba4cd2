"""Did synthetic faces help? Every arm with every seed, all else equal, on sealed faces of every test dataset.

An arm is what is done about the shortage of fakes (`pipelines.experiments.arms`). All arms see the same real-world
rows and the same settings; those with synthetic faces get the same number of them. Nothing is chosen by test rows:
they are opened once, when all detectors are trained, and the opening is counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from classifier.evaluation import MEAN, per_source
from classifier.figures import forest_plot
from core.errors import UserError
from core.manifest import Manifest
from gan.balancing import mixture, wanted_fakes
from gan.checkpoint import read_card
from gan.screening import SMALLEST_SCREENED
from metrics.repeated import Repeated, Sample, holm, mean_over_sets, over_seeds, two_sided
from pipelines.configuration import RunConfig
from pipelines.evaluation.sealed import sealed_rows
from pipelines.experiments.arms import arm_trial
from pipelines.experiments.conclusions import NO_DIFFERENCE, notes, verdicts
from pipelines.experiments.runner import TrainJob, open_once, train_and_score
from pipelines.inputs import prepare_dataset, train_or_load_generator
from pipelines.steps import Steps
from pipelines.stopwatch import stopwatch
from tracking.runs import Run, test_openings
from tracking.runs import run as tracked_run
from tracking.store import open_store
from tuning.trial import Trained, TrialContext


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        table: one row an arm and dataset (`mean` of them too, where there are several): arm, dataset, auc, low, high,
            per_seed, synthetic, real, fake, groups.
        differences: one row an arm but the reference, and dataset: arm, dataset, value, low, high, per_seed, p, p_holm.
        verdicts: sentences, the headlines first.
        notes: what the figures do not say.
        openings: how often the test rows of each dataset have been opened so far, over the whole experiment.
        hours: of faces, generator and all the rest, over all attempts.
    """

    reference: str
    seeds: tuple[int, ...]
    table: pd.DataFrame
    differences: pd.DataFrame
    verdicts: tuple[str, ...]
    notes: tuple[str, ...]
    openings: dict[str, int]
    hours: dict[str, float]
    folder: Path
    run_id: str

    def to_json(self) -> dict[str, Any]:
        """In JSON's types; what is no number is null."""
        tables = {
            name: json.loads(getattr(self, name).to_json(orient="records", double_precision=15))
            for name in ("table", "differences")
        }
        plain = {name: getattr(self, name) for name in ("reference", "seeds", "verdicts", "notes", "openings", "hours")}
        return {**plain, **tables, "folder": str(self.folder), "run": self.run_id}


def execute(config: RunConfig, workers: int = 1) -> Comparison:
    """Train, score and compare; what is done already is read back.

    Raises:
        UserError: an arm cannot be made, a test dataset has one class, or a detector cannot be trained.
    """
    plan = config.comparison
    _check_generator(config)
    specs = {
        (arm, seed): arm_trial(arm, seed, config.detector, config.synthetic_share, config.psi)
        for arm in plan.arms
        for seed in plan.seeds
    }
    store = open_store(config.mlruns)
    steps = Steps(config.out / "steps", total=1 + (plan.generator == "train" and bool(plan.needing_generator)))
    faces = prepare_dataset(config, steps)
    reduced, full = Manifest.read(faces.reduced), Manifest.read(faces.full)
    rows = sealed_rows(full, config.datasets.test)
    _check_rows(config, reduced)
    generator = plan.generator_folder
    if plan.generator == "train" and plan.needing_generator:
        generator = train_or_load_generator(config, reduced, store, steps)
    materials = TrialContext(
        reduced,
        config.datasets.train,
        config.datasets.validation,
        generator if plan.needing_generator else None,
        config.out,
        config.out / "cache",
        store,
        config.project,
    )
    texts = [
        materials.digest,
        rows.digest,
        plan.reference,
        *(f"{a} {s.model_dump_json()}" for (a, _), s in specs.items()),
    ]
    key = f"comparison/{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()[:16]}"
    folder = config.out / key
    with (
        stopwatch(folder / "seconds.json") as elapsed,
        tracked_run(
            store,
            config.project,
            "comparison",
            key=key,
            params={"arms": list(plan.arms), "seeds": list(plan.seeds), "reference": plan.reference}
            | config.model_dump(mode="json", include={"datasets", "keep_train_fakes", "synthetic_share", "psi"}),
            tags={"manifest": full.digest, "test_rows": rows.digest},
            description=f"{len(plan.arms)} arms, {len(plan.seeds)} seeds each, held against {plan.reference!r}: "
            "one run below for each arm, and one below that for each detector.",
        ) as parent,
        ExitStack() as stack,
    ):
        arms = {
            arm: stack.enter_context(
                tracked_run(store, config.project, arm, key=f"{key}/{arm}", parent=parent.id, tags={"arm": arm})
            )
            for arm in plan.arms
        }
        orders = {
            (arm, seed): TrainJob(f"{arm}, seed {seed}", spec, materials, arms[arm].id, {"arm": arm, "comparison": key})
            for (arm, seed), spec in specs.items()
        }
        names = rows.rows["dataset"].to_numpy(dtype=np.str_)
        columns = {str(name): names == name for name in np.unique(names)}
        before_test = partial(open_once, parent, store, rows)
        trained, scored = train_and_score(orders, rows, columns, folder / "scores", before_test, workers)
        figures = estimate(scored, plan.arms, plan.seeds, plan.reference)
        table, differences = _tables(figures, scored, trained, plan.reference)
        result = Comparison(
            plan.reference,
            plan.seeds,
            table,
            differences,
            verdicts(differences, plan.reference, plan.forged, len(plan.seeds)),
            notes(table, differences, plan.reference, plan.needing_generator, len(plan.seeds)),
            test_openings(store, config.project),
            {name: seconds / 3600 for name, seconds in steps.seconds.items()} | {"rest": elapsed() / 3600},
            folder,
            parent.id,
        )
        _record(result, parent, arms)
    return result


def estimate(
    scored: Mapping[tuple[str, int], pd.DataFrame], arms: Sequence[str], seeds: Sequence[int], reference: str
) -> dict[str, dict[str, Repeated]]:
    """AUC by source of every arm and its difference to the reference, by dataset and arm; `mean` of several datasets.

    Args:
        scored: score tables of the same rows, by arm and seed.
    """
    by_source = {place: per_source(table) for place, table in scored.items()}
    first = next(iter(by_source.values()))
    figures: dict[str, dict[str, Repeated]] = {}
    for dataset in sorted(set(first["dataset"])):
        here = (first["dataset"] == dataset).to_numpy(dtype=bool)
        sample = Sample(
            (first["label"] == "fake").to_numpy(dtype=np.int64)[here],
            first["group"].to_numpy(dtype=np.str_)[here],
            {
                arm: np.stack([by_source[arm, seed]["score"].to_numpy(dtype=np.float64)[here] for seed in seeds])
                for arm in arms
            },
        )
        figures[str(dataset)] = over_seeds(sample, reference)
    if len(figures) > 1:
        figures[MEAN] = {arm: mean_over_sets([of[arm] for of in figures.values()]) for arm in arms}
    return figures


def _check_generator(config: RunConfig) -> None:
    """Refuse, before any work is done, arms that no generator can serve."""
    plan, needing = config.comparison, config.comparison.needing_generator
    if not needing:
        return
    who = f"the arm{'s' if len(needing) > 1 else ''} {', '.join(needing)} need{'' if len(needing) > 1 else 's'}"
    if plan.generator == "none":
        raise UserError(
            f"{who} a generator, and comparison.generator is none: set it to train, or to a checkpoint's "
            "folder, or leave them out"
        )
    folder = plan.generator_folder
    size = config.gan.resolved().image_size if folder is None else read_card(folder).image_size
    composite = [arm for arm in needing if "gan-composite" in mixture(arm)]
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
    if config.comparison.forged and not wanted_fakes(reals, fakes, config.synthetic_share):
        raise UserError(
            f"synthetic_share {config.synthetic_share} is reached by the {fakes} real-world fakes beside {reals} "
            "reals: no arm would get a synthetic face; raise it, or lower keep_train_fakes"
        )


def _tables(
    figures: Mapping[str, Mapping[str, Repeated]],
    scored: Mapping[tuple[str, int], pd.DataFrame],
    trained: Mapping[tuple[str, int], Trained],
    reference: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    sources = per_source(next(iter(scored.values())))
    synthetic = {arm: detector.synthetic for (arm, _), detector in trained.items()}
    table, differences = [], []
    for dataset, of in figures.items():
        here = sources if dataset == MEAN else sources[sources["dataset"] == dataset]
        fakes = int((here["label"] == "fake").sum())
        for arm, repeated in of.items():
            interval = repeated.interval
            row: dict[str, Any] = {"arm": arm, "dataset": dataset, "auc": interval.value, "low": interval.low}
            row |= {"high": interval.high, "per_seed": list(repeated.per_seed), "synthetic": synthetic[arm]}
            row |= {"real": len(here) - fakes, "fake": fakes, "groups": here["group"].nunique()}
            table.append(row)
            difference = repeated.difference
            if arm == reference or difference is None:
                continue
            change: dict[str, Any] = {"arm": arm, "dataset": dataset, "value": difference.value, "low": difference.low}
            change |= {"high": difference.high, "per_seed": list(repeated.differences), "p": two_sided(difference)}
            differences.append(change)
    changes = pd.DataFrame(differences)
    return pd.DataFrame(table), changes.assign(p_holm=holm(changes["p"].tolist()))


def _record(result: Comparison, parent: Run, arms: Mapping[str, Run]) -> None:
    """Files in the comparison's folder and in MLflow, and the figures on the runs of the arms."""
    folder = result.folder
    folder.mkdir(parents=True, exist_ok=True)
    figure = forest_plot(result.differences, result.reference, len(result.seeds))
    figure.savefig(folder / "forest.png", dpi=110)
    result.table.to_csv(folder / "table.csv", index=False)
    result.differences.to_csv(folder / "differences.csv", index=False)
    (folder / "verdicts.txt").write_text("\n".join([*result.verdicts, "", *result.notes]) + "\n", encoding="utf-8")
    (folder / "comparison.json").write_text(json.dumps(result.to_json(), indent=1))
    for name in ("forest.png", "table.csv", "differences.csv", "verdicts.txt", "comparison.json"):
        parent.artifact(folder / name)
    parent.tags({"verdict": " ".join(result.verdicts), "mlflow.note.content": described(result)})
    for arm, run in arms.items():
        own = result.table[result.table["arm"] == arm]
        metrics = {f"{n}/{r['dataset']}": r[c] for r in own.to_dict("records") for n, c in _AUC.items()}
        theirs = result.differences[result.differences["arm"] == arm]
        metrics |= {f"{n}/{r['dataset']}": r[c] for r in theirs.to_dict("records") for n, c in _DIFFERENCE.items()}
        metrics["synthetic_faces"] = float(own["synthetic"].iloc[0])
        run.metrics({name: value for name, value in metrics.items() if value == value})


def described(result: Comparison) -> str:
    """What the parent run says of itself in the MLflow UI, markdown: what can be told, and every AUC."""
    cells = {
        (row["arm"], row["dataset"]): f"{row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        for row in result.table.to_dict("records")
    }
    arms, datasets = (list(dict.fromkeys(result.table[name])) for name in ("arm", "dataset"))
    told = [sentence for sentence in result.verdicts if NO_DIFFERENCE not in sentence]
    lines = [f"- {sentence}" for sentence in told or [f"{NO_DIFFERENCE} between any arm and '{result.reference}'"]]
    lines += ["", "AUC by source, 95 % interval over groups and seeds:", ""]
    lines += [f"| arm | {' | '.join(datasets)} |", "|---" * (len(datasets) + 1) + "|"]
    lines += [f"| {arm} | {' | '.join(cells[arm, dataset] for dataset in datasets)} |" for arm in arms]
    lines += [
        "",
        f"{len(result.seeds)} seeds each, held against '{result.reference}'. The differences are drawn in `forest.png` "
        "(Artifacts); below this run stands one for each arm, and below that one for each detector.",
    ]
    return "\n".join(lines)


_AUC = {"auc": "auc", "auc_low": "low", "auc_high": "high"}
_DIFFERENCE = {"difference": "value", "difference_low": "low", "difference_high": "high", "p_holm": "p_holm"}
