"""When a user is warned that a detector may cheat, and what an audit leaves on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from faces.audit.audit import Audit, DatasetAudit, FamilyAudit
from faces.audit.probe import Probe
from pipelines.evaluation.audit import (
    audit_figure,
    best_probe,
    faultless_note,
    summary_table,
    warn_if_near,
    write_audit,
)


def found(auc: float, *, flagged: bool = True, dataset: str = "d") -> DatasetAudit:
    probe = Probe(auc, auc - 0.03, auc + 0.03, "logistic")
    families = (FamilyAudit("format", probe, 0.001 if flagged else 0.4, flagged),)
    return DatasetAudit(dataset, 50, 50, 100, probe, families, (), {}, f"{dataset}: verdict")


@pytest.mark.parametrize(
    ("probe", "detector", "warned"),
    [
        (found(0.9), {"auc": 0.95}, True),
        (found(0.6), {"auc": 0.95}, False),
        (found(0.85), {"auc": 0.95, "auc_low": 0.88}, True),  # the intervals meet
        (found(0.8), {"auc": 0.95, "auc_low": 0.88}, False),
        (found(0.6, flagged=False), {"auc": 0.55}, False),  # a poor detector is not a cheating one
        (found(0.9), {"auc": float("nan")}, False),
        (found(0.9), {"auc": 0.4}, False),
        (found(0.9), {"auc": 0.6, "auc_low": 0.45}, False),
        (found(0.9), {"auc": 0.6, "auc_low": 0.55}, True),
    ],
)
def test_a_warning_where_the_probe_comes_near(probe: DatasetAudit, detector: dict[str, float], warned: bool) -> None:
    sentence = warn_if_near(best_probe(probe), detector)
    assert (sentence is not None) == warned
    if sentence is not None:
        assert "format" in sentence
        assert "\n" not in sentence


def test_a_faultless_probe_of_few_groups_is_explained() -> None:
    def probed(auc: float, low: float) -> DatasetAudit:
        probe = Probe(auc, low, 1.0, "logistic")
        return DatasetAudit("d", 4, 4, 8, probe, (FamilyAudit("format", probe, 0.0005, True),), (), {}, "")

    assert "exact and wide for so few groups" in faultless_note(probed(1.0, 0.54))
    assert faultless_note(probed(1.0, 0.97)) == faultless_note(probed(0.99, 0.54)) == ""


def test_files_of_an_audit(tmp_path: Path) -> None:
    empty = DatasetAudit("one", 3, 0, 3, None, (), (), {}, "one: all real")
    both = Audit("digest", {"d": found(0.8), "one": empty}, None)
    text, picture = write_audit(both, tmp_path)
    assert json.loads(text.read_text())["datasets"]["d"]["families"][0]["flagged"] is True
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert summary_table(both.datasets["d"])[""].tolist() == ["FLAG"]
    assert audit_figure(Audit("digest", {"one": empty}, None)).axes
