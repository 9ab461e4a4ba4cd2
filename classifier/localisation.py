"""Whether an explanation points at what was forged: scored against a known blend mask, beside a centred box.

Faces stand in the middle of their crops, and so do most forgeries: a map that always points at the middle looks clever.
The baseline is therefore a centred square of the mask's own area.

    pointing game   whether the map's highest point lies in the mask (Zhang et al. 2018, without their margin)
    IoU             of the mask and as many of the map's highest pixels as the mask has
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from classifier.intervals import Interval

Mask = NDArray[np.bool_]


def pointing(heat: NDArray[np.floating], mask: Mask) -> float:
    """1 where the highest point of the map [S, S] lies in the mask [S, S], else 0; of several, the share that does."""
    highest = heat == heat.max()
    return float(mask[highest].mean())


def iou(heat: NDArray[np.floating], mask: Mask) -> float:
    """Intersection over union, in [0, 1], of the mask and as many of the map's highest pixels.

    Of pixels of one height, which a map without any evidence has everywhere, the earlier in the picture count.
    """
    area = int(mask.sum())
    top = np.zeros(mask.size, dtype=bool)
    top[np.argsort(-heat.ravel(), kind="stable")[:area]] = True
    both = int((top & mask.ravel()).sum())
    return both / (2 * area - both) if area else nan


def centred_box(mask: Mask) -> NDArray[np.float32]:
    """A map [S, S] that is highest in the middle and falls off in squares: its top pixels are a centred box."""
    height, width = mask.shape
    y, x = (np.abs(np.arange(size) - (size - 1) / 2) for size in (height, width))
    return (1 - np.maximum(y[:, None], x[None, :]) / (max(height, width) / 2)).astype(np.float32)


def localisation(
    maps: Mapping[str, Sequence[NDArray[np.floating]]], masks: Sequence[Mask], groups: ArrayLike, level: float = 0.95
) -> list[dict[str, object]]:
    """How well the maps of each method find the masks, with intervals over groups, beside the centred box.

    Args:
        maps: by method, N maps [S, S].
        masks: N, each with a pixel set and a pixel unset.
        groups: [N] identities or sources.

    Returns:
        One row a method and figure: method, figure (pointing, iou), value and box and difference (`Interval`), and n.
    """
    names = np.asarray(groups)
    rows: list[dict[str, object]] = []
    for figure, score in (("pointing", pointing), ("iou", iou)):
        box = np.array([score(centred_box(mask), mask) for mask in masks])
        for method, found in maps.items():
            own = np.array([score(heat, mask) for heat, mask in zip(found, masks, strict=True)])
            rows.append(
                {
                    "method": method,
                    "figure": figure,
                    "value": clustered_mean(own, names, level),
                    "box": clustered_mean(box, names, level),
                    "difference": clustered_mean(own - box, names, level, least=-1.0),
                    "n": len(masks),
                    "groups": len(np.unique(names)),
                }
            )
    return rows


def clustered_mean(values: ArrayLike, groups: ArrayLike, level: float = 0.95, *, least: float = 0.0) -> Interval:
    """The mean of values [N] in [least, 1] with a t interval over their groups [N], cut at those ends.

    It has no ends where there is one group only.

    The variance is that of a ratio of sums over G groups (Liang & Zeger 1986, with the factor G / (G - 1)):
    G / (G - 1) * sum_g (sum_{i in g} (v_i - mean))² / N², with G - 1 degrees of freedom.
    """
    v = np.asarray(values, dtype=np.float64)
    if not len(v):
        return Interval(nan, nan, nan, level)
    mean = float(v.mean())
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(codes, weights=v - mean)
    count = len(sums)
    if count < 2:
        return Interval(mean, nan, nan, level)
    error = sqrt(count / (count - 1) * float((sums**2).sum())) / len(v)
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    return Interval(mean, max(mean - half, least), min(mean + half, 1.0), level)
