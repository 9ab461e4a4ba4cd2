"""Labels dealt out anew: what stays together, exact error rates in clean sets, and power against small differences."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from metrics.permutation import differences, fewest, relabelled


def test_frames_of_a_video_keep_one_label_and_counts_stay_in_a_group() -> None:
    groups = np.repeat(["a", "b", "c"], 6)
    sources = np.array([f"{g}{i // 2}" for g in "abc" for i in range(6)])
    targets = np.array([1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    dealt = relabelled(targets, groups, sources, 200, seed=0)
    assert (dealt[:, ::2] == dealt[:, 1::2]).all()
    assert (dealt[:, :6].sum(1) == 2).all()
    assert (dealt[:, 6:12].sum(1) == 4).all()
    assert dealt[:, :6].std(0).min() > 0
    assert (dealt[:, 12:] == 0).all()  # the only group of one label has nobody to change with


def test_groups_of_one_label_change_as_a_whole() -> None:
    groups = np.repeat(np.arange(10), [1, 2, 3, 4, 5, 1, 2, 3, 4, 5])
    targets = (groups >= 5).astype(int)
    dealt = relabelled(targets, groups, np.arange(30), 300, seed=1)
    assert all((dealt[:, groups == g].std(1) == 0).all() for g in range(10))
    assert all(
        (np.unique(row[[0, 1, 3, 6, 10, 15, 16, 18, 21, 25]], return_counts=True)[1] == 5).all() for row in dealt
    )


@pytest.mark.parametrize("pure", [True, False])
def test_clean_sets_are_called_different_as_often_as_claimed(pure: bool) -> None:
    random, early, runs = np.random.default_rng(4), 0, 300
    groups = np.repeat(np.arange(24), 4)
    for seed in range(runs):
        targets = random.permutation(np.repeat([0, 1], 12))[groups] if pure else np.tile([0, 1], 48)
        likeness = random.normal(size=(24, 6))[groups]
        frame = pd.DataFrame(likeness + random.normal(size=(96, 6)))
        found = differences(
            {"x": frame.iloc[:, :2], "y": frame.iloc[:, 2:]}, targets, groups, np.arange(96), permutations=99, seed=seed
        )
        early += min(found.values()) <= 0.1
    assert 0.05 <= early / runs <= 0.16  # 0.1 give or take 3.4 standard errors


def test_a_shift_and_a_spread_are_found_in_their_own_family() -> None:
    random = np.random.default_rng(5)
    groups, targets = np.repeat(np.arange(40), 10), np.tile([0, 1], 200)
    shift = pd.DataFrame({"a": random.normal(size=400) + 0.4 * targets})
    spread = pd.DataFrame({"b": random.normal(size=400) * (1 + 0.6 * targets)})
    gaps = pd.DataFrame({"c": np.where((random.random(400) < 0.3) & (targets == 1), np.nan, random.normal(size=400))})
    clean = pd.DataFrame({"d": random.normal(size=400)})
    values = {"shift": shift, "spread": spread, "gaps": gaps, "clean": clean, "none": pd.DataFrame(index=range(400))}
    found = differences(values, targets, groups, np.arange(400), permutations=499)
    assert found["shift"] == found["spread"] == found["gaps"] == 1 / 500
    assert found["clean"] > 0.05
    assert found["none"] == 1
    assert differences({"none": values["none"]}, targets, groups, np.arange(400)) == {"none": 1.0}


def test_the_smallest_possible_p() -> None:
    groups, sources = np.array(["a", "a", "b", "b", "c"]), np.arange(5)
    assert fewest(np.array([0, 1, 0, 1, 1]), groups, sources) == pytest.approx(1 / 4)  # two mixed groups of two
    assert fewest(np.array([0, 0, 0, 0, 1]), groups, sources) == pytest.approx(1 / 3)  # which of three is the fake one
    assert fewest(np.tile([0, 1], 50), np.arange(100) // 2, np.arange(100)) == pytest.approx(1e-6)
