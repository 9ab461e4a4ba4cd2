"""What happens to a picture on its way to a detector, step by step: seven ladders of five rungs each.

Every function takes and returns uint8 [B, 3, S, S] on the CPU. Lengths are shares of the side, so that a rung means the
same at every size. A picture's result depends on nothing but the picture, the rung and the seed: not on its batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from fractions import Fraction

import av
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from faces.errors import UserError

LADDERS: dict[str, tuple[float, ...]] = {
    "jpeg": (90, 70, 50, 30, 15),  # quality of libjpeg
    "h264": (22, 27, 32, 37, 42),  # quantiser of x264's intra frames; c23 and c40 of FaceForensics++ lie in between
    "blur": (0.25, 0.5, 1.0, 1.5, 2.5),  # standard deviation, % of the side
    "noise": (2, 5, 10, 20, 35),  # standard deviation, grey levels
    "scaling": (0.75, 0.5, 0.35, 0.25, 0.15),  # down to this share of the side, and up again
    "gamma": (0.8, 1.25, 0.6, 1.7, 0.4),  # exponent of values in [0, 1]: below 1 is lighter; |log| rises
    "crop": (0.95, 0.9, 0.8, 0.7, 0.6),  # the middle share of the side, enlarged
}
"""The rungs of each ladder, the mildest first."""

LABELS = {
    "jpeg": "JPEG quality",
    "h264": "H.264 quantiser",
    "blur": "blur, % of the side",
    "noise": "noise, grey levels",
    "scaling": "down to and up again",
    "gamma": "gamma",
    "crop": "crop to the middle",
}


def degrade(images: Tensor, kind: str, level: float, keys: Iterable[str] | None = None, seed: int = 0) -> Tensor:
    """Degraded copies of the pictures.

    Args:
        images: uint8 [B, 3, S, S] on the CPU.
        kind: a key of LADDERS.
        level: any value of the kind's unit, not only a rung.
        keys: a name of each picture (its hash), from which noise is drawn; by default its bytes.

    Raises:
        ValueError: the kind is unknown, or the pictures are not uint8 [B, 3, S, S].
        UserError: kind is h264 and this build of PyAV has no libx264.
    """
    if kind not in _FUNCTIONS:
        raise ValueError(f"there is no degradation {kind!r}: choose one of {', '.join(LADDERS)}")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"pictures must be uint8 [B, 3, H, W], not {images.dtype} {list(images.shape)}")
    if not len(images):
        return images
    if kind == "noise":
        return _noise(images, level, keys, seed)
    return _FUNCTIONS[kind](images, level)


def _jpeg(images: Tensor, quality: float) -> Tensor:
    bgr = np.ascontiguousarray(images.flip(1).permute(0, 2, 3, 1).numpy())
    for picture in bgr:
        _, coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
        picture[:] = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return torch.from_numpy(bgr).permute(0, 3, 1, 2).flip(1)


def _h264(images: Tensor, quantiser: float) -> Tensor:
    """Each picture as an intra frame of one stream: at a constant quantiser, frames know nothing of each other."""
    height, width = images.shape[2:]
    padded = F.pad(images, (0, width % 2, 0, height % 2), mode="replicate")  # 4:2:0 wants even sides
    try:
        encoder = av.CodecContext.create("libx264", "w")
    except (av.codec.codec.UnknownCodecError, ValueError) as error:
        raise UserError("this PyAV has no libx264: leave h264 out of the ladders, or install the wheel `av`") from error
    encoder.height, encoder.width = padded.shape[2:]
    encoder.pix_fmt, encoder.time_base, encoder.thread_count = "yuv420p", Fraction(1, 25), 1
    encoder.options = {"qp": str(int(quantiser)), "preset": "veryfast", "g": "1", "bf": "0", "tune": "zerolatency"}
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    frames = [
        av.VideoFrame.from_ndarray(one, format="rgb24") for one in padded.permute(0, 2, 3, 1).contiguous().numpy()
    ]
    packets = []
    for number, frame in enumerate(frames):
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoded = [frame for packet in packets for frame in decoder.decode(packet)]
    decoded += decoder.decode(None)
    pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
    return torch.from_numpy(pictures[:, :height, :width]).permute(0, 3, 1, 2)


def _blur(images: Tensor, share: float) -> Tensor:
    sigma = share / 100 * images.shape[-1]
    radius = max(1, round(3 * sigma))
    radius = min(radius, min(images.shape[2:]) - 1)  # the mirrored border cannot be wider than the picture
    return tv.gaussian_blur(images, [2 * radius + 1] * 2, [sigma, sigma])


def _noise(images: Tensor, deviation: float, keys: Iterable[str] | None, seed: int) -> Tensor:
    names = list(keys) if keys is not None else [hashlib.sha256(one.numpy().tobytes()).hexdigest() for one in images]
    result = np.empty(tuple(images.shape), dtype=np.uint8)
    for place, (name, picture) in enumerate(zip(names, images.numpy(), strict=True)):
        digest = hashlib.sha256(f"{seed}/{deviation}/{name}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        drawn = random.standard_normal(picture.shape, dtype=np.float32) * np.float32(deviation)
        result[place] = np.rint(picture + drawn).clip(0, 255)
    return torch.from_numpy(result)


def _scaling(images: Tensor, share: float) -> Tensor:
    side = list(images.shape[2:])
    small = tv.resize(images, [max(1, round(one * share)) for one in side], antialias=True)
    return tv.resize(small, side, antialias=True)


def _gamma(images: Tensor, exponent: float) -> Tensor:
    table = torch.round(255 * (torch.arange(256) / 255) ** exponent).to(torch.uint8)
    return table[images.long()]


def _crop(images: Tensor, share: float) -> Tensor:
    height, width = images.shape[2:]
    inner = tv.center_crop(images, [max(1, round(height * share)), max(1, round(width * share))])
    return tv.resize(inner, [height, width], interpolation=tv.InterpolationMode.BICUBIC, antialias=True)


_FUNCTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "jpeg": _jpeg,
    "h264": _h264,
    "blur": _blur,
    "noise": lambda images, level: _noise(images, level, None, 0),
    "scaling": _scaling,
    "gamma": _gamma,
    "crop": _crop,
}
