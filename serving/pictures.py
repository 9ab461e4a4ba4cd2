"""Saliency maps as pictures of the service."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from faces.detection import Pixels
from pipelines.prediction.drawing import saliency
from pipelines.prediction.media_faces import PredictConfig
from pipelines.prediction.model import ServedModel
from pipelines.prediction.predict import FoundFace


def faces_at(result: Mapping[str, Any], time_s: float | None) -> list[FoundFace]:
    """The faces of an answer that are explained: of a video those nearest to a time, or to the highest likelihood."""
    faces = result["faces"]
    if result["media"]["kind"] == "video":
        if time_s is None:
            time_s = max(faces, key=lambda face: face["likelihood"])["t_s"]
        time_s = min({face["t_s"] for face in faces}, key=lambda known: abs(known - time_s))
        faces = [face for face in faces if face["t_s"] == time_s]
    return [
        FoundFace(face["track"], tuple(face["box"]), 1.0, face["likelihood"], "uncertain", face["frame"])
        for face in faces
    ]


def heatmap(pixels: Pixels, faces: Sequence[FoundFace], model: ServedModel, config: PredictConfig) -> bytes:
    """A transparent PNG of the frame's size [H, W, 3]: Grad-CAM for the logit of "fake", over each face."""
    heat = saliency(pixels, faces, model, config)
    painted = (colormaps["inferno"](heat) * 255).astype(np.uint8)
    painted[..., 3] = (heat * 200).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(painted, "RGBA").save(buffer, "png", compress_level=1)
    return buffer.getvalue()
