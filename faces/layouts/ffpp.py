"""FaceForensics++ (Rössler et al., ICCV 2019) and DeepFakeDetection (Dufour, Gully, 2019), which share one tree."""

from __future__ import annotations

import re

from core.errors import UserError
from core.manifest import SPLITS
from faces.layouts.base import Entry, Evidence, Options, Rule, Skip, Tree, video_or_frame

_METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
_FILE = re.compile(
    r"(?:^|.*/)(?P<sequences>original|manipulated)_sequences/(?P<method>[^/]+)/(?P<compression>raw|c0|c23|c40)/"
    r"(?P<kind>[^/]+)/(?P<rest>.+)",
    re.IGNORECASE,
)
_BESIDE = re.compile(r"(?:^|.*/)(masks|models|landmarks|audio)/.+", re.IGNORECASE)
_COMPRESSIONS = ("raw", "c23", "c40")
_LISTS = tuple(f"{split}.json" for split in SPLITS)


class FaceForensics:
    """Fakes `TTT_SSS`: the face of S on the target video T, so both are persons of it."""

    name = "ffpp"
    title = "FaceForensics++"
    example = (
        "original_sequences/youtube/c23/videos/000.mp4\n"
        "manipulated_sequences/Deepfakes/c23/videos/000_003.mp4\n"
        "train.json, val.json, test.json      (the official split, in any folder)"
    )
    official: str | None = "train.json, val.json and test.json of the authors (dataset/splits of their repository)"

    def recognise(self, tree: Tree) -> Evidence:
        return _evidence(tree, "youtube", _METHODS)

    def rule(self, tree: Tree, options: Options) -> Rule:
        compression = _compression(tree, "youtube", _METHODS, options)
        split_of = _official(tree)
        methods = {name.lower(): name for name in _METHODS}

        def classify(path: str) -> Entry | Skip:
            match, skip = _parse(path, compression, self.name)
            if match is None:
                return skip
            method, (name, frame) = match
            if method == "youtube" and re.fullmatch(r"\d{3}", name):
                source = f"youtube/{name}"
                return Entry(
                    path=path, label="real", method="pristine", source=source, persons=frozenset({name}),
                    split=split_of.get(name), frame=frame,
                )  # fmt: skip
            pair = re.fullmatch(r"(\d{3})_(\d{3})", name)
            if method not in methods or not pair:
                return _stranger(method, self.name)
            target, swapped_in = pair.groups()
            split = split_of.get(target)
            return Entry(
                path=path, label="fake", method=methods[method], source=f"{methods[method]}/{name}",
                persons=frozenset({target, swapped_in}), original=f"youtube/{target}",
                split=split if split == split_of.get(swapped_in) else None, frame=frame,
            )  # fmt: skip

        return classify


class DeepFakeDetection:
    """Fakes `TT_SS__scene__XXXXXXXX`: the face of actor S on T's video of a scene."""

    name = "dfd"
    title = "DeepFakeDetection (Google and Jigsaw)"
    example = (
        "original_sequences/actors/c23/videos/01__exit_phone_room.mp4\n"
        "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__exit_phone_room__YVGY8LOK.mp4"
    )
    official: str | None = None

    def recognise(self, tree: Tree) -> Evidence:
        return _evidence(tree, "actors", ("DeepFakeDetection",))

    def rule(self, tree: Tree, options: Options) -> Rule:
        compression = _compression(tree, "actors", ("DeepFakeDetection",), options)

        def classify(path: str) -> Entry | Skip:
            match, skip = _parse(path, compression, self.name)
            if match is None:
                return skip
            method, (name, frame) = match
            real = re.fullmatch(r"(\d{2})__(.+)", name)
            if method == "actors" and real:
                return Entry(
                    path=path, label="real", method="pristine", source=f"actors/{name}",
                    persons=frozenset({real[1]}), frame=frame,
                )  # fmt: skip
            fake = re.fullmatch(r"(\d{2})_(\d{2})__(.+)__[A-Za-z0-9]+", name)
            if method != "deepfakedetection" or not fake:
                return _stranger(method, self.name)
            target, swapped_in, scene = fake.groups()
            return Entry(
                path=path, label="fake", method="DeepFakeDetection", source=f"DeepFakeDetection/{name}",
                persons=frozenset({target, swapped_in}), original=f"actors/{target}__{scene}", frame=frame,
            )  # fmt: skip

        return classify


