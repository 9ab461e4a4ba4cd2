"""Near-duplicate images across the splits, datasets or labels of a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from core.manifest import Manifest
from core.splits import leaking, near_values

_EXAMPLES = 10


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
    crowded = [number for number in range(len(unique)) if len(near[number]) > 1 or len(members[number]) > 1]
    columns = {name: rows[name].to_numpy(dtype=np.str_) for name in counts}
    for number in crowded:
        around = np.concatenate([members[other] for other in near[number]])
        for name, column in columns.items():
            own = column[around]
            if len(np.unique(own)) < 2:
                continue
            kinds = Counter(own.tolist())
            within = Counter(zip(groups[around].tolist(), own.tolist(), strict=True))
            of_group = Counter(groups[around].tolist())
            for row in members[number]:
                group, value = str(groups[row]), str(column[row])
                # All rows around of another kind, less those of this row's own group.
                if len(around) - kinds[value] - (of_group[group] - within[group, value]) > 0:
                    counts[name] += 1
                    if sum(what == f"two {name}s" for what, _, _ in examples) < _EXAMPLES:
                        other = around[(own != value) & (groups[around] != group)][0]
                        examples.append((f"two {name}s", str(rows["path"][row]), str(rows["path"][other])))
    removed = len(leaking(rows["split"], values)) if counts["split"] else 0
    return NearDuplicates(counts["split"], counts["dataset"], counts["label"], removed, tuple(examples))
