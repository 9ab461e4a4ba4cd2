"""The audit: can real and fake be told apart without looking at the faces, and does anything stand in two splits?

A detector takes whatever tells its classes apart. Where the fakes of a dataset are the brighter files, it learns
brightness, and its test score says nothing about fakes elsewhere. The audit looks for that before anything is trained.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from core.errors import UserError
from core.files import sha256, strict_json
from core.manifest import Manifest
from core.splits import leaking, near_values
from faces.audit.cues import FAMILIES, measure_cues, numeric
from faces.audit.probe import Probe, probe
from metrics.permutation import differences, fewest

_EXAMPLES = 10  # of near-duplicates


class AuditConfig(BaseModel):
    """How an audit decides. By the defaults one clean manifest in two hundred is called suspicious."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(0.005, gt=0, lt=1, description="chance of a false alarm in a clean manifest")
    least_auc: float = Field(0.55, ge=0.5, lt=1, description="a probe that reaches less is no shortcut worth a flag")
    permutations: int = Field(1999, ge=99, description="of the labels anew, for p")
    folds: int = Field(5, ge=2, le=20)
    max_rows: int = Field(3000, ge=50, description="rows of a dataset that are probed, whole groups chosen by name")
    near_duplicates: bool = Field(True, description="measure every row, to look for near-duplicates")
    seed: int = Field(0, ge=0)


@dataclass(frozen=True)
class FamilyAudit:
    """One family of cues: what a probe reaches with it alone, and how likely a difference as large is by chance."""

    family: str
    probe: Probe
    p: float  # corrected for all families, cues and datasets of the audit
    flagged: bool


@dataclass(frozen=True)
class Cue:
    """One cue in both classes. `auc` is P(fake above real), ties half: 0.5 where the classes do not differ."""

    family: str
    name: str
    real: float  # median; of a category its share
    fake: float
    auc: float


@dataclass(frozen=True)
class DatasetAudit:
    """What was found in one dataset."""

    dataset: str
    real: int
    fake: int
    groups: int
    whole: Probe | None = None  # all cues together; None where a class is missing
    families: tuple[FamilyAudit, ...] = ()
    cues: tuple[Cue, ...] = ()  # the most different first
    by_method: dict[str, float] = field(default_factory=dict)  # AUC of the whole probe: each fake method against reals
    verdict: str = ""

    @property
    def flagged(self) -> tuple[FamilyAudit, ...]:
        """The families that leak the label, the worst first."""
        return tuple(sorted((s for s in self.families if s.flagged), key=lambda s: -s.probe.auc))


@dataclass(frozen=True)
class NearDuplicates:
    """Rows that have a near-duplicate (perceptual hashes at most 4 of 64 bits apart) where they should not.

    Near-duplicates within one identity or source do not count: frames of a video, a fake beside its original.
    """

    across_splits: int
    across_datasets: int
    across_labels: int
    to_remove: int  # rows without which no near-duplicates stand in two splits
    examples: tuple[tuple[str, str, str], ...]  # what is wrong, and the paths of both

    @property
    def verdict(self) -> str:
        """One sentence."""
        if not (self.across_splits or self.across_datasets or self.across_labels):
            return "near-duplicates: none across splits, datasets or labels"
        remedy = f"; without {self.to_remove} rows none would span two splits" if self.to_remove else ""
        return (
            f"near-duplicates: {self.across_splits} rows have one in another split, {self.across_datasets} in another "
            f"dataset, {self.across_labels} with the other label{remedy}"
        )


@dataclass(frozen=True)
class Audit:
    """Every dataset of a manifest, and what stands in it twice."""

    manifest: str  # digest
    datasets: dict[str, DatasetAudit]
    near_duplicates: NearDuplicates | None

    @property
    def flagged(self) -> bool:
        """Whether any dataset has a shortcut."""
        return any(one.flagged for one in self.datasets.values())

    def to_json(self) -> str:
        """Strict JSON; what is not a number becomes null."""
        return strict_json(asdict(self), indent=1)


