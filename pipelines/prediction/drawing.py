"""What a prediction looks like: a picture with its boxes and saliency map, a video's time line and telling frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from classifier.explanation import explain
from core.figures import PlainFigure
from core.files import atomic, digest
from faces.detection import Pixels, crop_square
from faces.media import UnreadableError, read_frames, read_image
from pipelines.prediction.media_faces import PredictConfig, resized
from pipelines.prediction.model import ServedModel
from pipelines.prediction.predict import FilePrediction, FoundFace

_COLOURS = {"fake": "#c0203c", "real": "#1a7f4b", "uncertain": "#b07800"}
_TELLING = 6  # frames of a video that are shown
_AROUND = 0.6  # share of the box's side shown at each end of it
Heat = NDArray[np.float32]


def draw(said: FilePrediction, model: ServedModel, out: Path, config: PredictConfig) -> Path | None:
    """Write the picture of a prediction into the folder `out`; None where the file shows no face or is gone.

    Its name is the file's stem, as far as it is plain, and a hash of the path.
    """
    if not said.faces:
        return None
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(said.path).stem)[:60]
    target = out / f"{stem}-{digest(said.path, length=8)}.png"
    try:
        figure = _picture(said, model, config) if said.kind == "image" else _video(said, model, config)
    except UnreadableError:
        return None
    with atomic(target) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return target


def saliency(pixels: Pixels, faces: Sequence[FoundFace], model: ServedModel, config: PredictConfig) -> Heat:
    """[H, W] in [0, 1]: Grad-CAM for the logit of "fake" of every face, laid over the frame [H, W, 3]."""
    heat = np.zeros(pixels.shape[:2], dtype=np.float32)
    squares = [_square(pixels, face, config) for face in faces]
    cut = [resized(pixels[y : y + height, x : x + width], model.image_size) for x, y, width, height in squares]
    images = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2)
    for (x, y, width, height), own in zip(squares, explain(model.network, images, "grad-cam"), strict=True):
        enlarged = torch.nn.functional.interpolate(
            torch.from_numpy(own)[None, None], (height, width), mode="bilinear", align_corners=False
        )
        part = heat[y : y + height, x : x + width]
        np.maximum(part, enlarged[0, 0].numpy(), out=part)
    return heat


def _square(pixels: Pixels, face: FoundFace, config: PredictConfig) -> tuple[int, int, int, int]:
    height, width = pixels.shape[:2]
    if config.already_cropped:
        return 0, 0, width, height
    x, y, side = crop_square((height, width), face.box, config.margin)
    return x, y, side, side


def _picture(said: FilePrediction, model: ServedModel, config: PredictConfig) -> Figure:
    pixels = read_image(Path(said.path)).pixels
    height, width = pixels.shape[:2]
    figure = PlainFigure(figsize=(11, 5.5 * min(max(height / width, 0.5), 1.6) + 0.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _boxed(left, pixels, said.faces)
    heat = saliency(pixels, said.faces, model, config)
    right.imshow(pixels.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    right.imshow(heat, cmap="inferno", alpha=0.6 * heat, vmin=0, vmax=1)
    right.set_title("saliency map for the fake logit (Grad-CAM)", fontsize=9)
    for panel in (left, right):
        panel.set_axis_off()
    figure.suptitle(_headline(said), fontsize=11)
    return figure


def _video(said: FilePrediction, model: ServedModel, config: PredictConfig) -> Figure:
    telling = sorted(said.faces, key=lambda face: -face.likelihood)[:_TELLING]
    by_frame = {face.frame: face for face in reversed(telling)}
    found: list[tuple[FoundFace, Pixels]] = []
    try:
        for frame in read_frames(Path(said.path), config.every_seconds, config.max_frames):
            if frame.index in by_frame:
                found.append((by_frame[frame.index], frame.pixels))
    except UnreadableError:  # the part that could be read was judged, and is shown
        pass
    figure = PlainFigure(figsize=(11, 5), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.1))[:, 0]
    panels = upper.subplots(1, max(len(found), 1), squeeze=False)[0]
    for panel, (face, pixels) in zip(panels, found, strict=False):
        _boxed(panel, pixels, [face])
        x, y, width, height = _square(pixels, face, config.model_copy(update={"margin": _AROUND}))
        panel.set(xlim=(x, x + width), ylim=(y + height, y))
        panel.set_title(f"{face.time_s:.1f} s", fontsize=8)
    for panel in panels:
        panel.set_axis_off()
    timeline(lower.subplots(), said, model)
    figure.suptitle(_headline(said), fontsize=11)
    return figure


def timeline(axes: Axes, said: FilePrediction, model: ServedModel) -> None:
    """P(fake) of each track over time, with the threshold and the band in which the model abstains."""
    for track in sorted({face.track for face in said.faces}):
        own = [face for face in said.faces if face.track == track]
        axes.plot(
            [face.time_s or 0 for face in own], [face.likelihood for face in own], ".-", label=f"face {track + 1}"
        )
    if model.band is not None and model.band.low < model.band.high:
        axes.axhspan(*model.band, color="#999999", alpha=0.2, label="abstains")
    axes.axhline(model.threshold, color="#333333", linestyle="--", linewidth=1, label="threshold")
    axes.set(ylim=(-0.02, 1.02), xlabel="seconds", ylabel="P(fake)")
    axes.legend(fontsize=8, loc="upper right", ncols=4)


def _boxed(axes: Axes, pixels: Pixels, faces: Sequence[FoundFace]) -> None:
    axes.imshow(pixels)
    for face in faces:
        left, top, right, bottom = face.box
        colour = _COLOURS[face.verdict]
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=2))
        axes.text(left, top, f" {face.likelihood:.2f} ", color="white", backgroundcolor=colour, fontsize=7, va="bottom")


def _headline(said: FilePrediction) -> str:
    interval = "" if said.low is None else f" [{said.low:.2f}, {said.high:.2f}]"
    return f"{Path(said.path).name[:80]}: {said.verdict}, P(fake) {said.likelihood:.2f}{interval}, {said.model}"
