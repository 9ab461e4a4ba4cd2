"""Groups: the rows that may never stand in two splits, because they share a person, a source or an original.

A fake made of two persons belongs to both, so it ties their groups together; the groups are the connected components
of the graph of rows, persons, sources and originals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# A component with more than this share of all rows leaves too little to test on.
SWALLOWS = 0.5
OFFICIAL, HASH, PERSON_DISJOINT = "official", "hash", "person-disjoint"
OVERLAPPING = "official-overlapping"  # an official split that has persons in test who are in train or val too


def persons_of(identity: pd.Series) -> pd.Series:
    """Each person of each row: the values of `identity`, split at ";", with the rows' own index repeated."""
    known = identity.astype("string").dropna()
    if not known.str.contains(";", regex=False).any():
        return known
    each = known.str.split(";").explode().astype("string").str.strip()
    return each[each != ""]


def components(identity: pd.Series, source: pd.Series, original: pd.Series | None = None) -> NDArray[np.int64]:
    """[N] the number of the connected component of each row.

    Args:
        identity: [N] nullable strings, several persons joined by ";".
        source: [N] strings.
        original: [N] nullable strings, each the `source` that a row was made from, whether that has a row or not.
    """
    n = len(source)
    persons = persons_of(identity.reset_index(drop=True))
    made = original.reset_index(drop=True).dropna() if original is not None else pd.Series([], dtype="string")
    names = pd.concat([source.reset_index(drop=True), made]).astype("string")
    source_code, sources = pd.factorize(names)
    person_code, people = pd.factorize(persons)
    left = np.concatenate([np.arange(n), made.index.to_numpy(dtype=np.int64), persons.index.to_numpy(dtype=np.int64)])
    right = np.concatenate([n + source_code, n + len(sources) + person_code])
    size = n + len(sources) + len(people)
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(size, size))
    result: NDArray[np.int64] = connected_components(graph, directed=False)[1][:n].astype(np.int64)
    return result


def groups_of(rows: pd.DataFrame) -> pd.Series:
    """[N] the unit of splits and of the bootstrap for rows of a manifest, with the rows' own index.

    It is the identity, or else the source; where rows have several persons or name an original, the first name of
    their connected component. Where persons tie more than half of a dataset together and it is not split by a hash,
    rows are grouped by video instead (source and original): one group would leave nothing to draw from.
    """
    identity, source = rows["identity"].astype("string"), rows["source"].astype("string")
    original = rows["original"].astype("string") if "original" in rows else None
    several = identity.str.contains(";", regex=False).fillna(False).any()
    if not several and (original is None or original.isna().all()):
        return identity.fillna(source)
    identity = grouping_identity(rows)
    found = names(identity, source, components(identity, source, original))
    found.index = rows.index
    return found


def is_official(rows: pd.DataFrame) -> pd.Series:
    """[N] whether a row stands in the split of its dataset's authors."""
    return rows["split_by"].isin([OFFICIAL, OVERLAPPING])


def grouping_identity(rows: pd.DataFrame) -> pd.Series:
    """[N] the persons by which rows are grouped: `identity`, empty where `groups_of` groups by video."""
    identity = rows["identity"].astype("string")
    if "split_by" in rows:
        own = rows["split_by"].notna()
        for dataset, one in rows[own].groupby("dataset", sort=False):
            if tied_by_persons(one["identity"], one["source"], one.get("original")):
                identity = identity.mask(own & (rows["dataset"] == dataset))
    return identity


def shared_persons(rows: pd.DataFrame) -> set[str]:
    """Persons that stand in test and in train or val."""
    identity = rows["identity"].astype("string").reset_index(drop=True)
    test = (rows["split"] == "test").to_numpy(dtype=bool)
    return set(persons_of(identity[test])) & set(persons_of(identity[~test]))


def split_notes(rows: pd.DataFrame) -> list[str]:
    """A sentence for each dataset whose splits are not made by a hash alone, for all who read figures of its rows."""
    notes = []
    for dataset, one in rows[rows["split_by"].notna()].groupby("dataset", sort=False):
        kind = one["split_by"].iloc[0]
        note = f"{dataset} is split " + (
            "by persons (person-disjoint)" if kind == PERSON_DISJOINT else "as its authors did (official)"
        )
        if kind == OVERLAPPING:
            note += (
                ", with persons in test who are in train or val too: its figures are partly those of known persons, "
                "compare with --splits person-disjoint"
            )
        if tied_by_persons(one["identity"], one["source"], one["original"]):
            note += "; fakes of several persons tie its rows together, so that its groups are videos, not persons"
        notes.append(note)
    return notes


def names(identity: pd.Series, source: pd.Series, component: NDArray[np.int64]) -> pd.Series:
    """[N] the name of each row's group: the first, in the alphabet, of its persons, and of sources without persons."""
    identity, source = identity.reset_index(drop=True), source.reset_index(drop=True)
    candidates = pd.concat([persons_of(identity), source[identity.isna()]]).astype("string")
    first = candidates.groupby(component[candidates.index.to_numpy(dtype=np.int64)]).min()
    return pd.Series(component).map(first).astype("string")


@dataclass(frozen=True)
class Tied:
    """The component of several persons that holds more than half of all rows."""

    rows: NDArray[np.bool_]  # [N] whether a row belongs to it
    persons: int

    def __str__(self) -> str:
        return (
            f"{self.persons} persons are tied together by the fakes made of them, in {self.rows.mean():.0%} of all rows"
        )


def tied_by_persons(identity: pd.Series, source: pd.Series, original: pd.Series | None = None) -> Tied | None:
    """The component of three or more persons, tied by rows of several, that holds more than half of all rows."""
    if not len(source) or not identity.astype("string").str.contains(";", regex=False).any():
        return None
    component = components(identity, source, original)
    rows = component == int(np.bincount(component).argmax())
    inside = identity.reset_index(drop=True)[rows]
    persons = persons_of(inside).nunique()
    if rows.mean() <= SWALLOWS or persons <= 2 or not inside.str.contains(";", regex=False).any():
        return None
    return Tied(rows, persons)