def audit(manifest: Manifest, config: AuditConfig | None = None, cache: Path | None = None) -> Audit:
    """Audit every dataset of the manifest, all splits together.

    No face is looked at and no detector is scored, so that test rows are used as a reader of their file names would
    use them.

    Args:
        cache: folder that keeps what was measured of each crop.

    Raises:
        UserError: the manifest has no rows, or a crop cannot be read.
    """
    config = config or AuditConfig()
    if not len(manifest):
        raise UserError(f"the manifest in {manifest.root} has no rows: there is nothing to audit")
    names = sorted(set(manifest.rows["dataset"]))
    dataset = manifest.rows["dataset"].to_numpy(dtype=np.str_)
    probed = np.zeros(len(manifest), dtype=bool)
    for name in names:
        here = np.flatnonzero(dataset == name)
        probed[here[_sample(manifest.groups[here], config.max_rows, config.seed)]] = True
    measured = manifest if config.near_duplicates else manifest.where(probed)
    table = measure_cues(measured, cache)
    found = {}
    for name in names:
        keep = (measured.rows["dataset"] == name).to_numpy(dtype=bool)
        if config.near_duplicates:
            keep &= probed
        found[name] = _audit_one(name, measured.where(keep), table[keep].reset_index(drop=True), config, len(names))
    twice = find_near_duplicates(manifest, table["phash"].tolist()) if config.near_duplicates else None
    return Audit(manifest.digest, found, twice)


def _audit_one(name: str, rows: Manifest, table: pd.DataFrame, config: AuditConfig, datasets: int) -> DatasetAudit:
    targets, groups = rows.targets, rows.groups
    fake = int(targets.sum())
    counts: dict[str, Any] = {"dataset": name, "real": len(rows) - fake, "fake": fake, "groups": len(np.unique(groups))}
    if fake in (0, len(rows)):
        verdict = f"{name}: all {'fake' if fake else 'real'}, so there are no classes to be told apart"
        return DatasetAudit(**counts, verdict=verdict)
    values = {family: numeric(table, family) for family in FAMILIES}
    sources = rows.rows["source"].to_numpy(dtype=np.str_)
    units = (rows.rows["source"] + "/" + rows.rows["method"]).to_numpy(dtype=np.str_)  # what a detector's score is of
    # Enough that a family can fall below alpha after the correction for the number of datasets.
    permutations = max(config.permutations, math.ceil(4 * datasets / config.alpha))
    p = differences(values, targets, groups, sources, permutations=permutations, seed=config.seed)

    def probed(frame: pd.DataFrame) -> tuple[Probe, NDArray[np.float64]]:
        columns = frame.to_numpy(dtype=np.float64)
        return probe(columns, targets, groups, units, folds=config.folds, seed=config.seed)

    families = []
    for family, frame in values.items():
        reached, corrected = probed(frame)[0], min(1.0, p[family] * datasets)
        flagged = corrected <= config.alpha and reached.auc >= config.least_auc
        families.append(FamilyAudit(family, reached, corrected, flagged))
    whole, scores = probed(pd.concat(list(values.values()), axis=1))
    possible = fewest(targets, groups, sources) * datasets <= config.alpha
    cues, methods = _cues(values, targets), _by_method(rows.rows["method"].to_numpy(dtype=np.str_), targets, scores)
    found = DatasetAudit(**counts, whole=whole, families=tuple(families), cues=cues, by_method=methods)
    return replace(found, verdict=_verdict(found, possible))


def _sample(groups: NDArray[np.str_], most: int, seed: int) -> NDArray[np.int64]:
    """Places of whole groups, in an order by hash, until they hold `most` rows."""
    names, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(groups) <= most:
        return np.arange(len(groups))
    order = sorted(range(len(names)), key=lambda i: sha256(f"{seed}/{names[i]}".encode()))
    taken = np.zeros(len(names), dtype=bool)
    taken[[i for i, before in zip(order, np.cumsum(sizes[order]) - sizes[order], strict=True) if before < most]] = True
    return np.flatnonzero(taken[codes])


