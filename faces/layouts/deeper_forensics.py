"""DeeperForensics-1.0 (Jiang et al., CVPR 2020): fakes of FaceForensics++'s videos."""

from __future__ import annotations

import re

from core.errors import UserError
from core.manifest import SPLITS
from faces.layouts.base import Entry, Evidence, Options, Rule, Skip, Tree, video_or_frame

_FAKE = re.compile(r"(?:^|.*/)manipulated_videos/(?P<variant>[^/]+)/(?P<rest>.+)", re.IGNORECASE)
_REAL = re.compile(
    r"(?:^|.*/)original_sequences/youtube/(?P<compression>raw|c0|c23|c40)/(?:videos|frames|images)/(?P<rest>.+)",
    re.IGNORECASE,
)
_NAME = re.compile(r"(\d{3})_([MW]\d{3})")


class DeeperForensics:
    """Fakes `TTT_Mddd`: the face of an actor on FaceForensics++'s video T, whose c23 version is the real one."""

    name = "deeper-forensics"
    title = "DeeperForensics-1.0"
    example = (
        "manipulated_videos/end_to_end/000_M101.mp4\n"
        "lists/splits/train.txt, val.txt, test.txt\n"
        "original_sequences/youtube/c23/videos/000.mp4   (from FaceForensics++; the authors' real counterpart)"
    )
    official: str | None = "lists/splits/train.txt, val.txt and test.txt"

    def recognise(self, tree: Tree) -> Evidence:
        if not tree.folders_like("manipulated_videos"):
            return Evidence()
        reals = "original_sequences/youtube/c23"
        if not tree.folders_like(reals):
            return Evidence(
                ("manipulated_videos",),
                (f"{reals}/videos of FaceForensics++ (copied or linked), the real videos instead of source_videos",),
            )
        return Evidence(("manipulated_videos", reals))

    def rule(self, tree: Tree, _options: Options) -> Rule:
        split_of, split_of_target = _official(tree)

        def classify(path: str) -> Entry | Skip:
            if re.fullmatch(r"(?:^|.*/)lists/.+", path, re.IGNORECASE):
                return Skip("lists of the layout", known=True)
            if re.fullmatch(r"(?:^|.*/)source_videos/.+", path, re.IGNORECASE):
                return Skip("the actors' own recordings are not the counterpart of the fakes, as the authors say")
            real, fake = _REAL.fullmatch(path), _FAKE.fullmatch(path)
            match = real or fake
            video = video_or_frame(match["rest"]) if match else None
            if match is None or video is None:
                return Skip("it stands outside the folders of deeper-forensics")
            name, frame = video
            if real:
                if real["compression"].lower() != "c23":
                    return Skip(f"its compression is {real['compression']}, and c23 is taken, as the authors say")
                if not re.fullmatch(r"\d{3}", name):
                    return Skip("its name does not follow deeper-forensics")
                return Entry(
                    path=path, label="real", method="pristine", source=f"youtube/{name}", persons=frozenset({name}),
                    split=split_of_target.get(name), frame=frame,
                )  # fmt: skip
            pair, variant = _NAME.fullmatch(name), match["variant"]
            if pair is None:
                return Skip("its name does not follow deeper-forensics")
            return Entry(
                path=path, label="fake", method=variant, source=f"{variant}/{name}", persons=frozenset(pair.groups()),
                original=f"youtube/{pair[1]}", split=split_of.get(name), frame=frame,
            )  # fmt: skip

        return classify


def _official(tree: Tree) -> tuple[dict[str, str], dict[str, str]]:
    """Split of each fake, whatever its variant, and of each target; empty where one of the lists is not there."""
    lists = {
        split: [file for file in tree.named(f"{split}.txt") if file.lower().endswith(f"splits/{split}.txt")]
        for split in SPLITS
    }
    if not all(lists.values()):
        return {}, {}
    fakes: dict[str, str] = {}
    targets: dict[str, str] = {}
    for split, files in lists.items():
        for line in tree.read_text(files[0]).split():
            match = _NAME.fullmatch(line.rpartition("/")[2].partition(".")[0])
            if match is None:
                raise UserError(f"{tree.root / files[0]}: {line!r} is not like 000_M101.mp4: download the list again")
            fakes[match[0]] = split
            if targets.setdefault(match[1], split) != split:
                raise UserError(f"{match[1]} stands in {targets[match[1]]}.txt and {split}.txt: download both again")
    return fakes, targets
