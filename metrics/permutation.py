"""Whether the classes differ in a column by more than chance: compared with the same rows under permuted labels.

Labels are permuted as a whole new dataset would have them: among the photographs and videos of a group that holds both
classes, and among groups that hold one. Frames of one video always keep one label. The largest difference of all
columns is noted for each permutation; a family's p is the share of permutations whose largest difference of *all*
families reaches the family's own (Westfall and Young 1993, maxT). So p is exact whatever the groups look like, and
already corrected for the number of families and columns.

Cross-validated scores would not do for this: with labels at random on 40 photographed people, the test of their AUC
by its standard error claimed a difference at p < 0.01 in four of twenty sets.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln
from scipy.stats import rankdata

from metrics.binary import Floats, Ints


def relabelled(
    targets: Ints, groups: NDArray[np.generic], sources: NDArray[np.generic], permutations: int, seed: int
) -> Ints:
    """[permutations, N] permuted targets.

    Rows of one group, source and label are one block and stay together. In a group with both labels the labels change
    places among its blocks; groups with one label change labels among themselves.
    """
    random = np.random.default_rng(seed)
    frame = pd.DataFrame({"group": groups, "source": sources, "target": targets})
    block = frame.groupby(["group", "source", "target"], sort=True).ngroup().to_numpy()
    blocks = frame.assign(block=block).drop_duplicates("block").sort_values("block")
    label = blocks["target"].to_numpy(dtype=np.int8)
    group = pd.factorize(blocks["group"], sort=True)[0]
    dealt = np.tile(label, (permutations, 1))
    order = np.argsort(group, kind="stable")
    by_group = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    pure = [places for places in by_group if label[places].min() == label[places].max()]
    for places in by_group:
        if label[places].min() < label[places].max():
            dealt[:, places] = random.permuted(dealt[:, places], axis=1)
    if pure:
        of_group = random.permuted(np.tile([label[places[0]] for places in pure], (permutations, 1)), axis=1)
        for column, places in enumerate(pure):
            dealt[:, places] = of_group[:, [column]]
    return dealt[:, block].astype(np.int64)


def differences(
    values: Mapping[str, pd.DataFrame],
    targets: Ints,
    groups: NDArray[np.generic],
    sources: NDArray[np.generic],
    *,
    permutations: int = 1999,
    seed: int = 0,
) -> dict[str, float]:
    """p of each family: how often chance alone makes some column of any family differ as much as this family's does.

    Args:
        values: columns by family, [N, D] each; nan is unknown.
        targets: int [N], fake = 1, both present.
        groups: [N] identity, or else source.
        sources: [N] video or photograph.

    Returns:
        p in [1 / (permutations + 1), 1] by family; 1 where a family has no column.
    """
    columns, owner = _statistics(values)
    if not len(owner):
        return dict.fromkeys(values, 1.0)
    dealt = relabelled(targets, groups, sources, permutations, seed)
    labels = np.concatenate([targets[None], dealt]).astype(np.float64)
    share = labels.mean(axis=1, keepdims=True)
    sums = (labels - share) @ columns  # [1 + permutations, D]
    # Class sizes may change where groups differ in size: a difference of means, not of sums.
    with np.errstate(invalid="ignore", divide="ignore"):
        gaps = np.nan_to_num(sums / (share * (1 - share) * labels.shape[1]))
    gaps -= gaps.mean(axis=0)
    spread = gaps.std(axis=0)
    sizes = np.abs(gaps) / np.where(spread > 0, spread, 1.0)
    largest = sizes.max(axis=1)
    seen = {family: sizes[0, owner == family].max(initial=0.0) for family in values}  # 0: no column, and so p = 1
    return {family: float((largest >= most - 1e-9).mean()) for family, most in seen.items()}


def fewest(targets: Ints, groups: NDArray[np.generic], sources: NDArray[np.generic]) -> float:
    """The smallest p that is possible: one over the number of different permutations, at least 1e-6.

    With a handful of groups even faultless separation proves nothing.
    """
    blocks = pd.DataFrame({"group": groups, "source": sources, "target": targets}).drop_duplicates()
    by_group = blocks.groupby("group")["target"]
    count, fakes = by_group.size().to_numpy(), by_group.sum().to_numpy()
    pure = (fakes == 0) | (fakes == count)
    log_permutations = _log_choose(count[~pure], fakes[~pure]).sum()
    log_permutations += _log_choose(pure.sum(), (fakes[pure] > 0).sum())
    return float(np.exp(-min(log_permutations, np.log(1e6))))


def _log_choose(n: ArrayLike, k: ArrayLike) -> Floats:
    n, k = np.asarray(n), np.asarray(k)
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def _statistics(values: Mapping[str, pd.DataFrame]) -> tuple[Floats, NDArray[np.str_]]:
    """[N, D] ranks of every column in [-1, 1], and how far from the middle they lie; [D] the family of each.

    The second kind sees a class whose values are spread less, about the same middle.
    """
    columns: list[Floats] = []
    owner: list[str] = []
    for family, frame in values.items():
        for name in frame:
            column = frame[name].to_numpy(dtype=np.float64)
            unknown = np.isnan(column)
            known = column[~unknown]
            rank = np.zeros(len(column))
            if len(known):
                rank[~unknown] = (2 * rankdata(known) - 1 - len(known)) / len(known)
            for one in (rank, np.abs(rank), unknown.astype(np.float64)):
                if one.max() - one.min() > 1e-9:
                    columns.append(one - one.mean())
                    owner.append(family)
    return (np.stack(columns, axis=1) if columns else np.zeros((0, 0))), np.array(owner, dtype=np.str_)
