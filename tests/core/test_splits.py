"""Properties of the splits, over generated families of rows: nothing leaks, and nothing old moves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.groups import OFFICIAL, PERSON_DISJOINT, groups_of, persons_of, split_notes
from core.splits import assign, folds, leaking, near_values, official, person_disjoint, split_of

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


def facts(rows: list[tuple[set[str], str, str | None]], split: list[str | None] | None = None) -> pd.DataFrame:
    """Persons, source, original and the authors' split of rows."""
    frame = pd.DataFrame(
        [{"identity": ";".join(sorted(who)) or None, "source": source, "original": made} for who, source, made in rows]
    )
    return frame.assign(split=split if split is not None else pd.NA).astype("string")


def spread(frame: pd.DataFrame, split: pd.Series) -> list[str]:
    """Persons, sources and originals that stand in two splits."""
    found = []
    for values in (persons_of(frame["identity"]), pd.concat([frame["source"], frame["original"].dropna()])):
        both = pd.DataFrame({"value": values, "split": split.loc[values.index].to_numpy()}).dropna().drop_duplicates()
        found += both.loc[both["value"].duplicated(), "value"].tolist()
    return found


OF_SEVERAL = st.lists(
    st.tuples(
        st.sets(st.sampled_from([f"p{i}" for i in range(9)]), max_size=2),
        st.sampled_from([f"v{i}" for i in range(20)]),
        st.one_of(st.none(), st.sampled_from([f"v{i}" for i in range(20)])),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(OF_SEVERAL, OF_SEVERAL)
def test_rows_of_several_persons_leak_nothing(
    old: list[tuple[set[str], str, str | None]], new: list[tuple[set[str], str, str | None]]
) -> None:
    before, more = facts(old), facts(new)
    existing = before.assign(split=assign(before["identity"], before["source"], original=before["original"]))
    split = assign(more["identity"], more["source"], original=more["original"], existing=existing)
    both = pd.concat([existing, more.assign(split=split)], ignore_index=True).dropna(subset=["split"])
    assert spread(both, both["split"]) == []


TIED = [({f"p{i}"}, f"real{i}", None) for i in range(12)] + [
    ({f"p{i}", f"p{(i + 1) % 12}"}, f"fake{i}", f"real{i}") for i in range(12)
]


def test_persons_tied_together_are_cut_between_them() -> None:
    """Rows of persons of two splits are left out, no person stands in two splits, and groups are videos."""
    rows = facts(TIED)
    split = person_disjoint(rows)
    assert split[:12].tolist() == [split_of(f"p{i}") for i in range(12)]
    assert split[12:].isna().any()
    assert split[12:].notna().any()
    assert spread(rows, split) == []
    kept = rows.assign(split=split, dataset="d", split_by=PERSON_DISJOINT).dropna(subset=["split"])
    assert groups_of(kept).nunique() == kept["source"].str.extract(r"(\d+)")[0].nunique()
    assert "its groups are videos, not persons" in split_notes(kept)[0]


def test_persons_that_are_not_tied_together_are_split_whole() -> None:
    rows = facts(
        [({"a", "b"}, "1", None), ({"a"}, "2", None), ({"b"}, "3", None), ({"c"}, "4", None), (set(), "5", "2")]
    )
    split = person_disjoint(rows)
    assert split.tolist() == [split_of("5")] * 3 + [split_of("c"), split_of("5")]


def test_an_official_split_without_val_gets_one_from_its_train_rows() -> None:
    """By video where persons tie it together; a fake goes with its original, and test rows stay."""
    rows = facts(TIED * 5, ["test" if i % 12 == 3 else "train" for i in range(24)] * 5)
    split = official(rows)
    assert (split[rows["split"] == "test"] == "test").all()
    counts = split.value_counts()
    assert counts["val"] > 0
    train = rows[rows["split"] == "train"]
    assert spread(train.assign(identity=pd.NA), split[train.index]) == []
    kept = rows.assign(split=split, dataset="d", split_by=OFFICIAL)
    assert groups_of(kept).nunique() == 12
    with_val = facts([({"a"}, "1", None), (set(), "2", None)], ["val", None])
    assert official(with_val).isna().tolist() == [False, True]


def test_folds_keep_a_fake_with_both_persons_and_its_original() -> None:
    rows = facts(
        [({f"p{i}", f"q{i}"} if i % 2 else {f"p{i}"}, f"v{i}", f"v{i - 1}" if i % 2 else None) for i in range(200)]
    )
    fold = pd.Series(folds(rows["identity"], rows["source"], 5, original=rows["original"]))
    assert set(fold) == {0, 1, 2, 3, 4}
    assert spread(rows, fold) == []


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