def _evidence(tree: Tree, real: str, methods: tuple[str, ...]) -> Evidence:
    real_folder = f"original_sequences/{real}"
    reals = tree.folders_like(real_folder)
    fakes = [method for method in methods if tree.folders_like(f"manipulated_sequences/{method}")]
    found = [real_folder] * bool(reals) + [f"manipulated_sequences/{method}" for method in fakes]
    if not found:
        return Evidence()
    missing = [] if reals else [f"{real_folder}/c23/videos with the real videos"]
    if not fakes:
        missing.append(f"manipulated_sequences/{methods[0]}/c23/videos or another method with the fakes")
    return Evidence(tuple(found), tuple(missing))


def _compression(tree: Tree, real: str, methods: tuple[str, ...], options: Options) -> str:
    """The compression that is asked for, or the only one that is there."""
    own = "|".join((real, *methods))
    there = [match[1].lower() for match in tree.folders_like(rf"(?:\w+)_sequences/(?:{own})/(raw|c0|c23|c40)")]
    known = [name for name in _COMPRESSIONS if name in there or (name == "raw" and "c0" in there)]
    if options.compression is not None:
        if options.compression not in known:
            raise UserError(
                f"{tree.root} has no videos of compression {options.compression}, only {', '.join(known) or 'none'}: "
                "choose one of those with --compression"
            )
        return options.compression
    if len(known) > 1:
        raise UserError(f"{tree.root} holds the compressions {' and '.join(known)}: choose one with --compression")
    return known[0] if known else "c23"


def _parse(path: str, compression: str, layout: str) -> tuple[tuple[str, tuple[str, int | None]] | None, Skip]:
    """Lower-case folder of the method, with the video's name and the frame; or why there is none."""
    if _BESIDE.fullmatch(path):
        return None, Skip("masks, models, landmarks and sound", known=True)
    if path.rpartition("/")[2].lower() in (*_LISTS, "filelist.json", "conversion_dict.json"):
        return None, Skip("lists of the layout", known=True)
    match = _FILE.fullmatch(path)
    if match is None:
        return None, Skip(f"it stands outside the folders of {layout}")
    if match["compression"].lower().replace("c0", "raw") != compression:
        return None, Skip(f"its compression is {match['compression']}, and {compression} is taken")
    video = video_or_frame(match["rest"]) if match["kind"].lower() in ("videos", "frames", "images") else None
    if video is None:
        return None, Skip(f"it is neither a video nor a numbered frame of one in the folders of {layout}")
    return (match["method"].lower(), video), Skip("")


def _stranger(method: str, layout: str) -> Skip:
    other = {"actors": "dfd", "deepfakedetection": "dfd", "youtube": "ffpp"} | {
        name.lower(): "ffpp" for name in _METHODS
    }
    if other.get(method, layout) != layout:
        return Skip(f"it belongs to another dataset: ingest it with --layout {other[method]}")
    return Skip(f"its name or folder does not follow {layout}")


def _official(tree: Tree) -> dict[str, str]:
    """Person -> split, from the authors' lists of pairs; empty where one of the three lists is not there."""
    lists = {split: tree.named(f"{split}.json") for split in SPLITS}
    if not all(lists.values()):
        return {}
    result: dict[str, str] = {}
    for split, files in lists.items():
        for pair in tree.read_json(files[0]):
            if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)):
                raise UserError(f"{tree.root / files[0]} is not a list of pairs of names: download it again")
            for name in pair:
                if result.setdefault(name, split) != split:
                    raise UserError(f"{name} stands in {result[name]}.json and in {split}.json: download both again")
    return result
