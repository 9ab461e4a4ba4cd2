"""Splits that never leak: by a hash of the group's name, so that adding data never moves an old row.

The group of a row is its identity, or else its source (see `core.groups`). Rows that share a person, a source or an
original fall into the same split.
Near-duplicates that the hash put on two sides are taken away from one side (the less precious: train, then val).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.groups import components, names, persons_of, tied_by_persons
from core.manifest import SPLITS

Shares = tuple[float, float, float]
DEFAULT_SHARES: Shares = (0.6, 0.2, 0.2)
# Of 64 bits; re-encoded and resized copies of a photograph differ by at most 4 or so, other faces by 20 and more.
MAX_DISTANCE = 4
_PRECIOUS = {"test": 0, "val": 1, "train": 2}


def split_of(group: str, seed: int = 0, shares: Shares = DEFAULT_SHARES) -> str:
    """The split of a group, from nothing but its name, the seed and the shares of train, val and test."""
    digest = hashlib.sha256(f"{seed}/{group}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    edges = np.cumsum(shares) / np.sum(shares)
    return SPLITS[min(int(np.searchsorted(edges, place, side="right")), 2)]


def assign(
    identity: pd.Series,
    source: pd.Series,
    *,
    original: pd.Series | None = None,
    existing: pd.DataFrame | None = None,
    seed: int = 0,
    shares: Shares = DEFAULT_SHARES,
) -> pd.Series:
    """Splits for new rows beside rows that already have one.

    Args:
        identity: [N] nullable strings, several persons joined by ";".
        source: [N] strings.
        original: [N] nullable strings, each the source that a row was made from.
        existing: rows with the columns identity, source and split, and original where they have one, which stay as
            they are.

    Returns:
        [N] train | val | test; <NA> where a row ties together old rows of two splits (it must be rejected).
    """
    old = existing if existing is not None else pd.DataFrame({"identity": [], "source": [], "split": []})
    identities = pd.concat([old["identity"], identity], ignore_index=True).astype("string")
    sources = pd.concat([old["source"], source], ignore_index=True).astype("string")
    none = pd.Series(pd.NA, index=old.index, dtype="string")
    originals = None
    if original is not None:
        originals = pd.concat([old.get("original", none), original], ignore_index=True).astype("string")
    component = components(identities, sources, originals)
    named = names(identities, sources, component)
    hashed = {name: split_of(name, seed, shares) for name in named.unique()}
    result = named.map(hashed).astype("string")
    if len(old):
        settled = pd.DataFrame({"component": component[: len(old)], "split": old["split"].to_numpy()}).drop_duplicates()
        counts = settled.groupby("component")["split"].size()
        kept = settled.drop_duplicates("component").set_index("component")["split"]
        from_old = pd.Series(component).map(kept).astype("string")
        result = from_old.fillna(result)
        torn = pd.Series(component).map(counts).fillna(0).to_numpy() > 1
        result[torn] = pd.NA
    fresh = result.iloc[len(old) :]
    fresh.index = identity.index
    return fresh


def official(
    rows: pd.DataFrame, *, existing: pd.DataFrame | None = None, seed: int = 0, shares: Shares = DEFAULT_SHARES
) -> pd.Series:
    """The authors' splits in the column `split`; where they left no val, part of their train becomes val, by a hash.

    Thresholds and early stopping need val rows. They are taken by group (see `core.groups.groups_of`), so that as few
    persons as may be stand in train and in val.

    Args:
        rows: columns identity, source, original and the authors' split, which is empty where they name none.
        existing: rows of an earlier manifest, which keep their split.

    Returns:
        [N] train | val | test; <NA> where the authors name none.
    """
    result = rows["split"].astype("string")
    if (result == "val").any() or shares[0] + shares[1] <= 0:
        return result
    train = rows[result == "train"]
    identity = train["identity"].astype("string")
    if tied_by_persons(identity, train["source"], train["original"]):
        identity = identity.mask(identity.notna())
    old = existing[existing["split"] != "test"] if existing is not None else None
    if old is not None and identity.isna().all():
        old = old.assign(identity=pd.Series(pd.NA, index=old.index, dtype="string"))
    dealt = assign(
        identity,
        train["source"],
        original=train["original"],
        existing=old,
        seed=seed,
        shares=(shares[0], shares[1], 0.0),
    )
    return result.where(result != "train", dealt.reindex(result.index))


def person_disjoint(
    rows: pd.DataFrame, *, existing: pd.DataFrame | None = None, seed: int = 0, shares: Shares = DEFAULT_SHARES
) -> pd.Series:
    """Splits by group as `assign` makes them; where one group would hold most rows, it is cut between its persons.

    Each person then has a split by a hash of the name, and a row whose persons stand in different splits has none.

    Args:
        rows: columns identity, source and original.
        existing: rows of an earlier manifest, which keep their split unless their group is cut.

    Returns:
        [N] train | val | test; <NA> where the row must be left out.
    """
    tied = tied_by_persons(rows["identity"], rows["source"], rows["original"])
    whole = rows if tied is None else rows[~tied.rows]
    result = assign(
        whole["identity"], whole["source"], original=whole["original"], existing=existing, seed=seed, shares=shares
    )
    if tied is None:
        return result
    cut = rows[tied.rows].reset_index(drop=True)
    persons = persons_of(cut["identity"])
    each = persons.map({name: split_of(name, seed, shares) for name in persons.unique()})
    first, count = each.groupby(level=0).first(), each.groupby(level=0).nunique()
    agreed = first.where(count == 1).reindex(cut.index).astype("string")
    agreed.index = rows.index[tied.rows]
    return pd.concat([result, agreed]).reindex(rows.index)


def folds(
    identity: pd.Series, source: pd.Series, count: int, seed: int = 0, original: pd.Series | None = None
) -> NDArray[np.int64]:
    """[N] fold 0..count-1 of each row, by a hash of its group's name: rows that share either go together.

    Adding rows moves no old one, as with the splits.
    """
    named = names(identity, source, components(identity, source, original))
    hashed = {name: _place(f"fold/{seed}/{name}") * count // 2**64 for name in named.unique()}
    return named.map(hashed).to_numpy(dtype=np.int64)


def _place(text: str) -> int:
    """A whole number below 2**64 that is decided by the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def near_values(values: NDArray[np.uint64], max_distance: int = MAX_DISTANCE) -> NDArray[np.int64]:
    """Pairs [P, 2] of indices (i < j) of distinct 64-bit values that differ in at most `max_distance` bits.

    Multi-index hashing (Norouzi et al. 2012): of `max_distance` + 2 bands of bits two are equal in such a pair, and
    only values with two equal bands are compared. Time and memory grow with the numbers of values and of pairs.
    """
    count = max_distance + 2
    edges = np.linspace(0, 64, count + 1).astype(int)
    bands = [(values >> np.uint64(start)) & np.uint64((1 << int(stop - start)) - 1) for start, stop in pairwise(edges)]
    found = [np.zeros((0, 2), dtype=np.int64)]
    for first, second in combinations(range(count), 2):
        key = (bands[first] << np.uint64(32)) | bands[second] if count < 32 else values
        order = np.argsort(key, kind="stable")
        ordered, apart = key[order], 1
        while apart < len(values):  # neighbours at growing distance in the sorted keys, as long as any two agree
            same = np.flatnonzero(ordered[apart:] == ordered[:-apart])
            if not len(same):
                break
            left, right = order[same], order[same + apart]
            near = np.bitwise_count(values[left] ^ values[right]) <= max_distance
            found.append(np.sort(np.stack([left[near], right[near]], axis=1), axis=1))
            apart += 1
    return np.unique(np.concatenate(found), axis=0)


