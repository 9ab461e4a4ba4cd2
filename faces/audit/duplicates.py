"""Near-duplicate images across the splits, datasets or labels of a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.manifest import Manifest
from core.splits import leaking, near_duplicates

_EXAMPLES = 10


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of near-duplicates (perceptual hashes at most 4 of 64 bits apart) of different groups.

    Pairs within one identity or source do not count: frames of a video, a fake beside its original.
    """

    across_splits: int
    across_datasets: int
    across_labels: int
    to_remove: int  # rows without which no pair spans two splits
    examples: tuple[tuple[str, str, str], ...]  # what is wrong, and the paths of both

    @property
    def verdict(self) -> str:
        """One sentence."""
        if not (self.across_splits or self.across_datasets or self.across_labels):
            return "near-duplicates: none across splits, datasets or labels"
        remedy = f"; without {self.to_remove} rows no pair would span two splits" if self.to_remove else ""
        return (
            f"near-duplicates: {self.across_splits} pairs across splits, {self.across_datasets} across datasets, "
            f"{self.across_labels} with both labels{remedy}"
        )


def find_near_duplicates(manifest: Manifest, hashes: Sequence[str]) -> NearDuplicates:
    """The near-duplicates among the manifest's rows.

    Args:
        hashes: perceptual hash of each row, 16 hex digits.
    """
    pairs = near_duplicates(np.array([int(text, 16) for text in hashes], dtype=np.uint64))
    rows = manifest.rows
    i, j = pairs[:, 0], pairs[:, 1]
    apart = manifest.groups[i] != manifest.groups[j]
    parents = rows["parent"].to_numpy(dtype=np.str_)
    sha = rows["sha256"].to_numpy(dtype=np.str_)
    made = np.array([sha[b] in parents[a] or sha[a] in parents[b] for a, b in pairs], dtype=bool)
    pairs = pairs[apart & ~made] if len(pairs) else pairs
    i, j = pairs[:, 0], pairs[:, 1]
    differ = {name: (v := rows[name].to_numpy(dtype=np.str_))[i] != v[j] for name in ("split", "dataset", "label")}
    examples = []
    for name, here in differ.items():
        for a, b in pairs[here][:_EXAMPLES]:
            examples.append((f"two {name}s", str(rows["path"][a]), str(rows["path"][b])))
    return NearDuplicates(
        across_splits=int(differ["split"].sum()),
        across_datasets=int(differ["dataset"].sum()),
        across_labels=int(differ["label"].sum()),
        to_remove=len(leaking(rows["split"], pairs)),
        examples=tuple(examples),
    )
