"""The gate's rules, one by one, on figures made for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from classifier.evaluation import evaluate
from core.config import validate
from core.errors import UserError
from metrics.intervals import Difference
from pipelines.release.gate import Check, Costs, Evidence, Gate, check, read_gate
from tracking.runs import PROBE_AUC, ROBUST_WORST_AUC

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """Two datasets of 40 sources each: AUC about 0.95 on `good`, 0.6 on `poor`; 0.02 above version 1."""
    random = np.random.default_rng(0)
    rows, scores = [], []
    for dataset, gap in (("good", 2.5), ("poor", 0.4)):
        for number in range(40):
            label = ("real", "fake")[number % 2]
            rows.append(
                {
                    "sha256": f"{len(rows):064x}",
                    "dataset": dataset,
                    "label": label,
                    "method": "weave",
                    "source": f"{dataset}{number}",
                    "identity": None,
                }
            )
            scores.append(1 / (1 + np.exp(-random.normal() - gap * (number % 2) + gap / 2)))
    evaluation = evaluate(pd.DataFrame(rows), scores, 0.5, by="source", replicates=300)
    paired = {
        "good": Difference(0.02, 0.01, 0.03, probability=0.999),
        "poor": Difference(0.02, -0.02, 0.06, probability=0.8),
        "mean": Difference(0.02, 0.002, 0.038, probability=0.98),
        "all": Difference(0.0, -0.1, 0.1, probability=0.5),
    }
    return Evidence(version=2, champion=1, evaluation=evaluation, paired=paired, metrics={})


def answers(evidence: Evidence, **rules: Any) -> dict[str, Check]:
    return {each.rule: each for each in check(validate(Gate, rules, "test"), evidence)}


def with_mean(evidence: Evidence, low: float, high: float) -> Evidence:
    mean = Difference((low + high) / 2, low, high, probability=0.5)
    return replace(evidence, paired={**evidence.paired, "mean": mean})


def test_without_rules_it_must_be_better_and_traced(evidence: Evidence) -> None:
    found = answers(evidence)
    assert list(found) == ["champion", "lineage"]
    assert all(each.passed for each in found.values())
    assert not answers(with_mean(evidence, -0.001, 0.05))["champion"].passed
    assert not answers(with_mean(evidence, float("nan"), float("nan")))["champion"].passed
    lost = answers(replace(evidence, untraced=("the manifest is not recorded", "x")))["lineage"]
    assert (lost.passed, lost.measured) == (False, "the manifest is not recorded; x")


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "passed"),
    [
        (8.0, 10.0, -0.005, True),  # a fifth faster, and at most 0.01 below
        (9.5, 10.0, -0.005, False),  # not fast enough
        (8.0, 10.0, -0.02, False),  # may be too much worse
        (float("nan"), 10.0, -0.005, False),
    ],
)
def test_non_inferior_needs_a_measured_gain(
    evidence: Evidence, ours: float, theirs: float, low: float, passed: bool
) -> None:
    rules = {"rule": "non-inferior", "margin": 0.01, "gain": "latency", "least_gain": 0.1}
    near = replace(with_mean(evidence, low, 0.01), costs=Costs(ours), champion_costs=Costs(theirs))
    assert answers(near, champion=rules)["champion"].passed == passed


def test_non_inferior_needs_a_reason(evidence: Evidence) -> None:
    with pytest.raises(UserError, match="non-inferior candidate needs a reason"):
        validate(Gate, {"champion": {"rule": "non-inferior"}}, "g.yaml")
    rules = {"rule": "non-inferior", "because": "its licence allows selling"}
    found = answers(with_mean(evidence, -0.009, 0.01), champion=rules)["champion"]
    assert found.passed
    assert "its licence allows selling" in found.wanted


def test_the_worst_dataset_decides(evidence: Evidence) -> None:
    low = evidence.evaluation.results["poor"].intervals["auc"].low
    assert low < evidence.evaluation.results["good"].intervals["auc"].low
    assert answers(evidence, min_worst_auc_low=low - 0.01)["worst dataset"].passed
    refused = answers(evidence, min_worst_auc_low=min(low + 0.01, 1.0))["worst dataset"]
    assert not refused.passed
    assert "on poor" in refused.measured
    worst = max(evidence.evaluation.results[name].metrics["ece"] for name in ("good", "poor"))
    assert answers(evidence, max_ece=worst)["calibration"].passed
    assert not answers(evidence, max_ece=worst - 0.001)["calibration"].passed


def test_what_was_not_measured_refuses(evidence: Evidence) -> None:
    found = answers(evidence, min_robust_auc=0.5, max_probe_auc=0.7, max_ms_per_image=5, licence=True)
    assert not any(found[rule].passed for rule in ("robustness", "audit", "latency", "licence"))
    assert all("not measured" in found[rule].measured for rule in ("robustness", "audit", "latency"))


def test_logged_figures_are_read_and_the_worst_data_set_counts(evidence: Evidence) -> None:
    metrics = {
        f"{ROBUST_WORST_AUC}/a": 0.8,
        f"{ROBUST_WORST_AUC}/b": 0.6,
        f"{PROBE_AUC}/a": 0.55,
        f"{PROBE_AUC}/b": 0.72,
    }
    known = replace(evidence, metrics=metrics, licence="CC0", costs=Costs(4.0))
    rules = {"min_robust_auc": 0.6, "max_probe_auc": 0.72, "max_ms_per_image": 4, "licence": True}
    assert all(each.passed for each in answers(known, **rules).values())
    refused = answers(known, min_robust_auc=0.61, max_probe_auc=0.7)
    assert refused["robustness"].measured == "0.600 on b"
    assert refused["audit"].measured == "0.720 on b"
    assert not refused["robustness"].passed
    assert not refused["audit"].passed


def test_the_example_reads_and_a_misspelt_key_is_named(tmp_path: Path) -> None:
    gate = read_gate(ROOT / "configs" / "gate.yaml")
    assert gate.min_worst_auc_low == 0.5
    (tmp_path / "g.yaml").write_text("champion:\n  marginn: 0.02\n")
    with pytest.raises(UserError, match=r"champion\.marginn is not a key .*did you mean margin\?"):
        read_gate(tmp_path / "g.yaml")
    assert read_gate(None) == Gate()
