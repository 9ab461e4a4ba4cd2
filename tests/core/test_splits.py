"""Properties of the splits, over generated families of rows: nothing leaks, and nothing old moves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.splits import assign, leaking, near_values, split_of

PEOPLE = st.one_of(st.none(), st.sampled_from([f"person-{i}" for i in range(6)]))
ROWS = st.lists(st.tuples(PEOPLE, st.sampled_from([f"photo-{i}" for i in range(12)])), min_size=1, max_size=40)


def series(rows: list[tuple[str | None, str]]) -> tuple[pd.Series, pd.Series]:
    return (
        pd.Series([identity for identity, _ in rows], dtype="string"),
        pd.Series([source for _, source in rows], dtype="string"),
    )


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(0, 5))
def test_no_identity_and_no_source_stands_in_two_splits(rows: list[tuple[str | None, str]], seed: int) -> None:
    identity, source = series(rows)
    split = assign(identity, source, seed=seed)
    frame = pd.DataFrame({"identity": identity, "source": source, "split": split})
    for column in ("identity", "source"):
        assert frame.dropna(subset=[column]).groupby(column)["split"].nunique().le(1).all()


@settings(max_examples=150, deadline=None)
@given(ROWS, ROWS, st.integers(0, 5))
def test_adding_rows_moves_no_old_row_and_leaks_nothing(
    old: list[tuple[str | None, str]], new: list[tuple[str | None, str]], seed: int
) -> None:
    identity, source = series(old)
    existing = pd.DataFrame({"identity": identity, "source": source, "split": assign(identity, source, seed=seed)})
    before = existing.copy()
    more_identity, more_source = series(new)
    split = assign(more_identity, more_source, existing=existing, seed=seed)
    pd.testing.assert_frame_equal(existing, before)
    both = pd.concat(
        [existing, pd.DataFrame({"identity": more_identity, "source": more_source, "split": split})], ignore_index=True
    ).dropna(subset=["split"])
    for column in ("identity", "source"):
        assert both.dropna(subset=[column]).groupby(column)["split"].nunique().le(1).all()


@given(st.text(min_size=1), st.integers(0, 100))
def test_the_split_of_a_name_depends_on_nothing_else(name: str, seed: int) -> None:
    assert split_of(name, seed) == split_of(name, seed)


def test_shares_are_reached_over_many_names() -> None:
    counts = pd.Series([split_of(f"name-{i}", shares=(0.5, 0.3, 0.2)) for i in range(20_000)]).value_counts() / 20_000
    assert counts["train"] == pytest.approx(0.5, abs=0.015)
    assert counts["val"] == pytest.approx(0.3, abs=0.015)


def test_a_row_that_ties_two_splits_together_gets_none() -> None:
    existing = pd.DataFrame({"identity": ["a", "b"], "source": ["1", "2"], "split": ["train", "test"]}, dtype="string")
    split = assign(pd.Series(["a"], dtype="string"), pd.Series(["2"], dtype="string"), existing=existing)
    assert split.isna().all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_near_values_are_those_of_the_plain_loop(data: st.DataObject) -> None:
    distance = data.draw(st.integers(0, 8))
    values = sorted(set(data.draw(st.lists(st.integers(0, 2**64 - 1), max_size=20))))
    for value in values[:10]:  # neighbours of some, a few bits away
        bits = data.draw(st.sets(st.integers(0, 63), max_size=9))
        values.append(value ^ sum(1 << bit for bit in bits))
    values = sorted(set(values))
    wanted = [
        [i, j]
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if (values[i] ^ values[j]).bit_count() <= distance
    ]
    assert near_values(np.array(values, dtype=np.uint64), distance).tolist() == wanted


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_after_rejection_no_near_duplicates_span_two_splits(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 25))
    splits = data.draw(st.lists(st.sampled_from(["train", "val", "test"]), min_size=n, max_size=n))
    hashes = data.draw(st.lists(st.integers(0, 31), min_size=n, max_size=n))
    old = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    rejected = leaking(splits, hashes, old, 1)
    for i in range(n):
        for j in range(i + 1, n):
            if splits[i] != splits[j] and (hashes[i] ^ hashes[j]).bit_count() <= 1:
                assert i in rejected or j in rejected
    for dropped, kept in rejected.items():
        assert kept not in rejected
        assert old[kept] or not old[dropped]
        assert (hashes[dropped] ^ hashes[kept]).bit_count() <= 1


def test_the_test_split_is_the_last_to_lose_a_row() -> None:
    assert leaking(["train", "test", "val"], [5, 5, 5]) == {0: 1, 2: 1}


def test_thousands_of_equal_hashes_are_one_decision() -> None:
    splits = ["train", "test"] * 10_000
    assert set(leaking(splits, [7] * 20_000).values()) == {1}
