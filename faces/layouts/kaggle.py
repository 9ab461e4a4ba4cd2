"""Two sets of pictures from Kaggle whose folders are their split: deepfake-and-real-images, and 140k faces."""

from __future__ import annotations

import re

from core.errors import UserError
from faces.layouts.base import Entry, Evidence, Options, Rule, Skip, Tree, paths_below

_SPLIT_OF = {"train": "train", "validation": "val", "valid": "val", "test": "test"}


class _SplitFolders:
    """Pictures in `SPLIT/LABEL`, the label and the split in any case."""

    name: str
    validation: str  # what this set calls its val folder
    method: str

    def recognise(self, tree: Tree) -> Evidence:
        pattern = rf"(?P<split>train|{self.validation}|test)/(?P<label>real|fake)"
        pairs = {(match["split"].lower(), match["label"].lower()) for match in tree.folders_like(pattern)}
        if not pairs:
            return Evidence()
        wanted = [(split, label) for split in ("train", self.validation, "test") for label in ("real", "fake")]
        missing = [f"{split}/{label}" for split, label in wanted if (split, label) not in pairs]
        if self.validation in [split for split, _ in pairs]:
            return Evidence(
                tuple(f"{split}/{label}" for split, label in wanted if (split, label) in pairs), tuple(missing)
            )
        return Evidence(("train and test with real and fake",), tuple(missing))

    def rule(self, tree: Tree, _options: Options) -> Rule:
        listed = _one_is_real(tree)
        pattern = re.compile(
            rf"(?:^|.*/)(?P<key>(?P<split>train|{self.validation}|test)/(?P<label>real|fake)/[^/]+)", re.IGNORECASE
        )

        def classify(path: str) -> Entry | Skip:
            if re.fullmatch(r"(?:^|.*/)(?:train|valid|validation|test)\.csv", path, re.IGNORECASE):
                return Skip("lists of the layout", known=True)
            match = pattern.fullmatch(path)
            if match is None:
                return Skip(f"it stands outside the folders of {self.name}")
            label, key = match["label"].lower(), match["key"].lower()
            if listed.get(key, label) != label:
                raise UserError(
                    f"{tree.root / path} stands in a folder {label}, but the CSV says {listed[key]} (1 is real): "
                    "download the set again"
                )
            return Entry(
                path=path, label=label, method="pristine" if label == "real" else self.method,
                source=match["key"], split=_SPLIT_OF[match["split"].lower()],
            )  # fmt: skip

        return classify


class DeepfakeAndReal(_SplitFolders):
    """Crops of OpenForensics's faces."""

    name = "kaggle-deepfake-and-real"
    title = "Kaggle: deepfake-and-real-images (manjilkarki)"
    example = "Dataset/Train/Real/real_0.jpg\nDataset/Validation/Fake/fake_0.jpg\nDataset/Test/Real/real_0.jpg"
    official: str | None = "the folders Train, Validation and Test"
    validation = "validation"
    method = "OpenForensics"


class Faces140k(_SplitFolders):
    """FFHQ's photographs against StyleGAN's faces; the CSVs say 1 for real."""

    name = "kaggle-140k"
    title = "Kaggle: 140k real and fake faces (xhlulu)"
    example = (
        "real_vs_fake/real-vs-fake/train/real/31355.jpg\n"
        "real_vs_fake/real-vs-fake/valid/fake/HOHP6BFBX3.jpg\n"
        "real_vs_fake/real-vs-fake/test/real/31355.jpg\n"
        "train.csv, valid.csv, test.csv       (label 1 is real)"
    )
    official: str | None = "the folders train, valid and test"
    validation = "valid"
    method = "StyleGAN"


def _one_is_real(tree: Tree) -> dict[str, str]:
    """Path below the split, in lower case -> label, from CSV files whose `label` is 1 for real."""
    result: dict[str, str] = {}
    for match in paths_below(tree.files, r"(?:train|valid|test)\.csv"):
        for row in tree.read_csv(match[0], ("path", "label")):
            if row["label"] not in ("0", "1"):
                raise UserError(f"{tree.root / match[0]} has the label {row['label']!r}, which is neither 0 nor 1")
            result["/".join(row["path"].lower().split("/")[-3:])] = "real" if row["label"] == "1" else "fake"
    return result
