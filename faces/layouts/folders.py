"""Plain folders: real/ and fake/, media at any depth, the first folder below fake the method."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping

from core.manifest import LABELS
from faces.layouts.base import Entry, Evidence, Options, Rule, Skip, Tree, frame_number, label_of

_MANY = 20  # folders of pictures with the same numbers: no set of photographs has so many generators
_PICTURE_NAME = re.compile(r".*\.(?:png|jpe?g|jfif|webp|bmp|tiff?)", re.IGNORECASE)
_NUMBERED = re.compile(r"(.*?)(\d+)\.\w+")


class Folders:
    """What anybody can make by hand. A folder of numbered frames is one source."""

    name = "folders"
    title = "plain folders"
    example = (
        "real/alice.mp4                       (any depth)\n"
        "real/video7/0001.png                 (a folder of numbered frames is one video)\n"
        "fake/face-swap/alice.mp4             (the first folder below fake is the method)"
    )
    official: str | None = None

    def recognise(self, tree: Tree) -> Evidence:
        found = [folder for folder in tree.folders if label_of(folder)]
        labels = {folder.lower() for folder in found}
        if not labels:
            return Evidence()
        missing = [f"{label}/ with the {label} pictures and videos" for label in LABELS if label not in labels]
        return Evidence(tuple(f"{folder}/" for folder in found), tuple(missing))

    def rule(self, tree: Tree, options: Options) -> Rule:
        videos = frame_folders(tree, options.frame_folders)

        def classify(path: str) -> Entry | Skip:
            parts = path.split("/")
            label = label_of(parts[0])
            if label is None or len(parts) == 1:
                return Skip("it stands neither in real/ nor in fake/")
            folder = path.rpartition("/")[0]
            is_frame = folder in videos and bool(_PICTURE_NAME.fullmatch(parts[-1]))
            below = parts[1:-1] if not is_frame else parts[1:-2]  # folders that may name the method
            return Entry(
                path=path, label=label, method="pristine" if label == "real" else below[0] if below else "fake",
                source=folder if is_frame else path, frame=frame_number(path) if is_frame else None,
            )  # fmt: skip

        return classify


def frame_folders(tree: Tree, mode: str = "auto") -> set[str]:
    """Folders that are videos taken apart: whose pictures all have numbered names.

    Of a set of photographs that were numbered, `auto` tells them by this: two or more such folders beside each other
    have numbers in common, for each video is counted anew. A folder right below `fake` names the method
    and not a video, unless it begins with the name of a real video, or there are 20 and more.
    """
    if mode == "never":
        return set()
    pictures: dict[str, list[re.Match[str] | None]] = defaultdict(list)
    for file in tree.files:
        folder, _, name = file.rpartition("/")
        if _PICTURE_NAME.fullmatch(name):
            pictures[folder].append(_NUMBERED.fullmatch(name))
    parents = {folder.rpartition("/")[0] for folder in tree.folders}
    numbered: Mapping[str, set[int]] = {
        folder: {int(match[2]) for match in matches if match}
        for folder, matches in pictures.items()
        if len(matches) > 1 and "/" in folder and folder not in parents
        and None not in matches and len({match[1] for match in matches if match}) == 1
    }  # fmt: skip
    if mode == "always":
        return set(numbered)
    beside: dict[str, list[str]] = defaultdict(list)
    for folder in numbered:
        beside[folder.rpartition("/")[0]].append(folder)
    real_names = {folder.rpartition("/")[2] for folder in numbered if label_of(folder.split("/")[0]) == "real"}
    result: set[str] = set()
    for parent, folders in beside.items():
        counts = Counter(number for folder in folders for number in numbered[folder])
        alike = {folder for folder in folders if any(counts[number] > 1 for number in numbered[folder])}
        if label_of(parent) == "fake" and len(alike) < _MANY:
            alike = {folder for folder in folders if _first_word(folder) in real_names}
        result |= alike
    return result


def _first_word(folder: str) -> str:
    """`000` of `fake/000_003`."""
    name = folder.rpartition("/")[2]
    return re.split(r"[_-]", name)[0] if not re.fullmatch(r"[^_-]+", name) else name
