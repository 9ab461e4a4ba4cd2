"""Splits that never leak: by a hash of the group's name, so that adding data never moves an old row.

The group of a row is its identity, or else its source. Rows that share either one fall into the same split.
Near-duplicates that the hash put on two sides are taken away from one side (the less precious: train, then val).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

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
    existing: pd.DataFrame | None = None,
    seed: int = 0,
    shares: Shares = DEFAULT_SHARES,
) -> pd.Series:
    """Splits for new rows beside rows that already have one.

    Args:
        identity: [N] nullable strings.
        source: [N] strings.
        existing: rows with the columns identity, source and split, which stay as they are.

    Returns:
        [N] train | val | test; <NA> where a row ties together old rows of two splits (it must be rejected).
    """
    old = (
        existing if existing is not None else pd.DataFrame({"identity": [], "source": [], "split": []}, dtype="string")
    )
    identities = pd.concat([old["identity"], identity], ignore_index=True).astype("string")
    sources = pd.concat([old["source"], source], ignore_index=True).astype("string")
    component = _components(identities, sources)
    names = identities.fillna(sources)
    first = names.groupby(component).min()
    hashed = first.map(lambda name: split_of(str(name), seed, shares))
    result = pd.Series(component).map(hashed).astype("string")
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


def folds(identity: pd.Series, source: pd.Series, count: int, seed: int = 0) -> NDArray[np.int64]:
    """[N] fold 0..count-1 of each row, by a hash of its group's name: rows that share either go together.

    Adding rows moves no old one, as with the splits.
    """
    names = identity.astype("string").fillna(source.astype("string"))
    component = _components(identity.astype("string"), source.astype("string"))
    first = names.groupby(component).min()
    hashed = first.map(lambda name: _place(f"fold/{seed}/{name}") * count // 2**64)
    return pd.Series(component).map(hashed).to_numpy(dtype=np.int64)


def _place(text: str) -> int:
    """A whole number below 2**64 that is decided by the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _components(identities: pd.Series, sources: pd.Series) -> NDArray[np.int32]:
    """[N] the connected component of each row in the graph of rows, identities and sources."""
    n = len(sources)
    source_code = pd.factorize(sources)[0]
    identity_code = pd.factorize(identities)[0]  # -1 where there is none
    rows = np.arange(n)
    known = identity_code >= 0
    left = np.concatenate([rows, rows[known]])
    right = np.concatenate([n + source_code, 2 * n + identity_code[known]])
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(3 * n, 3 * n))
    labels: NDArray[np.int32] = connected_components(graph, directed=False)[1][:n]
    return labels


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
