"""DeepfakeTIMIT (Korshunov, Marcel, 2018), whose real videos are VidTIMIT's (Sanderson, Lovell, 2009)."""

from __future__ import annotations

import re

from faces.layouts.base import Entry, Evidence, Options, Rule, Skip, Tree, frame_number

_FAKE = re.compile(r"(?:^|.*/)(?P<quality>lower|higher)_quality/(?P<person>[^/]+)/(?P<name>[^/]+)\.avi", re.IGNORECASE)
_REAL = re.compile(r"(?:^|.*/)(?P<person>[mf][a-z0-9]{4})/video/(?P<name>[^/]+)/(?P<frame>[^/]+)", re.IGNORECASE)


class DeepfakeTIMIT:
    """Everything below `lower_quality` and `higher_quality` is fake; persons are folders."""

    name = "deepfake-timit"
    title = "DeepfakeTIMIT with VidTIMIT"
    example = (
        "higher_quality/fadg0/sa1-video-fram1.avi\n"
        "lower_quality/fadg0/sa1-video-fram1.avi\n"
        "VidTIMIT/fadg0/video/sa1/001         (VidTIMIT's frames, one folder a video)\n"
        "pairs.txt                            (two persons a line that were swapped, if you have the authors' list)"
    )
    official: str | None = None

    def recognise(self, tree: Tree) -> Evidence:
        fakes = [name for name in ("lower_quality", "higher_quality") if tree.folders_like(name)]
        reals = tree.folders_like(r"[mf][a-z0-9]{4}/video")
        if not fakes:
            return Evidence()
        if not reals:
            return Evidence(
                tuple(fakes), ("the real videos, VidTIMIT's PERSON/video/* (a copy or a link, in any folder)",)
            )
        return Evidence((*fakes, "PERSON/video/*"))

    def rule(self, tree: Tree, _options: Options) -> Rule:
        swapped: dict[str, set[str]] = {}
        for file in tree.named("pairs.txt"):
            for line in tree.read_text(file).lower().splitlines():
                names = re.findall(r"[mf][a-z0-9]{4}", line)
                for name in names:
                    swapped.setdefault(name, set()).update(names)

        def classify(path: str) -> Entry | Skip:
            if path.rpartition("/")[2].lower() == "pairs.txt":
                return Skip("lists of the layout", known=True)
            if path.lower().endswith(".wav"):
                return Skip("sound beside the videos", known=True)
            fake, real = _FAKE.fullmatch(path), _REAL.fullmatch(path)
            if fake:
                person, quality = fake["person"].lower(), fake["quality"].lower()
                video = fake["name"].partition("-")[0].lower()
                return Entry(
                    path=path, label="fake", method=f"faceswap-{quality}-quality",
                    source=f"{quality}_quality/{person}/{fake['name']}",
                    persons=frozenset({person, *swapped.get(person, ())}), original=f"VidTIMIT/{person}/{video}",
                )  # fmt: skip
            number = frame_number(real["frame"]) if real else None
            if real is None or number is None:
                return Skip("it stands outside the folders of deepfake-timit")
            person = real["person"].lower()
            return Entry(
                path=path, label="real", method="pristine", source=f"VidTIMIT/{person}/{real['name'].lower()}",
                persons=frozenset({person}), frame=number,
            )  # fmt: skip

        return classify
