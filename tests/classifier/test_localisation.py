"""The pointing game, IoU at equal area, their baseline and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from classifier.explanation import centred_box, clustered_mean, iou, localisation, pointing


def square(top: int, left: int, side: int, size: int = 32) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_figures_of_maps_whose_answer_is_known() -> None:
    mask = square(4, 4, 8)
    assert (pointing(mask * 1.0, mask), iou(mask * 1.0, mask)) == (1, 1)
    shifted = square(4, 8, 8) * 1.0  # half of it covered
    assert iou(shifted, mask) == pytest.approx(32 / (128 - 32))
    assert pointing(shifted, mask) == 0.5
    assert pointing(1.0 * square(20, 20, 2), mask) == 0
    assert pointing(np.zeros((32, 32)), mask) == pytest.approx(mask.mean())


def test_the_centred_box_has_the_masks_area() -> None:
    centred = square(12, 12, 8)
    assert iou(centred_box(centred), centred) == 1
    assert pointing(centred_box(centred), centred) == 1
    assert iou(centred_box(square(0, 0, 8)), square(0, 0, 8)) == 0


def test_a_map_that_knows_beats_the_box_and_one_that_does_not_is_the_box() -> None:
    random = np.random.default_rng(0)
    masks = [square(*random.integers(0, 24, 2), 8) for _ in range(30)]
    maps = {"oracle": [mask * 1.0 for mask in masks], "middle": [centred_box(mask) for mask in masks]}
    rows = {(row["method"], row["figure"]): row for row in localisation(maps, masks, np.arange(30) // 2)}
    assert rows["oracle", "iou"]["value"].value == 1
    assert rows["oracle", "iou"]["difference"].low > 0
    assert rows["middle", "iou"]["difference"].value == 0
    assert rows["oracle", "pointing"]["groups"] == 15
    assert rows["oracle", "pointing"]["n"] == 30


def test_the_interval_counts_groups_and_not_pictures() -> None:
    random = np.random.default_rng(1)
    own = random.uniform(size=40)
    once = clustered_mean(own, np.arange(40))
    reference = own.std(ddof=1) / np.sqrt(40)
    assert once.high - once.value == pytest.approx(2.0227 * reference, rel=1e-3)
    copied = clustered_mean(np.repeat(own, 10), np.repeat(np.arange(40), 10))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    rare = clustered_mean([1.0] + [0.0] * 9, np.arange(10))
    assert (rare.low, rare.value) == (0, 0.1)  # a share is never below nothing
    assert clustered_mean([1.0] * 9 + [0.0], np.arange(10)).high == 1
    assert clustered_mean([-1.0] * 9 + [0.0], np.arange(10), least=-1.0).low == -1
    assert np.isnan(clustered_mean([1.0, 0.0], ["a", "a"]).low)
    assert np.isnan(clustered_mean([], []).value)