def leaking(
    split: Sequence[str] | pd.Series,
    hashes: Sequence[int] | NDArray[np.uint64],
    protected: NDArray[np.bool_] | None = None,
    max_distance: int = MAX_DISTANCE,
) -> dict[int, int]:
    """Rows to reject, each with the row that it repeats, so that no two near-duplicates stand in different splits.

    Of two the row of the less precious split goes (train before val before test), but never a `protected` one (an old
    row) while its partner is new.

    Args:
        hashes: [N] perceptual hashes of 64 bits; near-duplicates differ in at most `max_distance` bits.
    """
    values = np.asarray(hashes, dtype=np.uint64)
    old = np.zeros(len(values), dtype=bool) if protected is None else np.asarray(protected, dtype=bool)
    # Rows of one hash, split and age fare alike: one of them speaks for all.
    frame = pd.DataFrame({"hash": values, "split": np.asarray(split, dtype=object), "old": old})
    kind = frame.groupby(["hash", "split", "old"], sort=False).ngroup().to_numpy()
    kinds = frame.drop_duplicates(["hash", "split", "old"])
    rank = [
        (not aged, _PRECIOUS[own], row)
        for row, own, aged in zip(kinds.index, kinds["split"], kinds["old"], strict=True)
    ]
    unique, code = np.unique(kinds["hash"].to_numpy(dtype=np.uint64), return_inverse=True)
    members: list[list[int]] = [[] for _ in unique]
    for number, own in enumerate(code):
        members[own].append(number)
    pairs = [(a, b) for own in members for a, b in combinations(own, 2)]
    pairs += [(a, b) for u, v in near_values(unique, max_distance).tolist() for a in members[u] for b in members[v]]
    splits = kinds["split"].tolist()
    # The most precious rows speak first, so that one decision does not depend on the order of the pairs.
    spanning = sorted(sorted(pair, key=rank.__getitem__) for pair in pairs if splits[pair[0]] != splits[pair[1]])
    spanning.sort(key=lambda pair: [rank[number] for number in pair])
    rejected: dict[int, int] = {}
    for keep, drop in spanning:
        if keep not in rejected and drop not in rejected:
            rejected[drop] = keep
    first = kinds.index.to_numpy()
    return {int(row): int(first[rejected[own]]) for row, own in enumerate(kind.tolist()) if own in rejected}
