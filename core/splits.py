"""Splits that never leak: by a hash of the group's name, so that adding data never moves an old row.

The group of a row is its identity, or else its source. Rows that share either one fall into the same split.
Near-duplicates that the hash put on two sides are taken away from one side (the less precious: train, then val).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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


def near_duplicates(hashes: Sequence[int] | NDArray[np.uint64], max_distance: int = MAX_DISTANCE) -> NDArray[np.int64]:
    """Pairs [P, 2] of indices (i < j) whose 64-bit perceptual hashes differ in at most `max_distance` bits.

    Compares in blocks, so that memory stays at some tens of megabytes.
    """
    values = np.asarray(hashes, dtype=np.uint64)
    pairs: list[NDArray[np.int64]] = []
    block = max(1, 4_000_000 // max(len(values), 1))
    for start in range(0, len(values), block):
        rows = values[start : start + block]
        distance = np.bitwise_count(rows[:, None] ^ values[None, start:])
        i, j = np.nonzero(distance <= max_distance)
        later = j > i
        pairs.append(np.stack([i[later] + start, j[later] + start], axis=1))
    return np.concatenate(pairs) if pairs else np.zeros((0, 2), dtype=np.int64)


def leaking(
    split: Sequence[str] | pd.Series,
    pairs: NDArray[np.int64],
    protected: NDArray[np.bool_] | None = None,
) -> dict[int, int]:
    """Rows to reject, each with the row that it repeats, so that no near-duplicate pair spans two splits.

    Of a pair the row of the less precious split goes (train before val before test), but never a `protected` one
    (an old row) while its partner is new.
    """
    splits = list(split)
    old = np.zeros(len(splits), dtype=bool) if protected is None else protected
    rejected: dict[int, int] = {}
    spanning = [(int(i), int(j)) for i, j in pairs if splits[int(i)] != splits[int(j)]]
    # The most precious rows speak first, so that one decision does not depend on the order of the pairs.
    spanning.sort(key=lambda pair: sorted((not old[k], _PRECIOUS[splits[k]], k) for k in pair))
    for i, j in spanning:
        if i in rejected or j in rejected:
            continue
        keep, drop = sorted((i, j), key=lambda k: (not old[k], _PRECIOUS[splits[k]], k))
        rejected[drop] = keep
    return rejected
