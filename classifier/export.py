"""A detector as ONNX: uint8 faces in, logit and calibrated P(fake) out, any batch; in float32, and quantised to int8.

Normalisation and temperature are inside, so that whoever runs it needs nothing but a face crop of the right size. Each
file is held against PyTorch before it is handed out.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from classifier.models.ensemble import Ensemble, FaceModel
from classifier.scoring import logits
from core.errors import UserError
from core.files import atomic
from faces.loading import Crops

FLOAT, INT8 = "model.onnx", "model.int8.onnx"
INPUT, LOGIT, PROBABILITY = "images", "logit", "probability"
# What float32 arithmetic in another order explains; more than that is a wrong graph.
TOLERANCE = 1e-3
_CALIBRATION_BATCH = 16


@dataclass(frozen=True)
class Parity:
    """How far an ONNX file lies from PyTorch on the same N pictures."""

    pictures: int
    max_logit: float  # largest |difference| of logits
    max_probability: float  # of P(fake), in [0, 1]
    mean_probability: float
    flipped: float  # share whose verdict at the threshold changed

    def __str__(self) -> str:
        return (
            f"P(fake) differs from PyTorch's by at most {self.max_probability:.2g} (mean {self.mean_probability:.2g}) "
            f"on {self.pictures} pictures, {self.flipped:.1%} of the verdicts change"
        )


def export_onnx(model: FaceModel, out: Path) -> Path:
    """Write the model as ONNX with the input `images` uint8 [N, 3, S, S] and the outputs `logit` and `probability` [N].

    Raises:
        UserError: the extra `export` is not installed, or the network cannot be expressed.
    """
    _required("onnx", "onnxscript", "onnxruntime")
    if isinstance(model, Ensemble) and len({member.config.image_size for member in model.detectors}) > 1:
        raise UserError(
            "the members of this ensemble see pictures of different sizes, which ONNX cannot scale as we do: "
            "export the members one by one, or make the ensemble of models of one size"
        )
    size = model.config.image_size
    example = torch.zeros((2, 3, size, size), dtype=torch.uint8)
    device, was_training = model.mean.device, model.training
    try:
        with _quiet():
            program = torch.onnx.export(
                _Served(model.cpu().eval()).eval(),
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[LOGIT, PROBABILITY],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
            assert program is not None
            with atomic(out) as temporary:
                program.save(str(temporary))
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{model.config.backbone} cannot be exported to ONNX ({reason}): use --no-onnx") from error
    finally:
        model.to(device).train(was_training)
    return out


def quantise(file: Path, out: Path, crops: Crops, rows: Sequence[int] | NDArray[np.int64]) -> Path:
    """Write an int8 version: weights a channel, activations by what the given crops (of train) make of them.

    Static quantisation of every operation that has an int8 form, with the ranges that the crops reach. Measured with
    EfficientNet-lite0 at 192 px on 240 faces of val: AUC 0.670 (float32 0.659), 3.5 times as fast. With convolutions
    alone quantised it was 0.637, and with dynamic quantisation 0.567 and 2.7 times slower than float32.

    Raises:
        UserError: there are no crops to calibrate on, or the extra `export` is not installed.
    """
    _required("onnx", "onnxruntime")
    if not len(rows):
        raise UserError("int8 needs train faces to calibrate on, and there are none: give a manifest with --manifest")
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=out.parent) as scratch, _quiet():
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(str(prepared))
        del graph.graph.value_info[:]  # shapes of before, which quantised weights contradict
        onnx.save(graph, str(prepared))
        quantize_static(
            str(prepared),
            str(Path(scratch) / "quantised.onnx"),
            _Calibration(crops, np.asarray(rows, dtype=np.int64)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        (Path(scratch) / "quantised.onnx").replace(out)
    return out


def onnx_session(file: Path) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, with as many threads as torch has.

    Raises:
        UserError: the extra `export` is not installed, or ONNX Runtime cannot read the file.
    """
    _required("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its kinds are no part of its interface
        raise UserError(f"{file} is no ONNX file that this onnxruntime reads: export the model anew") from error


def onnx_scores(file: Path, batches: Iterable[Tensor]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits and P(fake), both [N], of uint8 batches [B, 3, S, S] by ONNX Runtime on the CPU."""
    session = onnx_session(file)
    parts = [session.run([LOGIT, PROBABILITY], {INPUT: batch.contiguous().numpy()}) for batch in batches]
    if not parts:
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    logit, probability = map(np.concatenate, zip(*parts, strict=True))
    return logit, probability


def parity(model: FaceModel, file: Path, crops: Crops, rows: NDArray[np.int64], batch_size: int = 16) -> Parity:
    """Hold an ONNX file against PyTorch in float32 on those crops."""
    theirs, probability = onnx_scores(file, [crops.batch(part) for part in _parts(rows, batch_size)])
    ours = logits(model, crops, rows, batch_size)
    expected = 1 / (1 + np.exp(-ours.astype(np.float64) / model.temperature))
    gap = np.abs(probability - expected)
    flipped = (probability >= model.threshold) != (expected >= model.threshold)
    furthest = np.abs(theirs - ours).max()
    return Parity(len(rows), *map(float, (furthest, gap.max(), gap.mean(), flipped.mean())))


class _Served(nn.Module):
    """What is exported: from uint8 to logit and calibrated probability."""

    def __init__(self, model: FaceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logit = self.model(images)
        return logit, torch.sigmoid(logit / self.model.temperature)


class _Calibration:
    """What ONNX Runtime asks for: one batch after another, then None."""

    def __init__(self, crops: Crops, rows: NDArray[np.int64]) -> None:
        self._parts = iter(_parts(rows, _CALIBRATION_BATCH))
        self._crops = crops

    def get_next(self) -> dict[str, Any] | None:
        part = next(self._parts, None)
        return None if part is None else {INPUT: self._crops.batch(part).contiguous().numpy()}


def _parts(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _required(*packages: str) -> None:
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise UserError(
                f"{package} is not installed, which ONNX needs: pip install 'counterforge[export]', or use --no-onnx"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters log every pass and warn of their own deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
