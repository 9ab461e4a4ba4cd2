"""From pictures and videos to verdicts: score every face, sum up each file, and say how sure that is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError, one_line
from core.files import append_lines, digest, read_lines
from core.progress import progress_bar
from metrics.intervals import block_bootstrap_mean
from pipelines.prediction.media_faces import Kind, MediaFaces, PredictConfig, face_finder, find_faces
from pipelines.prediction.model import ServedModel, Verdict

_FACES_AT_ONCE = 64  # through the model
_RARE = 0.1  # a track in a smaller share of a video's frames is a passer-by, or no face at all
INTERVALS = {
    "venn-abers": "how often val faces with such a score were fake, by Venn-Abers over the model's val people",
    "block-bootstrap": "how far the mean over this video's frames may move, by a block bootstrap over them",
}


@dataclass(frozen=True)
class FoundFace:
    """One face in one frame; `box` is left, top, right, bottom in pixels of the frame."""

    track: int
    box: tuple[float, float, float, float]
    confidence: float
    likelihood: float  # calibrated P(fake)
    verdict: Verdict
    frame: int | None = None
    time_s: float | None = None


@dataclass(frozen=True)
class FilePrediction:
    """What the model says about one file.

    Attributes:
        likelihood: P(fake) of the face that looks most like a fake: the highest of its tracks' means over frames.
        low, high: see `INTERVALS`; None where there is none.
        reason: why there is no verdict, "" where there is one.
    """

    path: str
    kind: Kind | None
    model: str
    verdict: Verdict
    likelihood: float | None = None
    low: float | None = None
    high: float | None = None
    interval_method: str = ""
    frames: int = 0
    faces: tuple[FoundFace, ...] = ()
    reason: str = ""
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """In JSON's types."""
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> FilePrediction:
        """What `to_json` told; raises what a missing or foreign field raises."""
        faces = tuple(FoundFace(**{**face, "box": tuple(face["box"])}) for face in told["faces"])
        return cls(**{**told, "faces": faces, "warnings": tuple(told["warnings"])})


