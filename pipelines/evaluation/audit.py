"""The audit where it meets people and detectors: folder, picture, table, and the warning that a detector may cheat."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from classifier.figures import COLOURS
from core.figures import PlainFigure
from core.files import atomic, write_text
from core.manifest import Manifest
from faces.audit.audit import Audit, AuditConfig, DatasetAudit, audit
from tracking.models import score_model
from tracking.runs import PROBE_AUC, Run

# Share of a detector's lift over chance that a shortcut probe may reach before a user is told.
_NEAR = 0.75
_WIDE = 0.9  # a faultless probe whose low bound is below this is explained
_GREY = "#666666"


def write_audit(found: Audit, folder: Path) -> list[Path]:
    """`audit.json` and `audit.png` in `folder`."""
    text, picture = folder / "audit.json", folder / "audit.png"
    write_text(text, found.to_json())
    with atomic(picture) as temporary:
        audit_figure(found).savefig(temporary, dpi=110, format="png")
    return [text, picture]


def summary_table(of: DatasetAudit) -> pd.DataFrame:
    """One row a family: what a probe reaches, p, whether it is flagged, and the cue that differs most."""
    rows = []
    for one in of.families:
        cue = next((cue for cue in of.cues if cue.family == one.family), None)
        most = f"{cue.name}: {_figure(cue.real)} real, {_figure(cue.fake)} fake" if cue else "the same everywhere"
        row = {"family": one.family, "probe AUC": str(one.probe), "p": "<0.001" if one.p < 0.001 else f"{one.p:.3f}"}
        rows.append(row | {"": "FLAG" if one.flagged else "", "differs most": most})
    return pd.DataFrame(rows)


def faultless_note(of: DatasetAudit) -> str:
    """Why the interval of a probe without a fault is wide where its p is small; empty where there is no such probe."""
    if not any(one.probe.auc == 1 and one.probe.low < _WIDE for one in of.families):
        return ""
    return (
        f"{of.dataset}: the low bound of a faultless AUC (1.00) is exact and wide for so few groups; p, of a "
        "permutation test, asks only whether the classes differ at all"
    )


def audit_figure(found: Audit) -> Figure:
    """What a probe reaches with each family of cues, one panel a dataset; what is flagged is coloured."""
    shown = [one for one in found.datasets.values() if one.whole is not None]
    figure = PlainFigure(figsize=(4.2 * max(len(shown), 1), 3.8), dpi=100, layout="constrained")
    if not shown:
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no dataset holds both reals and fakes", ha="center", transform=axes.transAxes)
        return figure
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, one in zip(panels, shown, strict=True):
        assert one.whole is not None
        lines = [(family.family, family.probe, family.flagged) for family in one.families]
        lines.append(("all together", one.whole, bool(one.flagged)))
        for row, (_, probe, flagged) in enumerate(lines):
            colour = COLOURS[flagged]
            if not math.isnan(probe.low):
                axes.plot([probe.low, probe.high], [row, row], color=colour, linewidth=2.5, alpha=0.5)
            axes.plot(probe.auc, row, marker="D" if flagged else "o", color=colour, markersize=6)
        axes.axvline(0.5, color=_GREY, linewidth=0.8, linestyle=":")
        axes.set(xlim=(0.0 if min(p.auc for _, p, _ in lines) < 0.4 else 0.4, 1.01), xlabel="AUC of the shortcut probe")
        axes.set_yticks(range(len(lines)), [name for name, _, _ in lines])
        axes.set_title(f"{one.dataset}\n{one.real} real, {one.fake} fake, {one.groups} groups", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.text(0.01, 0.01, "orange diamond: a shortcut", fontsize=8, color=_GREY)
    return figure


def audit_step(manifest: Manifest, folder: Path) -> dict[str, Any]:
    """What `train` and `run` need of an audit, in JSON's types, with `audit.json` and `audit.png` in `folder`.

    Near-duplicates are not looked for. Synthetic rows are left out: they are in train only, and the detector is judged
    on real-world rows.
    """
    found = audit(manifest.where(~manifest.synthetic), AuditConfig(near_duplicates=False), folder / "cues")
    probes = {n: best_probe(one) | {"digest": manifest.select(dataset=n).digest} for n, one in found.datasets.items()}
    files = [str(path) for path in write_audit(found, folder)]
    return {"verdicts": [one.verdict for one in found.datasets.values()], "probes": probes, "files": files}


def warnings_of(audited: Mapping[str, Any], detector: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What `warn_if_near` says, on stderr too, of a result of `audit_step` and a detector's metrics by dataset."""
    probes = audited["probes"]
    found = (warn_if_near(probes[name], metrics) for name, metrics in detector.items() if name in probes)
    sentences = list(filter(None, found))
    for sentence in sentences:
        print(f"warning: {sentence}", file=sys.stderr)
    return sentences


def log_audit(run: Run, audited: Mapping[str, Any], warnings: Sequence[str], models: Sequence[str]) -> None:
    """The probes' AUC as metrics `probe_auc/<dataset>` of run and models, the tag `audit_warning`, and the files."""
    for name, one in audited["probes"].items():
        if one["auc"] is not None:
            for model in models:
                score_model(run.store, model, name, one["digest"], {PROBE_AUC: one["auc"]}, run)
    run.tags({"audit_warning": "; ".join(warnings) or "none"})
    for path in audited["files"]:
        run.artifact(path, "audit")


def warn_if_near(probe: Mapping[str, Any], detector: Mapping[str, float]) -> str | None:
    """One sentence if a probe that looks at no face comes near the detector on this dataset, or else None.

    Near is three quarters of the detector's lift over 0.5, or an interval that reaches the detector's. A probe (see
    `best_probe`) that found no shortcut is never near, and a detector that is not above 0.5 has learned none. Of the
    detector's metrics `auc` is looked at, and `auc_low` where it is known.
    """
    if not probe["families"] or not detector.get("auc_low", detector["auc"]) > 0.5:
        return None
    near = probe["auc"] - 0.5 >= _NEAR * (detector["auc"] - 0.5) or probe["high"] >= detector.get("auc_low", math.nan)
    if not near:
        return None
    return (
        f"on {probe['dataset']} a probe that looks at no face reaches AUC {probe['auc']:.2f} "
        f"({', '.join(probe['families'])}) and the detector {detector['auc']:.2f}: "
        "it may owe that to the files and not to the fakes; see `counterforge faces audit`"
    )


def best_probe(of: DatasetAudit) -> dict[str, Any]:
    """The probe that comes furthest (auc, low, high; None where there is no interval), and the flagged families."""
    probes = [] if of.whole is None else [of.whole, *(one.probe for one in of.flagged)]
    best = max(probes, key=lambda one: one.auc, default=None)
    known = best is not None and not math.isnan(best.low)
    figures = {name: getattr(best, name) if known else None for name in ("auc", "low", "high")}
    families = [one.family for one in of.flagged]
    return {"dataset": of.dataset, **figures, "families": families, "verdict": of.verdict}


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
