"""Does ingest read public datasets as their authors meant them? A miniature of each, made by code, and its truth.

Each miniature is ingested with the defaults: the layout is recognised, faces are found, and every row of the manifest
is compared with what the authors' rules say of its file: label, method, source, persons, original, split and frame.
Then the person graph is looked over for leaks: no person, source or original in two splits, but for persons under an
official split, which are counted. FaceForensics++ is also read at its full size, by names alone.

Beside it stand the same names under rules that are in wide use: videos known by their name alone, by which the 140 real
and 560 fake test videos of four methods become 280; and a split by the target person alone, which tears fakes from the
real videos of the person swapped in. (A known benchmark also puts each video of DeepFakeDetection into all splits.)
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from miniatures import MINIATURES, Maker, Truth, ffpp
from record import hand_over, hardware, say, versions

from core.groups import persons_of
from core.splits import split_of
from faces.extraction import IngestConfig
from faces.ingest import ingest
from faces.survey import survey

FACTS = ("label", "method", "source", "persons", "original", "split", "frame")
FOUR = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
FULL = (360, 70, 70)  # pairs in the authors' lists


def main() -> None:
    """Make, ingest, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the record here")
    parser.add_argument("--layouts", nargs="+", choices=list(MINIATURES), default=list(MINIATURES))
    parser.add_argument("--pairs", type=int, nargs=3, default=FULL, help="of FaceForensics++ by names alone")
    options = parser.parse_args()
    started = time.perf_counter()
    machine = hardware("cpu", 1)
    with tempfile.TemporaryDirectory() as folder:
        found = {name: one(name, Path(folder) / name) for name in options.layouts}
        names = full_size(Path(folder) / "names", tuple(options.pairs))
    right = all(each["right"][fact] == each["rows"] for each in found.values() for fact in FACTS)
    whole = all(each["files_with_rows"] == each["files"] and not each["leaks"] for each in found.values())
    hand_over(
        {
            "benchmark": "layouts",
            "hardware": machine,
            "versions": versions("pandas", "pillow", "av"),
            "seconds": round(time.perf_counter() - started, 1),
            "layouts": found,
            "ffpp_by_names": names,
            "reached": right and whole and names["leaks"] == 0 and names["wrong_splits"] == 0,
        },
        options.out,
    )


def one(name: str, root: Path) -> dict[str, Any]:
    """Ingest a miniature and compare it."""
    maker = Maker(root)
    MINIATURES[name](maker)
    config = IngestConfig(dataset=name, device="cpu")
    say(f"{name}: {len(maker.truths)} files")
    manifest = ingest(root, root.with_name(f"{name}-out"), config)
    seen = survey(root, config)
    truths = {truth.path: truth for truth in maker.truths}
    no_val = not any(truth.split == "val" for truth in truths.values())
    right, wrong = dict.fromkeys(FACTS, 0), []
    covered = set()
    for row in manifest.rows.to_dict("records"):
        truth = _of(row["path"], truths)
        covered.add(truth.path)
        for fact in FACTS:
            if _is_right(fact, row, truth, no_val):
                right[fact] += 1
            else:
                wrong.append(f"{truth.path}: {fact} {row.get(fact)!r}")
    return {
        "recognised": seen.layout.name == name,
        "because": seen.because,
        "splits": seen.splits,
        "files": len(truths),
        "files_with_rows": len(covered),
        "rows": len(manifest),
        "right": right,
        "wrong": wrong[:10],
        "rejected": len(seen.rejected),
        "ignored": sum(seen.ignored.values()),
        "leaks": leaks(manifest.rows, seen.splits == "official"),
        "persons_in_two_splits": _spread(persons_of(manifest.rows["identity"]), manifest.rows["split"]),
    }


def _of(crop: str, truths: dict[str, Truth]) -> Truth:
    """The file that a crop was cut from: `crops/FILE/N.png`."""
    return truths[crop.removeprefix("crops/").rpartition("/")[0]]


def _is_right(fact: str, row: dict[str, Any], truth: Truth, no_val: bool) -> bool:
    if fact == "persons":
        return set(truth.persons) == (set() if pd.isna(row["identity"]) else set(row["identity"].split(";")))
    if fact == "split":
        if truth.split is None:  # ours to choose
            return True
        return row["split"] == truth.split or (no_val and truth.split == "train" and row["split"] == "val")
    if fact == "frame":
        return truth.frame is None or row["frame"] == truth.frame
    value = row[fact]
    return getattr(truth, fact) == (None if pd.isna(value) else value)


def leaks(rows: pd.DataFrame, official: bool) -> int:
    """Persons, sources and originals that stand in two splits; of an official split, sources alone."""
    count = _spread(rows["source"], rows["split"])
    if official:
        return count
    both = pd.concat([rows["source"], rows["original"].dropna()])
    return _spread(both, rows["split"]) + _spread(persons_of(rows["identity"]), rows["split"])


def _spread(values: pd.Series, split: pd.Series) -> int:
    frame = pd.DataFrame({"value": values.to_numpy(), "split": split.loc[values.index].to_numpy()}).dropna()
    return int(frame.drop_duplicates()["value"].duplicated().sum())


def full_size(root: Path, counts: tuple[int, ...]) -> dict[str, Any]:
    """FaceForensics++ by its names alone, under the authors' lists and under other rules."""
    maker = Maker(root, content=False)
    ffpp(maker, (counts[0], counts[1], counts[2]), FOUR)
    started = time.perf_counter()
    found = survey(root)
    seconds = time.perf_counter() - started
    truths = {truth.path: truth for truth in maker.truths}
    split = {entry.path: entry.split for entry in found.entries}
    people: dict[str, set[str | None]] = defaultdict(set)
    for entry in found.entries:
        for person in entry.persons:
            people[person].add(entry.split)
    test = [entry for entry in found.entries if entry.split == "test"]
    disjoint = survey(root, IngestConfig(splits="person-disjoint"))
    return {
        "videos": len(found.entries),
        "seconds": round(seconds, 2),
        "wrong_splits": sum(split[path] != truth.split for path, truth in truths.items()),
        "leaks": sum(len(splits) > 1 for splits in people.values()),
        "videos_by_split": pd.Series(list(split.values())).value_counts().to_dict(),
        "person_disjoint_left_out": int(disjoint.counts()["none"].sum()),
        "test_videos": len(test),
        "test_sources": len({entry.source for entry in test}),
        "test_videos_known_by_name_alone": len({Path(entry.path).stem for entry in test}),
        "pairs_torn_by_a_split_of_targets": _torn(truth for truth in truths.values() if truth.method == FOUR[0]),
    }


def _torn(fakes: Iterable[Truth]) -> int:
    """Fakes whose split, by a hash of the target, is not that of the real video of the person swapped in."""
    return sum(split_of(fake.persons[0]) != split_of(fake.persons[1]) for fake in fakes)


if __name__ == "__main__":
    main()