def _cues(values: dict[str, pd.DataFrame], targets: NDArray[np.int64]) -> tuple[Cue, ...]:
    found = []
    for family, frame in values.items():
        for name in frame:
            column = frame[name].to_numpy(dtype=np.float64)
            known = ~np.isnan(column)
            if not 0 < targets[known].sum() < known.sum():
                continue
            middle = np.mean if "=" in name else np.median
            real, fake = (float(middle(column[known & (targets == kind)])) for kind in (0, 1))
            auc = float(roc_auc_score(targets[known], rankdata(column[known])))
            found.append(Cue(family, str(name), real, fake, auc))
    return tuple(sorted(found, key=lambda cue: -abs(cue.auc - 0.5)))


def _by_method(methods: NDArray[np.str_], targets: NDArray[np.int64], scores: NDArray[np.float64]) -> dict[str, float]:
    kept = {str(method): (targets == 0) | (methods == method) for method in np.unique(methods[targets == 1])}
    return {method: float(roc_auc_score(targets[keep], scores[keep])) for method, keep in kept.items()}


def _verdict(found: DatasetAudit, possible: bool) -> str:
    assert found.whole is not None
    of = f"{found.real} real and {found.fake} fake of {found.groups} groups"
    together = f"all cues together reach AUC {found.whole}"
    if not possible:
        return f"{found.dataset}: {of} are too few to tell a shortcut from chance; {together}"
    if not found.flagged:
        return f"{found.dataset}: no shortcut found in {of}; {together}"
    parts = [f"{each.family} (AUC {each.probe}{_which(found, each.family)})" for each in found.flagged]
    worst = max(found.whole.auc, *(each.probe.auc for each in found.flagged))
    size = "a weak shortcut" if worst < 0.7 else "a shortcut" if worst < 0.9 else "a strong shortcut"
    # How the pixels are made up may also tell how a fake was made, which a detector ought to see; the file never does.
    both = [each.family for each in found.flagged if each.family in ("noise", "sharpness")]
    caution = f" ({' and '.join(both)} may be the forgery's own cue)" if both else ""
    return f"{found.dataset}: {size} in {of}: {', '.join(parts)}; {together} without looking at a face{caution}"


def _which(found: DatasetAudit, family: str) -> str:
    """The cue of the family that differs most, and in which direction."""
    cue = next((cue for cue in found.cues if cue.family == family), None)
    if cue is None or abs(cue.auc - 0.5) < 0.02:
        return ""
    more, less = ("more often", "less often") if "=" in cue.name else ("higher", "lower")
    return f": {cue.name} is {more if cue.auc > 0.5 else less} in fakes"


def find_near_duplicates(manifest: Manifest, hashes: Sequence[str]) -> NearDuplicates:
    """The near-duplicates among the manifest's rows, in time that grows with their number.

    Args:
        hashes: perceptual hash of each row, 16 hex digits.
    """
    values = np.array([int(text, 16) for text in hashes], dtype=np.uint64)
    rows, groups = manifest.rows, manifest.groups
    unique, code = np.unique(values, return_inverse=True)
    near: list[list[int]] = [[number] for number in range(len(unique))]
    for a, b in near_values(unique).tolist():
        near[a].append(b)
        near[b].append(a)
    members = pd.Series(np.arange(len(rows))).groupby(code).indices
    counts = dict.fromkeys(("split", "dataset", "label"), 0)
    examples: list[tuple[str, str, str]] = []
    columns = {name: rows[name].to_numpy(dtype=np.str_) for name in counts}
    for number, numbers in enumerate(near):
        around = np.concatenate([members[other] for other in numbers])
        own_groups = groups[around]
        for name, column in columns.items():
            own = column[around]
            if len(around) < 2 or (own == own[0]).all():
                continue
            kinds, of_group = Counter(own.tolist()), Counter(own_groups.tolist())
            within = Counter(zip(own_groups.tolist(), own.tolist(), strict=True))
            for row in members[number]:
                group, value = str(groups[row]), str(column[row])
                # All rows around of another kind, less those of this row's own group.
                if len(around) - kinds[value] - (of_group[group] - within[group, value]) > 0:
                    counts[name] += 1
                    if counts[name] <= _EXAMPLES:
                        other = around[(own != value) & (own_groups != group)][0]
                        examples.append((f"two {name}s", str(rows["path"][row]), str(rows["path"][other])))
    removed = len(leaking(rows["split"], values)) if counts["split"] else 0
    return NearDuplicates(counts["split"], counts["dataset"], counts["label"], removed, tuple(examples))
