"""Two registered models on the same sealed groups."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from classifier.evaluation import ALL, compare
from core.errors import UserError
from metrics.binary import RANKED
from pipelines.evaluation.sealed import open_test_rows, score_rows
from pipelines.release.gate import main_difference
from pipelines.release.lineage import Model, find_version
from tracking.models import fetch_model
from tracking.runs import run
from tracking.store import Store


def compare_versions(
    store: Store,
    first: str | int,
    second: str | int,
    *,
    manifest: Path | None = None,
    datasets: Sequence[str] = (),
    metric: str = "auc",
    cache: Path = Path("cache"),
) -> dict[str, Any]:
    """A metric of both by source, and their paired difference with its interval, by dataset; the opening is counted.

    Returns:
        `first`, `second` (version numbers), `metric`, `datasets` (one row each: dataset, first, second, difference,
        low, high, confidence that the first's is higher), and a `sentence`.

    Raises:
        UserError: no such metric, or the manifest or its rows are missing.
    """
    if metric not in RANKED:
        raise UserError(f"there is no metric {metric!r} with an interval: choose one of {', '.join(RANKED)}")
    versions = [find_version(store, each) for each in (first, second)]
    numbers = [version.number for version in versions]
    rows = Model(store, versions[0]).sealed_rows(manifest, datasets)
    with run(
        store,
        versions[0].tags.get("project", "comparisons"),
        f"version {numbers[0]} against {numbers[1]}",
        key=f"compare/{numbers[0]}/{numbers[1]}/{rows.digest}",
        tags={"versions": f"{numbers[0]},{numbers[1]}", "manifest": rows.digest},
        description="Two registered models on the same sealed test groups.",
    ) as active:
        with tempfile.TemporaryDirectory() as scratch:
            folders = [fetch_model(store, each.uri, Path(scratch) / str(each.number)) for each in versions]
            open_test_rows(active, rows, folders)
            a, b = (score_rows(folder, rows, cache) for folder in folders)
        thresholds = a.by_source.threshold, b.by_source.threshold
        paired = compare(a.table, b.table, metric=metric, by="source", thresholds=thresholds)
        table = []
        for dataset, difference in paired.items():
            own = (
                [each.by_source.results[dataset].metrics[metric] for each in (a, b)]
                if dataset in a.by_source.results
                else []
            )
            if not own:
                own = [each.by_source.mean(metric) for each in (a, b)]
            table.append(
                {
                    "dataset": "all, pooled" if dataset == ALL else dataset,
                    f"version {numbers[0]}": own[0],
                    f"version {numbers[1]}": own[1],
                    "difference": difference.value,
                    "low": difference.low,
                    "high": difference.high,
                    "confidence": difference.probability,
                }
            )
        over, main = main_difference(paired)
        over = over.replace("AUC", metric)
        if main.low != main.low:
            outcome = "too few identities or sources for an interval"
        elif main.low > 0 or main.high < 0:
            outcome = f"version {numbers[0]}'s is {'higher' if main.low > 0 else 'lower'} beyond doubt"
        else:
            outcome = "no difference can be told"
        result = {
            "first": numbers[0],
            "second": numbers[1],
            "metric": metric,
            "datasets": table,
            "sentence": f"{over}: {outcome}, {main.value:+.3f} [{main.low:+.3f}, {main.high:+.3f}]",
        }
        active.text("comparison.json", json.dumps(result, indent=2))
        active.metrics({f"{metric}_difference/{dataset}": difference.value for dataset, difference in paired.items()})
    return result
