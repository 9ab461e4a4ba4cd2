"""Augmentation in batches: what happens to a face between the camera and the detector.

Every operation hits a picture with its own probability, both probability and reach scaled by one dial, `strength`.
All random numbers are drawn from one generator in a fixed pattern, so that its state alone decides the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

# Probability and reach at strength 1; at strength s both are multiplied by s (the flip's probability is not).
PROBABILITY = {"flip": 0.5, "warp": 1.0, "colour": 0.8, "scaling": 0.4, "blur": 0.3, "noise": 0.4, "jpeg": 0.6}
ROTATION_DEGREES = 15.0
SHIFT = 0.08  # of the side
ZOOM = 0.15  # log scale
BRIGHTNESS, CONTRAST, SATURATION = 0.18, 0.3, 0.4
HUE_DEGREES = 12.0
SMALLEST_SCALE = 0.35  # down-up scaling, of the side
BLUR_SIGMA_PIXELS = 1.6
NOISE_LEVEL = 12.0  # standard deviation in grey levels of 255
JPEG_QUALITY = (30, 95)

_DRAWS = 12  # random numbers that decide how far the operations on one picture go
# Luma and two chroma axes: ITU-R BT.601's grey, then the I and Q of NTSC, in which hue is an angle.
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def augment(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Augmented copies of the pictures.

    Args:
        images: uint8 [B, 3, H, W], any memory format, on any device.
        strength: 0 (unchanged) to 1.
        generator: on the CPU. It moves on by as much whatever the pictures are; at strength 0 not at all.

    Returns:
        uint8 [B, 3, H, W] in channels_last on the same device; at strength 0 the pictures themselves.

    Raises:
        ValueError: strength is outside [0, 1], or the pictures are not uint8 [B, 3, H, W].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"augmentation strength {strength} is not in [0, 1]")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"pictures must be uint8 [B, 3, H, W], not {images.dtype} {list(images.shape)}")
    if strength == 0 or not len(images):
        return images
    count = len(images)
    hit = {
        name: torch.rand(count, generator=generator) < p * (strength if name != "flip" else 1)
        for name, p in PROBABILITY.items()
    }
    reach = torch.rand(count, _DRAWS, generator=generator)
    noise_seed = int(torch.randint(2**62, (1,), generator=generator))
    signed = (reach * 2 - 1) * strength
    x = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    _warp(x, hit["flip"], hit["warp"], signed[:, :4])
    _colour(x, hit["colour"], signed[:, 4:8])
    _rescale(x, hit["scaling"], 1 - reach[:, 8] * strength * (1 - SMALLEST_SCALE))
    _blur(x, hit["blur"], reach[:, 9] * strength * BLUR_SIGMA_PIXELS)
    _noise(x, hit["noise"], reach[:, 10] * strength * NOISE_LEVEL, noise_seed)
    low, high = JPEG_QUALITY
    result = x.round_().clamp_(0, 255).to(torch.uint8, memory_format=torch.channels_last)
    _jpeg(result, hit["jpeg"], (high - reach[:, 11] * strength * (high - low)).int())
    return result


# Each operation changes the pictures that it hits in place, and leaves the others bit for bit as they were.
# x: float32 [B, 3, H, W] in [0, 255]; `hit` and the amounts: [B] on the CPU.


def _warp(x: Tensor, flip: Tensor, warp: Tensor, signed: Tensor) -> None:
    """Mirror, rotate, zoom and shift in one resampling; pictures that are only mirrored are copied, not resampled."""
    mirrored = _rows(flip & ~warp, x)
    x[mirrored] = x[mirrored].flip(3)
    rows = warp.nonzero().flatten()
    if not len(rows):
        return
    angle = signed[rows, 0] * math.radians(ROTATION_DEGREES)
    zoom = torch.exp(signed[rows, 1] * ZOOM)
    mirror = torch.where(flip[rows], -1.0, 1.0)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    amounts = torch.stack([cos * mirror, -sin, sin * mirror, cos, *(signed[rows, 2:4].T * 2 * SHIFT)])
    xx, xy, yx, yy, dx, dy = amounts.to(x.device)[:, :, None, None]
    # Coordinates of pixel centres in [-1, 1], as grid_sample has them; F.affine_grid takes twice as long.
    height, width = x.shape[2:]
    v = ((torch.arange(height, device=x.device) + 0.5) * (2 / height) - 1)[None, :, None]
    u = ((torch.arange(width, device=x.device) + 0.5) * (2 / width) - 1)[None, None, :]
    grid = torch.stack([xx * u + (xy * v + dx), yx * u + (yy * v + dy)], dim=3)
    here = rows.to(x.device)
    x[here] = F.grid_sample(x[here], grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _colour(x: Tensor, hit: Tensor, signed: Tensor) -> None:
    """Brightness, contrast about the mean grey, saturation and hue: one 3 x 3 matrix and an offset a picture."""
    here = _rows(hit, x)
    if not len(here):
        return
    signed = signed[hit]
    yiq = torch.tensor(_YIQ)
    angle = signed[:, 3] * math.radians(HUE_DEGREES)
    saturation = 1 + signed[:, 2] * SATURATION
    chroma = torch.zeros(len(here), 3, 3)
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * torch.cos(angle)
    chroma[:, 2, 1] = saturation * torch.sin(angle)
    chroma[:, 1, 2] = -chroma[:, 2, 1]
    contrast = 1 + signed[:, 1] * CONTRAST
    matrix = (contrast[:, None, None] * (torch.linalg.inv(yiq) @ chroma @ yiq)).to(x.device)
    part = x[here].flatten(2)
    mean = part.mean(2) @ yiq[0].to(x.device)
    offset = (1 - contrast.to(x.device)) * mean + (signed[:, 0] * BRIGHTNESS * 255).to(x.device)
    x[here] = torch.baddbmm(offset[:, None, None], matrix, part).view(len(here), *x.shape[1:])


def _rescale(x: Tensor, hit: Tensor, scale: Tensor) -> None:
    """Down and up again, as a picture that was small once; scales are taken from eight steps to work in groups."""
    steps = (scale * 8).round().clamp(min=1) / 8
    for step in torch.unique(steps[hit & (steps < 1)]):
        here = _rows(hit & (steps == step), x)
        size = [max(1, round(side * float(step))) for side in x.shape[2:]]
        small = F.interpolate(x[here], size=size, mode="bilinear", antialias=True)
        x[here] = F.interpolate(small, size=list(x.shape[2:]), mode="bilinear")


def _blur(x: Tensor, hit: Tensor, sigma: Tensor) -> None:
    """Gaussian blur with a sigma of its own for each picture, separable, edges repeated."""
    hit = hit & (sigma > 0.2)  # less does nothing that is left after rounding
    here = _rows(hit, x)
    if not len(here):
        return
    radius = math.ceil(2.5 * BLUR_SIGMA_PIXELS)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-(offsets**2) / (2 * sigma[hit][:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0).to(x.device)
    flat = x[here].view(1, -1, *x.shape[2:])
    flat = F.pad(flat, (radius,) * 4, mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=flat.shape[1])
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=flat.shape[1])
    x[here] = flat.view(len(here), *x.shape[1:])


def jpeg(images: Tensor, qualities: Sequence[int]) -> Tensor:
    """What JPEG compression with 4:2:0 chroma leaves of each picture.

    Args:
        images: uint8 [B, 3, H, W] RGB, on any device.
        qualities: [B] libjpeg's quality, 1..100.

    Returns:
        uint8 [B, 3, H, W] on the same device.
    """
    # OpenCV codes as torchvision and Pillow do, bit for bit; torchvision's own coders are to be removed.
    bgr = images.flip(1).cpu().permute(0, 2, 3, 1).contiguous().numpy()
    for picture, quality in zip(bgr, qualities, strict=True):
        _, coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        picture[:] = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return torch.from_numpy(bgr).permute(0, 3, 1, 2).flip(1).to(images.device)


def _noise(x: Tensor, hit: Tensor, level: Tensor, seed: int) -> None:
    """Gaussian noise, drawn on the pictures' device."""
    here = _rows(hit, x)
    if not len(here):
        return
    generator = torch.Generator(x.device).manual_seed(seed)
    noise = torch.randn((len(here), *x.shape[1:]), generator=generator, device=x.device)
    x[here] += noise * level[hit].to(x.device)[:, None, None, None]


def _jpeg(images: Tensor, hit: Tensor, quality: Tensor) -> None:
    here = _rows(hit, images)
    if len(here):
        images[here] = jpeg(images[here], quality[hit].tolist())


def _rows(hit: Tensor, x: Tensor) -> Tensor:
    return hit.nonzero().flatten().to(x.device)
