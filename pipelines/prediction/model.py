"""A model that answers: loaded once, in PyTorch or ONNX Runtime, with all that turns a logit into a verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from classifier.calibration import Band, probabilities
from classifier.export import FLOAT, INPUT, INT8, LOGIT, export_onnx, onnx_session
from classifier.models.detector import CONFIG
from classifier.models.ensemble import FaceModel, load_detector
from classifier.venn_abers import ValScores, VennAbers
from core.errors import UserError
from pipelines.release.lineage import find_model
from tracking.store import open_store

Runtime = Literal["torch", "onnx", "onnx-int8"]
Verdict = Literal["real", "fake", "uncertain", "no-face", "unreadable"]
Pixels = NDArray[np.uint8]
Logits = Callable[[Pixels], NDArray[np.float32]]  # uint8 [B, S, S, 3] -> [B]


@dataclass(frozen=True)
class ServedModel:
    """What answers for one version.

    Attributes:
        name: such as "version 3", or the folder.
        digest: of weights, input and temperature.
        logits: uint8 RGB faces [B, S, S, 3] to [B] logits of "fake".
        intervals: logits to intervals of P(fake); None where the model keeps no val scores.
        network: the PyTorch model, for saliency maps.
    """

    name: str
    version: int | None
    digest: str
    runtime: Runtime
    image_size: int
    threshold: float
    band: Band | None
    temperature: float
    logits: Logits
    intervals: VennAbers | None
    network: FaceModel

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """[B] calibrated P(fake), as `classifier.scoring.score` has it."""
        return probabilities(logits, self.temperature)

    def verdict(self, probability: float) -> Verdict:
        """By the model's own threshold, and the band in which it abstains."""
        low, high = self.band or (self.threshold, self.threshold)
        return "fake" if probability >= high else "real" if probability < low else "uncertain"


def serve_model(
    reference: str, mlruns: Path = Path("mlruns"), *, runtime: Runtime = "torch", device: str = "auto"
) -> ServedModel:
    """Load what MODEL names: a folder without any registry, or else a version, alias, run or model id of the registry.

    Raises:
        UserError: there is none, or its files do not fit, or the runtime is not available for it.
        TrackingError: the registry cannot be reached, or nothing is called so.
    """
    if (Path(reference) / CONFIG).is_file():
        return _loaded(Path(reference), Path(reference).resolve().name, None, runtime, device)
    model = find_model(open_store(mlruns), reference)
    with model.files() as folder:
        return _loaded(folder, model.name, model.version.number if model.version else None, runtime, device)


def _loaded(folder: Path, name: str, version: int | None, runtime: Runtime, device: str) -> ServedModel:
    network = load_detector(folder, "cpu" if runtime != "torch" else device)
    val = ValScores.read(folder)
    return ServedModel(
        name,
        version,
        network.digest,
        runtime,
        network.config.image_size,
        network.threshold,
        network.band,
        network.temperature,
        _torch_logits(network) if runtime == "torch" else _onnx_logits(folder, network, runtime),
        VennAbers(val) if val is not None else None,
        network,
    )


def _torch_logits(network: FaceModel) -> Logits:
    device = network.mean.device

    @torch.inference_mode()
    def logits(faces: Pixels) -> NDArray[np.float32]:
        batch = torch.from_numpy(faces).permute(0, 3, 1, 2).to(device)
        return np.asarray(network(batch).cpu().numpy())

    return logits


def _onnx_logits(folder: Path, network: FaceModel, runtime: Runtime) -> Logits:
    """By the file that the export holds; of a model without one, float32 is exported for the occasion."""
    file = folder / (INT8 if runtime == "onnx-int8" else FLOAT)
    if not file.is_file() and runtime == "onnx-int8":
        raise UserError(
            f"{folder} holds no {INT8}, which takes faces to calibrate on: "
            "run `counterforge models export VERSION --int8 --out FOLDER` and give --model FOLDER"
        )
    with tempfile.TemporaryDirectory() as scratch:
        session = onnx_session(file if file.is_file() else export_onnx(network, Path(scratch) / FLOAT))

    def logits(faces: Pixels) -> NDArray[np.float32]:
        batch = np.ascontiguousarray(faces.transpose(0, 3, 1, 2))
        return np.asarray(session.run([LOGIT], {INPUT: batch})[0], dtype=np.float32)

    return logits
