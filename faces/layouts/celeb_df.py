"""Celeb-DF v1 and v2 (Li et al., CVPR 2020)."""

from __future__ import annotations

import re

from core.errors import UserError
from faces.layouts.base import Entry, Evidence, Options, Rule, Skip, Tree, video_or_frame

_LIST = "List_of_testing_videos.txt"
_FILE = re.compile(
    r"(?:^|.*/)(?P<folder>Celeb-real|YouTube-real|Celeb-synthesis)/(?:(?:videos|frames|images)/)?(?P<rest>.+)",
    re.IGNORECASE,
)


class CelebDF:
    """Fakes `idA_idB_NNNN`: the face of B on the video `idA_NNNN`, so both are persons of it."""

    name = "celeb-df"
    title = "Celeb-DF v1 and v2"
    example = (
        "Celeb-real/id0_0000.mp4\n"
        "Celeb-synthesis/id0_id1_0000.mp4\n"
        "YouTube-real/00000.mp4\n"
        "List_of_testing_videos.txt           (the official test; `1 path` is real)"
    )
    official: str | None = "List_of_testing_videos.txt"

    def recognise(self, tree: Tree) -> Evidence:
        found = [name for name in ("Celeb-real", "YouTube-real", "Celeb-synthesis") if tree.folders_like(name)]
        if not any(name.startswith("Celeb") for name in found):
            return Evidence()
        missing = [] if "Celeb-synthesis" in found else ["Celeb-synthesis with the fakes"]
        if found == ["Celeb-synthesis"]:
            missing.append("Celeb-real or YouTube-real with the real videos")
        return Evidence(tuple(found), tuple(missing))

    def rule(self, tree: Tree, _options: Options) -> Rule:
        tested = _test_list(tree)

        def classify(path: str) -> Entry | Skip:
            if path.rpartition("/")[2].lower() == _LIST.lower():
                return Skip("lists of the layout", known=True)
            match = _FILE.fullmatch(path)
            video = video_or_frame(match["rest"]) if match else None
            if match is None or video is None:
                return Skip("it stands outside the folders of celeb-df")
            folder, (name, frame) = match["folder"].lower(), video
            split = None if not tested else "test" if f"{folder}/{name}" in tested else "train"
            single, pair = re.fullmatch(r"(id\d+)_\d+", name), re.fullmatch(r"(id\d+)_(id\d+)_(\d+)", name)
            if folder == "celeb-synthesis" and pair:
                return Entry(
                    path=path, label="fake", method="Celeb-synthesis", source=f"Celeb-synthesis/{name}",
                    persons=frozenset(pair.groups()[:2]), original=f"Celeb-real/{pair[1]}_{pair[3]}",
                    split=split, frame=frame,
                )  # fmt: skip
            if folder == "celeb-real" and single:
                return Entry(
                    path=path, label="real", method="pristine", source=f"Celeb-real/{name}",
                    persons=frozenset({single[1]}), split=split, frame=frame,
                )  # fmt: skip
            if folder == "youtube-real" and name.isdigit():
                return Entry(
                    path=path, label="real", method="pristine", source=f"YouTube-real/{name}", split=split, frame=frame
                )
            return Skip("its name does not follow celeb-df")

        return classify


def _test_list(tree: Tree) -> set[str]:
    """`folder/name` in lower case of the test videos; empty where the list is not there.

    The list says 1 for real and 0 for fake, the other way round than most.
    """
    files = tree.named(_LIST)
    result: set[str] = set()
    for number, line in enumerate(tree.read_text(files[0]).splitlines() if files else [], start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*([01])\s+(?:.*/)?([\w-]+)/([\w-]+)\.\w+\s*", line)
        where = f"{tree.root / files[0]}, line {number}"
        if match is None:
            raise UserError(f"{where}: {line!r} is not like `1 YouTube-real/00170.mp4`: download the list again")
        folder = match[2].lower()
        if (match[1] == "1") != folder.endswith("-real"):
            raise UserError(f"{where}: {line!r} contradicts its folder, as 1 means real: download the list again")
        result.add(f"{folder}/{match[3]}")
    return result
