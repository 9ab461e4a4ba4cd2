"""The Deepfake Detection Challenge (Dolhansky et al., 2020) and its preview (2019)."""

from __future__ import annotations

import re
from typing import Any

from core.errors import UserError
from faces.layouts.base import Entry, Evidence, Options, Rule, Skip, Tree, label_of

_PART = re.compile(r"(?:^|.*/)dfdc_train_part_(\d+)(?:/.*)?", re.IGNORECASE)


class DFDC:
    """Parts of the training set with their `metadata.json`, and a test set with its `labels.csv`."""

    name = "dfdc"
    title = "Deepfake Detection Challenge"
    example = (
        "dfdc_train_part_0/metadata.json      {file: {label: REAL|FAKE, original: file}}\n"
        "dfdc_train_part_0/aaqaifqrwn.mp4\n"
        "test/labels.csv                      (filename,label; 1 is fake)\n"
        "test/aalscayrfi.mp4"
    )
    official: str | None = "the numbers of the parts (0-34 train, 35-39 val, 40-49 test), or the test set's labels.csv"

    def recognise(self, tree: Tree) -> Evidence:
        lists = {file.rpartition("/")[0] for file in tree.named("metadata.json")}
        parts = [match[0] for match in tree.folders_like(r"(?:dfdc_train_part_\d+|train_sample_videos)")]
        tests = [file for file in tree.named("labels.csv") if _is_test(tree, file)]
        missing = [
            f"{part}/metadata.json with the labels"
            for part in parts
            if not any(folder == part or folder.startswith(f"{part}/") for folder in lists)
        ]
        found = [f"{folder}/metadata.json" for folder in sorted(lists & set(parts))] or parts
        return Evidence((*found[:3], *tests), tuple(missing[:3])) if found or tests else Evidence()

    def rule(self, tree: Tree, _options: Options) -> Rule:
        train: dict[str, tuple[str, dict[str, Any]]] = {}  # path -> (folder, record)
        for file in tree.named("metadata.json"):
            folder = file.rpartition("/")[0]
            records = tree.read_json(file)
            if not isinstance(records, dict):
                raise UserError(f"{tree.root / file} is not a table of files: download it again")
            train |= {f"{folder}/{name}".lstrip("/"): (folder, record) for name, record in records.items()}
        test: dict[tuple[str, str], str] = {}  # (folder of the list, name) -> label
        for file in tree.named("labels.csv"):
            if _is_test(tree, file):
                for row in tree.read_csv(file, ("filename", "label")):
                    test[file.rpartition("/")[0], row["filename"]] = _one_is_fake(row["label"], f"{tree.root / file}")

        def classify(path: str) -> Entry | Skip:
            folder, _, name = path.rpartition("/")
            if name.lower() in ("metadata.json", "labels.csv"):
                return Skip("lists of the layout", known=True)
            if path in train:
                return _train(path, *train[path])
            while True:
                if (folder, name) in test:
                    label = test[folder, name]
                    method = "pristine" if label == "real" else "DFDC"
                    return Entry(path=path, label=label, method=method, source=f"test/{name}", split="test")
                if not folder:
                    return Skip("neither metadata.json nor labels.csv names it")
                folder = folder.rpartition("/")[0]

        return classify


class DFDCPreview:
    """`dataset.json` names each video's label and split; the first folder of its path is the method."""

    name = "dfdc-preview"
    title = "Deepfake Detection Challenge, preview"
    example = (
        "dataset.json                         {path: {label: real|fake, set: train|test}}\n"
        "original_videos/1224068/1224068_A_0.mp4\n"
        "method_A/1224068/1224068_1530366_A_0.mp4"
    )
    official: str | None = "dataset.json"

    def recognise(self, tree: Tree) -> Evidence:
        folders = [name for name in ("original_videos", "method_A", "method_B") if tree.folders_like(name)]
        lists = tree.named("dataset.json")
        if not folders:
            return Evidence()
        missing = [] if lists else ["dataset.json with labels and sets"]
        if "original_videos" not in folders:
            missing.append("original_videos with the real videos")
        elif len(folders) == 1:
            missing.append("method_A or method_B with the fakes")
        return Evidence((*lists[:1], *folders), tuple(missing))

    def rule(self, tree: Tree, _options: Options) -> Rule:
        file = next(iter(tree.named("dataset.json")), None)
        records = tree.read_json(file) if file is not None else {}
        if file is None or not isinstance(records, dict):
            raise UserError(f"{tree.root} has no dataset.json that is a table of files: download it again")
        table: dict[str, Any] = records
        prefix = file[: -len("dataset.json")]

        def classify(path: str) -> Entry | Skip:
            if path.rpartition("/")[2].lower() == "dataset.json":
                return Skip("lists of the layout", known=True)
            name = path.removeprefix(prefix)
            listed = table.get(name)
            record: dict[str, Any] = listed if isinstance(listed, dict) else {}
            label = label_of(str(record.get("label")))
            if label is None:
                return Skip("dataset.json does not name it with a label real or fake")
            persons = {str(record[key]) for key in ("target_id", "swapped_id") if record.get(key)}
            return Entry(
                path=path, label=label, method="pristine" if label == "real" else name.partition("/")[0],
                source=name, persons=frozenset(persons), split=_of_set(record.get("set")),
            )  # fmt: skip

        return classify


def _train(path: str, folder: str, record: dict[str, Any]) -> Entry | Skip:
    label = label_of(str(record.get("label")))
    if label is None:
        return Skip(f"metadata.json gives it the label {record.get('label')!r}")
    part = _PART.fullmatch(path)
    number = int(part[1]) if part else None
    place = f"part_{number}" if number is not None else folder.rpartition("/")[2] or "train"
    original = record.get("original") if label == "fake" else None
    return Entry(
        path=path, label=label, method="pristine" if label == "real" else "DFDC",
        source=f"{place}/{path.rpartition('/')[2]}", original=f"{place}/{original}" if original else None,
        split=None if number is None else "train" if number < 35 else "val" if number < 40 else "test",
    )  # fmt: skip


def _is_test(tree: Tree, file: str) -> bool:
    header = tree.read_text(file).partition("\n")[0].lower()
    return {"filename", "label"} <= set(re.split(r"[,;\t\s]+", header.strip()))


def _one_is_fake(value: str, where: str) -> str:
    """The test set's label: 1 is fake, 0 is real."""
    try:
        return {0.0: "real", 1.0: "fake"}[float(value)]
    except (ValueError, KeyError):
        raise UserError(f"{where} has the label {value!r}, which is neither 0 nor 1: download it again") from None


def _of_set(word: object) -> str | None:
    return {"train": "train", "test": "test", "val": "val", "validation": "val"}.get(str(word).lower())
