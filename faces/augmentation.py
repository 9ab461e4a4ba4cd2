"""Augmentation in batches: what happens to a face between the camera and the detector.

Every operation hits a picture with its own probability, both probability and reach scaled by one dial, `strength`.
All random numbers are drawn from one generator in a fixed pattern, so that its state alone decides the result.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

# Probability and reach at strength 1; at strength s both are multiplied by s (the flip's probability is not).
PROBABILITY = {"flip": 0.5, "warp": 1.0, "colour": 0.8, "scaling": 0.4, "blur": 0.3, "noise": 0.4, "jpeg": 0.6}
ROTATION_DEGREES = 15.0
SHIFT = 0.08  # of the side
ZOOM = 0.15  # log scale
BRIGHTNESS, CONTRAST, SATURATION = 0.25, 0.3, 0.4
SMALLEST_SCALE = 0.35  # down-up scaling, of the side
BLUR_SIGMA_PIXELS = 1.6
NOISE_LEVEL = 12.0  # standard deviation in grey levels of 255
JPEG_QUALITY = (30, 95)


def augment(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Augmented copies of the pictures.

    Args:
        images: uint8 [B, 3, H, W], any memory format, on any device.
        strength: 0 (unchanged) to 1.
        generator: on the CPU.

    Returns:
        uint8 [B, 3, H, W] in channels_last on the same device.

    Raises:
        ValueError: strength is outside [0, 1], or the pictures are not uint8.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"augmentation strength {strength} is not in [0, 1]")
    if images.dtype != torch.uint8:
        raise ValueError(f"pictures must be uint8, not {images.dtype}")
    if strength == 0 or not len(images):
        return images
    count = len(images)
    hit = {name: torch.rand(count, generator=generator) < p * (strength if name != "flip" else 1)
           for name, p in PROBABILITY.items()}  # fmt: skip
    reach = torch.rand(count, 12, generator=generator)
    noise_seed = int(torch.randint(2**62, (1,), generator=generator))
    signed = (reach * 2 - 1) * strength
    x = images.float()
    x = _warp(x, hit["flip"], hit["warp"], signed[:, :4])
    x = _colour(x, hit["colour"], signed[:, 4:7])
    x = _rescale(x, hit["scaling"], 1 - reach[:, 7] * strength * (1 - SMALLEST_SCALE))
    x = _blur(x, hit["blur"], reach[:, 8] * strength * BLUR_SIGMA_PIXELS)
    x = _noise(x, hit["noise"], reach[:, 9] * strength * NOISE_LEVEL, noise_seed)
    low, high = JPEG_QUALITY
    result = x.round_().clamp_(0, 255).to(torch.uint8)
    return _jpeg(result, hit["jpeg"], (high - reach[:, 10] * strength * (high - low)).int())


def _warp(x: Tensor, flip: Tensor, warp: Tensor, signed: Tensor) -> Tensor:
    """Mirror, rotate, zoom and shift in one resampling; pictures that are only mirrored are copied, not resampled."""
    x = x.clone(memory_format=torch.channels_last)
    only_flip = (flip & ~warp).nonzero().flatten().to(x.device)
    x[only_flip] = x[only_flip].flip(3)
    rows = warp.nonzero().flatten()
    if not len(rows):
        return x
    angle = signed[rows, 0] * math.radians(ROTATION_DEGREES)
    zoom = torch.exp(signed[rows, 1] * ZOOM)
    mirror = torch.where(flip[rows], -1.0, 1.0)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift = signed[rows, 2:4] * 2 * SHIFT
    theta = torch.stack(
        [torch.stack([cos * mirror, -sin, shift[:, 0]], 1), torch.stack([sin * mirror, cos, shift[:, 1]], 1)], 1
    ).to(x.device)
    here = rows.to(x.device)
    part = x[here].contiguous()
    grid = F.affine_grid(theta, list(part.shape), align_corners=False)
    x[here] = F.grid_sample(part, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return x


def _colour(x: Tensor, hit: Tensor, signed: Tensor) -> Tensor:
    """Brightness, contrast about the picture's mean, and saturation about its grey: one 3 x 3 matrix and an offset."""
    rows = hit.nonzero().flatten()
    if not len(rows):
        return x
    here, signed = rows.to(x.device), signed[rows].to(x.device)
    part = x[here]
    grey = torch.tensor([0.299, 0.587, 0.114], device=x.device)  # ITU-R BT.601
    saturation = (1 + signed[:, 2] * SATURATION)[:, None, None]
    contrast = (1 + signed[:, 1] * CONTRAST)[:, None, None]
    matrix = contrast * (saturation * torch.eye(3, device=x.device) + (1 - saturation) * grey.expand(3, 3))
    mean = torch.einsum("bchw,c->b", part, grey) / (x.shape[2] * x.shape[3])
    offset = (1 - contrast.flatten()) * mean + signed[:, 0] * BRIGHTNESS * 255
    x[here] = torch.einsum("bdc,bchw->bdhw", matrix, part) + offset[:, None, None, None]
    return x


def _rescale(x: Tensor, hit: Tensor, scale: Tensor) -> Tensor:
    """Down and up again, as a picture that was small once; scales are taken from eight steps to work in groups."""
    steps = (scale * 8).round().clamp(min=1) / 8
    for step in torch.unique(steps[hit]):
        if step >= 1:
            continue
        here = (hit & (steps == step)).nonzero().flatten().to(x.device)
        size = [max(1, round(side * float(step))) for side in x.shape[2:]]
        small = F.interpolate(x[here], size=size, mode="bilinear", antialias=True)
        x[here] = F.interpolate(small, size=list(x.shape[2:]), mode="bilinear")
    return x


def _blur(x: Tensor, hit: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a sigma of its own for each picture, separable."""
    rows = (hit & (sigma > 0.2)).nonzero().flatten()
    if not len(rows):
        return x
    here = rows.to(x.device)
    radius = math.ceil(2.5 * BLUR_SIGMA_PIXELS)
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma[rows].to(x.device)[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    part = x[here].contiguous()
    flat = part.view(1, -1, *part.shape[2:])
    flat = F.pad(flat, (radius,) * 4, mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=flat.shape[1])
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=flat.shape[1])
    x[here] = flat.view(part.shape)
    return x


def _noise(x: Tensor, hit: Tensor, level: Tensor, seed: int) -> Tensor:
    """Gaussian noise, drawn on the pictures' device."""
    rows = hit.nonzero().flatten()
    if not len(rows):
        return x
    here = rows.to(x.device)
    generator = torch.Generator(x.device).manual_seed(seed)
    noise = torch.randn((len(rows), *x.shape[1:]), generator=generator, device=x.device)
    x[here] += noise * level[rows].to(x.device)[:, None, None, None]
    return x


def _jpeg(images: Tensor, hit: Tensor, quality: Tensor) -> Tensor:
    """JPEG compression, one quality a picture."""
    rows = hit.nonzero().flatten()
    if not len(rows):
        return images
    here = rows.to(images.device)
    pictures = images[here].cpu().contiguous()
    coded = [encode_jpeg(picture, quality=int(quality[row])) for picture, row in zip(pictures, rows, strict=True)]
    decoded = torch.stack([decode_jpeg(data, mode=ImageReadMode.RGB) for data in coded])
    images[here] = decoded.to(images.device)
    return images
