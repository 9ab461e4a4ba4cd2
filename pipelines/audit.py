"""The audit where it meets people and detectors: folder, picture, table, and the warning that a detector may cheat."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from classifier.figures import COLOURS
from faces.audit import Audit, AuditConfig, DataSetAudit, audit
from faces.manifest import Manifest

# Share of a detector's lift over chance that a blind probe may reach before a user is told.
_NEAR = 0.75
_GREY = "#666666"


def write_audit(found: Audit, folder: Path) -> list[Path]:
    """`audit.json` and `audit.png` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text, picture = folder / "audit.json", folder / "audit.png"
    temporary = text.with_suffix(".tmp")
    temporary.write_text(found.to_json(), encoding="utf-8")
    temporary.replace(text)
    audit_figure(found).savefig(picture, dpi=110)
    return [text, picture]


def summary_table(of: DataSetAudit) -> pd.DataFrame:
    """One row a family: what a probe reaches, p, whether it is flagged, and the trace that differs most."""
    rows = []
    for suspect in of.suspects:
        own = [trace for trace in of.traces if trace.family == suspect.family]
        found = (
            f"{own[0].name}: {_figure(own[0].real)} real, {_figure(own[0].fake)} fake" if own else "the same everywhere"
        )
        row = {"family": suspect.family, "probe AUC": str(suspect.probe), "p": _p(suspect.p)}
        rows.append(row | {"": "FLAG" if suspect.flagged else "", "differs most": found})
    return pd.DataFrame(rows)


def audit_figure(found: Audit) -> Figure:
    """What a probe reaches with each family of traces, one panel a data set; what is flagged is coloured."""
    shown = [one for one in found.datasets.values() if one.whole is not None]
    figure = Figure(figsize=(4.2 * max(len(shown), 1), 3.8), dpi=100, layout="constrained")
    if not shown:
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no data set holds both reals and fakes", ha="center", transform=axes.transAxes)
        return figure
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, one in zip(panels, shown, strict=True):
        assert one.whole is not None
        lines = [(suspect.family, suspect.probe, suspect.flagged) for suspect in one.suspects]
        lines.append(("all together", one.whole, bool(one.flagged)))
        for place, (_, probe, flagged) in enumerate(lines):
            colour = COLOURS[1] if flagged else COLOURS[0]
            if not math.isnan(probe.low):
                axes.plot([probe.low, probe.high], [place, place], color=colour, linewidth=2.5, alpha=0.5)
            axes.plot(probe.auc, place, marker="D" if flagged else "o", color=colour, markersize=6)
        axes.axvline(0.5, color=_GREY, linewidth=0.8, linestyle=":")
        axes.set(xlim=(0.0 if min(p.auc for _, p, _ in lines) < 0.4 else 0.4, 1.01), xlabel="AUC of the blind probe")
        axes.set_yticks(range(len(lines)), [name for name, _, _ in lines])
        axes.set_title(f"{one.dataset}\n{one.real} real, {one.fake} fake, {one.groups} groups", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.text(0.01, 0.01, "orange diamond: a shortcut", fontsize=8, color=_GREY)
    return figure


def quick_audit(manifest: Manifest, store: Path | None = None) -> Audit:
    """The audit of a manifest's real-world rows without the search for near-duplicates: what `train` and `run` need.

    Synthetic rows are left out: they are in train only, and the detector is judged on real-world rows.
    """
    return audit(manifest.where(~manifest.synthetic), AuditConfig(near_duplicates=False), store)


def warn_if_near(probe: DataSetAudit, detector: Mapping[str, float]) -> str | None:
    """One sentence if a probe that looks at no face comes near the detector on this data set, or else None.

    Near is three quarters of the detector's lift over 0.5, or an interval that reaches the detector's. A probe that
    found no shortcut is never near, however poor the detector is.

    Args:
        detector: metrics of the detector on this data set: `auc`, and `auc_low` where it is known.
    """
    if probe.whole is None or not probe.flagged or math.isnan(detector["auc"]):
        return None
    best = max([probe.whole, *(suspect.probe for suspect in probe.flagged)], key=lambda one: one.auc)
    lift = detector["auc"] - 0.5
    low = detector.get("auc_low", math.nan)
    near = best.auc - 0.5 >= _NEAR * lift or best.high >= low
    if not near:
        return None
    families = ", ".join(suspect.family for suspect in probe.flagged)
    return (
        f"on {probe.dataset} a probe that looks at no face reaches AUC {best} ({families}) and the detector "
        f"{detector['auc']:.2f}: it may know the files and not the fakes; `counterforge faces audit` says more"
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
