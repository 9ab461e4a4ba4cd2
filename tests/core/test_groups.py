"""Groups: connected components of rows, persons, sources and originals."""

from __future__ import annotations

import numpy as np
import pandas as pd

from core.groups import components, names, persons_of, tied_by_persons


def column(*values: str | None) -> pd.Series:
    return pd.Series(values, dtype="string")


def test_a_fake_of_two_persons_joins_both() -> None:
    identity = column("000", "003", "000;003", "007", None)
    found = components(identity, column("a", "b", "c", "d", "e"))
    assert found[0] == found[1] == found[2]
    assert len(set(found[[0, 3, 4]])) == 3


def test_an_original_is_a_source_whether_it_has_a_row_or_not() -> None:
    identity = column(None, None, None, None)
    found = components(identity, column("real", "fake1", "fake2", "fake3"), column(None, "real", "gone", "gone"))
    assert found[0] == found[1]
    assert found[2] == found[3] != found[0]


def test_a_person_and_a_source_of_one_name_are_two_things() -> None:
    found = components(column("a", None), column("x", "a"))
    assert found[0] != found[1]


def test_names_are_those_of_single_persons_as_ever() -> None:
    identity, source = column("s2", "s1", None, "s2;s1", None), column("v1", "v2", "v3", "v4", "v4")
    assert list(names(identity, source, components(identity, source))) == ["s1", "s1", "v3", "s1", "s1"]
    single = column("s2", "s1", None)
    assert list(names(single, source[:3], components(single, source[:3]))) == ["s2", "s1", "v3"]


def test_rows_keep_their_order_under_any_index() -> None:
    identity = pd.Series(["b", "a;b", None], index=[7, 3, 3], dtype="string")
    source = pd.Series(["x", "y", "z"], index=[7, 3, 3], dtype="string")
    assert list(names(identity, source, components(identity, source))) == ["a", "a", "z"]


def test_persons_are_split_and_empty_ones_dropped() -> None:
    assert list(persons_of(column("a; b", None, "c;"))) == ["a", "b", "c"]


def test_a_component_that_swallows_the_set_is_told() -> None:
    identity = column("a;b", "b;c", "c;d", "e", None)
    source = column("1", "2", "3", "4", "5")
    found = tied_by_persons(identity, source)
    assert found is not None
    assert found.persons == 4
    assert str(found) == "4 persons are tied together by the fakes made of them, in 60% of all rows"
    assert np.array_equal(found.rows, [True, True, True, False, False])


def test_pairs_and_single_persons_swallow_nothing() -> None:
    one = column("a", "a", "a")
    assert tied_by_persons(one, column("1", "2", "3")) is None
    pair = column("a;b", "a", "b")
    assert tied_by_persons(pair, column("1", "2", "3")) is None
    assert tied_by_persons(column(), column()) is None
