"""Augmentation in batches: what happens to a face between the camera and the detector.

Every operation hits a picture with its own probability, both probability and reach scaled by one dial, `strength`.
All random numbers are drawn from one generator in a fixed pattern, so that its state alone decides the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

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
    _change(x, hit["flip"] & ~hit["warp"], lambda part: part.flip(3))  # copied, not resampled
    _change(x, hit["warp"], _warped, hit["flip"], signed[:, :4])
    _change(x, hit["colour"], _coloured, signed[:, 4:8])
    # Scales are taken from eight steps to work in groups.
    steps = ((1 - reach[:, 8] * strength * (1 - SMALLEST_SCALE)) * 8).round().clamp(min=1) / 8
    for step in torch.unique(steps[hit["scaling"] & (steps < 1)]).tolist():
        _change(x, hit["scaling"] & (steps == step), partial(_rescaled, scale=step))
    sigma = reach[:, 9] * strength * BLUR_SIGMA_PIXELS
    _change(x, hit["blur"] & (sigma > 0.2), _blurred, sigma)  # less does nothing that is left after rounding
    _change(x, hit["noise"], partial(_noisy, seed=noise_seed), reach[:, 10] * strength * NOISE_LEVEL)
    result = x.round_().clamp_(0, 255).to(torch.uint8, memory_format=torch.channels_last)
    low, high = JPEG_QUALITY
    _change(result, hit["jpeg"], jpeg, (high - reach[:, 11] * strength * (high - low)).int())
    return result


def _change(x: Tensor, hit: Tensor, operation: Callable[..., Tensor], *amounts: Tensor) -> None:
    """Change the pictures of x [B, ...] that are hit in place, and leave the others bit for bit as they were.

    Args:
        operation: from the pictures [N, 3, H, W] that are hit, and the amounts of each, to new ones.
        amounts: [B, ...] on the CPU.
    """
    if hit.any():
        here = hit.nonzero().flatten().to(x.device)
        x[here] = operation(x[here], *(amount[hit] for amount in amounts))


# x: float32 [N, 3, H, W] in [0, 255], on any device; the amounts: [N] on the CPU.


def _warped(x: Tensor, flip: Tensor, signed: Tensor) -> Tensor:
    """Mirror, rotate, zoom and shift in one resampling."""
    angle = signed[:, 0] * math.radians(ROTATION_DEGREES)
    zoom = torch.exp(signed[:, 1] * ZOOM)
    mirror = torch.where(flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    amounts = torch.stack([cos * mirror, -sin, sin * mirror, cos, *(signed[:, 2:4].T * 2 * SHIFT)])
    xx, xy, yx, yy, dx, dy = amounts.to(x.device)[:, :, None, None]
    # Coordinates of pixel centres in [-1, 1], as grid_sample has them; F.affine_grid takes twice as long.
    height, width = x.shape[2:]
    v = ((torch.arange(height, device=x.device) + 0.5) * (2 / height) - 1)[None, :, None]
    u = ((torch.arange(width, device=x.device) + 0.5) * (2 / width) - 1)[None, None, :]
    grid = torch.stack([xx * u + (xy * v + dx), yx * u + (yy * v + dy)], dim=3)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _coloured(x: Tensor, signed: Tensor) -> Tensor:
    """Brightness, contrast about the mean grey, saturation and hue: one 3 x 3 matrix and an offset a picture."""
    yiq = torch.tensor(_YIQ)
    angle = signed[:, 3] * math.radians(HUE_DEGREES)
    saturation = 1 + signed[:, 2] * SATURATION
    chroma = torch.zeros(len(x), 3, 3)
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * torch.cos(angle)
    chroma[:, 2, 1] = saturation * torch.sin(angle)
    chroma[:, 1, 2] = -chroma[:, 2, 1]
    contrast = 1 + signed[:, 1] * CONTRAST
    matrix = (contrast[:, None, None] * (torch.linalg.inv(yiq) @ chroma @ yiq)).to(x.device)
    part = x.flatten(2)
    mean = part.mean(2) @ yiq[0].to(x.device)
    offset = (1 - contrast.to(x.device)) * mean + (signed[:, 0] * BRIGHTNESS * 255).to(x.device)
    return torch.baddbmm(offset[:, None, None], matrix, part).view(x.shape)


def _rescaled(x: Tensor, scale: float) -> Tensor:
    """Down and up again, as a picture that was small once."""
    size = [max(1, round(side * scale)) for side in x.shape[2:]]
    small = F.interpolate(x, size=size, mode="bilinear", antialias=True)
    return F.interpolate(small, size=list(x.shape[2:]), mode="bilinear")


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a sigma of its own for each picture, separable, edges repeated."""
    radius = math.ceil(2.5 * BLUR_SIGMA_PIXELS)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0).to(x.device)
    flat = F.pad(x.view(1, -1, *x.shape[2:]), (radius,) * 4, mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=flat.shape[1])
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=flat.shape[1])
    return flat.view(x.shape)


def _noisy(x: Tensor, level: Tensor, seed: int) -> Tensor:
    """Gaussian noise, drawn on the pictures' device."""
    generator = torch.Generator(x.device).manual_seed(seed)
    return x + torch.randn(x.shape, generator=generator, device=x.device) * level.to(x.device)[:, None, None, None]


def jpeg(images: Tensor, qualities: Iterable[int]) -> Tensor:
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
        _, coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
        picture[:] = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return torch.from_numpy(bgr).permute(0, 3, 1, 2).flip(1).to(images.device)