def list_files(paths: Sequence[Path], *, missing_ok: bool = False) -> list[Path]:
    """The files meant: those named, and all below named folders, sorted; hidden ones only where they are named.

    Raises:
        UserError: there is no file, or, without `missing_ok`, a path does not exist.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if not missing_ok and not os.path.lexists(path):
            raise UserError(f"there is no file or folder {path}: give pictures, videos, or folders of them")
        if not path.is_dir():
            files[path] = None
            continue
        for here, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            files |= dict.fromkeys(Path(here, name) for name in sorted(names) if not name.startswith("."))
    if not files:
        raise UserError(f"there is no file in {', '.join(map(str, paths))}")
    return list(files)


def predict(
    files: Iterable[Path], model: ServedModel, config: PredictConfig | None = None, journal: Path | None = None
) -> Iterator[FilePrediction]:
    """One prediction a file, in order. A file that cannot be read, or shows no face, is a result like any other.

    Args:
        journal: JSON lines of what was said before; a file that has not changed since is not looked at again, as long
            as model and settings are the same.
    """
    config = config or PredictConfig()
    listed = list(files)
    settings = digest(model.digest, model.runtime, config.model_dump_json(exclude={"device"}))
    keys = [digest(settings, str(file.absolute()), *_stamp(file)) for file in listed]
    known = {entry["key"]: entry for entry in read_lines(journal)} if journal else {}
    done = {key: told for key in keys if (told := _known(known.get(key))) is not None}
    fresh = _predicted([file for file, key in zip(listed, keys, strict=True) if key not in done], model, config)
    with progress_bar(len(listed), "predict", "file") as bar:
        for file, key in zip(listed, keys, strict=True):
            said = done.get(key)
            if said is None:
                said = next(fresh)
                if journal is not None:
                    append_lines(journal, [{"key": key, "told": said.to_json()}])
            bar.update()
            yield replace(said, path=str(file), model=model.name)


def predict_file(path: Path, model: ServedModel, config: PredictConfig | None = None) -> FilePrediction:
    """What the model says about one file."""
    return next(predict([path], model, config))


def _known(entry: Any) -> FilePrediction | None:
    try:
        return FilePrediction.of(entry["told"])
    except (KeyError, TypeError):
        return None


def _stamp(file: Path) -> tuple[str, str]:
    try:
        status = file.stat()
    except OSError:
        return "", ""
    return str(status.st_size), str(status.st_mtime_ns)


def _predicted(files: Sequence[Path], model: ServedModel, config: PredictConfig) -> Iterator[FilePrediction]:
    waiting: list[MediaFaces] = []
    if files:
        for done in find_faces(files, model.image_size, config, face_finder(config)):
            waiting += done
            if sum(len(of.crops) for of in waiting) >= _FACES_AT_ONCE:
                yield from _judged(waiting, model, config)
                waiting.clear()
        yield from _judged(waiting, model, config)


def _judged(files: Sequence[MediaFaces], model: ServedModel, config: PredictConfig) -> Iterator[FilePrediction]:
    """Score all faces of the files in batches."""
    crops = [face for of in files for face in of.crops]
    parts = [
        model.logits(np.stack(crops[start : start + _FACES_AT_ONCE])) for start in range(0, len(crops), _FACES_AT_ONCE)
    ]
    logits = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    for of in files:
        own, logits = logits[: len(of.crops)], logits[len(of.crops) :]
        yield sum_up(of, own, model, config)


def sum_up(of: MediaFaces, logits: NDArray[np.float32], model: ServedModel, config: PredictConfig) -> FilePrediction:
    """One file by the logits [N] of its N sightings."""
    path = str(of.path)
    if not of.sightings:
        if of.problem or not of.frames:
            reason = of.problem or "the video has no frames"
            return FilePrediction(path, of.kind, model.name, "unreadable", reason=one_line(reason))
        reason = f"no face of {config.min_face_pixels} pixels and confidence {config.min_confidence:g} was found"
        return FilePrediction(path, of.kind, model.name, "no-face", frames=of.frames, reason=reason)
    scores = model.probabilities(logits).astype(np.float64)
    tracks = np.array([seen.track for seen in of.sightings])
    numbers, counts = np.unique(tracks, return_counts=True)
    lasting = numbers[counts >= min(_RARE * of.frames, counts.max())]
    means = {int(track): float(scores[tracks == track].mean()) for track in lasting}
    worst = max(means, key=lambda track: means[track])
    low, high, method = _interval(logits, model, tracks == worst, scores)
    warnings = []
    if of.problem:
        warnings.append(f"only part of the file could be read: {one_line(of.problem)}")
    if len(means) > 1:
        warnings.append(f"the highest of {len(means)} faces: among many, one looks like a fake more easily by chance")
    if of.kind == "video" and of.frames >= config.max_frames:
        warnings.append(f"only the first {of.frames} sampled frames were looked at (max_frames)")
    faces = tuple(
        FoundFace(
            seen.track,
            tuple(round(side, 1) for side in seen.face.box),  # type: ignore[arg-type]
            round(seen.face.confidence, 4),
            float(score),
            model.verdict(float(score)),
            seen.frame,
            seen.time_s,
        )
        for seen, score in zip(of.sightings, scores, strict=True)
    )
    verdict = model.verdict(means[worst])
    return FilePrediction(
        path, of.kind, model.name, verdict, means[worst], low, high, method, of.frames, faces, "", tuple(warnings)
    )


def _interval(
    logits: NDArray[np.float32], model: ServedModel, rows: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[float | None, float | None, str]:
    if rows.sum() > 1:
        low, high = block_bootstrap_mean(scores[rows])
        return low, high, "block-bootstrap"
    if model.intervals is None or not model.intervals.possible:
        return None, None, ""
    low, high = model.intervals(logits[rows])[0]
    return float(low), float(high), "venn-abers"


def read_path_list(text: str) -> list[Path]:
    """Paths of a list, one a line; empty lines are passed over."""
    return [Path(line) for line in text.splitlines() if line.strip()]


def as_line(said: FilePrediction) -> str:
    """One JSON object on one line."""
    return json.dumps(said.to_json(), allow_nan=False)
