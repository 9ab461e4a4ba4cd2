"""Where in a face a detector sees "fake": Grad-CAM, occlusion and integrated gradients, as maps over the picture.

All three explain the logit of "fake" and keep what speaks for it: a map is [S, S], not negative, its maximum 1 (or all
zeros where nothing speaks for it). They fail in different ways, which is why there are three: Grad-CAM (Selvaraju et
al. 2017) is as coarse as the last feature map; occlusion (Zeiler & Fergus 2014) asks the network itself, and sees what
the window is large enough to hide; integrated gradients (Sundararajan et al. 2017) reach the pixel, and are noisy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from math import nan, sqrt
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from captum.attr import IntegratedGradients, Occlusion
from numpy.typing import ArrayLike, NDArray
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from scipy import stats
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from classifier.models.detector import Detector
from classifier.models.ensemble import Ensemble, FaceModel, resized
from classifier.models.forensics import backbone_of
from classifier.scoring import evaluating
from core.errors import UserError
from metrics.intervals import Interval

Method = Literal["grad-cam", "occlusion", "integrated-gradients"]
METHODS: tuple[Method, ...] = get_args(Method)
Map = NDArray[np.float32]

_WINDOW, _STRIDE = 6, 12  # parts of the side: the occluding window, and how far it moves
_STEPS = 32  # of the path that gradients are integrated along
_AT_ONCE = 16  # pictures in one pass


def explain(model: FaceModel, images: Tensor, method: Method) -> Map:
    """[B, S, S] what speaks for "fake" in uint8 images [B, 3, S, S], each map with the maximum 1.

    An ensemble's map is the mean of its members' maps, by the size of their weights.

    Raises:
        UserError: Grad-CAM finds no feature map of more than one pixel.
    """
    if isinstance(model, Ensemble):
        shares = np.abs(model.weights) / np.abs(model.weights).sum()
        total = np.zeros((len(images), *images.shape[2:]), dtype=np.float32)
        for member, share in zip(model.detectors, shares, strict=True):
            small = explain(member, resized(images, member.config.image_size), method)
            total += share * _enlarged(small, images.shape[-1])
        return _scaled(total)
    with evaluating(model):
        parts = (images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE))
        maps = [_METHODS[method](model, part.to(model.mean.device)) for part in parts]
    model.zero_grad(set_to_none=True)
    return _scaled(np.concatenate(maps)) if maps else np.zeros((0, *images.shape[2:]), dtype=np.float32)


def _grad_cam(detector: Detector, images: Tensor) -> Map:
    layer, reshape = _target_layer(detector, images[:1])
    targets = [ClassifierOutputTarget(0)] * len(images)
    frozen = [parameter for parameter in detector.parameters() if not parameter.requires_grad]
    for parameter in frozen:  # a network whose every weight is frozen has no gradient to look at
        parameter.requires_grad_(True)
    try:
        with GradCAM(detector.module, [layer], reshape_transform=reshape) as cam:
            return np.asarray(cam(input_tensor=detector.normalise(images), targets=targets), dtype=np.float32)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _occlusion(detector: Detector, images: Tensor) -> Map:
    side = images.shape[-1]
    window, stride = max(side // _WINDOW, 1), max(side // _STRIDE, 1)
    pixels = images.float()
    with torch.inference_mode():
        found = Occlusion(_forward(detector)).attribute(
            pixels,
            sliding_window_shapes=(3, window, window),
            strides=(3, stride, stride),
            baselines=pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels),
            perturbations_per_eval=1,
            show_progress=sys.stderr.isatty(),
        )
    return _positive(found.sum(dim=1))


def _integrated_gradients(detector: Detector, images: Tensor) -> Map:
    pixels = images.float()
    blurred = _blur(pixels, pixels.shape[-1] / 8)  # black is a face that nobody has; blur takes the detail away only
    found = IntegratedGradients(_forward(detector)).attribute(
        pixels, baselines=blurred, n_steps=_STEPS, internal_batch_size=_AT_ONCE
    )
    return _positive(_blur(found.detach().sum(dim=1, keepdim=True), pixels.shape[-1] / 24)[:, 0])


_METHODS: dict[str, Callable[[Detector, Tensor], Map]] = {
    "grad-cam": _grad_cam,
    "occlusion": _occlusion,
    "integrated-gradients": _integrated_gradients,
}


def _forward(detector: Detector) -> Callable[[Tensor], Tensor]:
    """Logits of float pixels in [0, 255], through which gradients flow (`Detector.normalise` takes bytes only)."""

    def forward(pixels: Tensor) -> Tensor:
        normalised = (pixels / 255 - detector.mean) / detector.std
        return cast("Tensor", detector.module(normalised)).squeeze(1)

    return forward


def _target_layer(detector: Detector, image: Tensor) -> tuple[nn.Module, Callable[[Tensor], Tensor] | None]:
    """Where Grad-CAM looks: the last feature map with more than one pixel, or a transformer's last block.

    Tokens of a transformer [B, P + h*w, C] are laid out as the map [B, C, h, w], without the P that stand for no place.
    """
    network: Any = backbone_of(detector.module)  # forensic branches have maps too, but of no face
    if hasattr(network, "blocks") and hasattr(network, "num_prefix_tokens"):
        height, width = network.patch_embed.grid_size
        prefix = int(network.num_prefix_tokens)

        def reshape(tokens: Tensor) -> Tensor:
            places = tokens[:, prefix:]
            return places.transpose(1, 2).reshape(len(places), -1, height, width)

        return network.blocks[-1].norm1, reshape
    seen: list[nn.Module] = []

    def remember(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] * output.shape[-2] > 1:
            seen.append(module)

    hooks = [module.register_forward_hook(remember) for module in network.modules() if module is not network]
    try:
        with torch.inference_mode():
            detector.module(detector.normalise(image))
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise UserError(
            f"{detector.config.backbone} at {detector.config.image_size} px has no feature map of more than one pixel, "
            "which Grad-CAM needs: explain it by occlusion, or train it at a larger image_size"
        )
    return seen[-1], None


def _blur(pictures: Tensor, sigma: float) -> Tensor:
    radius = min(int(3 * sigma) + 1, pictures.shape[-1] // 2 - 1)
    size = 2 * max(radius, 1) + 1
    return gaussian_blur(pictures, [size, size], [max(sigma, 0.3)] * 2)


def _positive(maps: Tensor) -> Map:
    return maps.clamp(min=0).cpu().numpy().astype(np.float32)


def _enlarged(maps: Map, side: int) -> Map:
    if maps.shape[-1] == side:
        return maps
    tensor = torch.from_numpy(maps)[:, None]
    scaled = nn.functional.interpolate(tensor, (side, side), mode="bilinear", align_corners=False)
    return scaled[:, 0].numpy()


def _scaled(maps: Map) -> Map:
    highest = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0)


Mask = NDArray[np.bool_]


def pointing(heat: NDArray[np.floating], mask: Mask) -> float:
    """1 where the highest point of the map [S, S] lies in the mask [S, S], else 0; of several, the share that does."""
    highest = heat == heat.max()
    return float(mask[highest].mean())


def iou(heat: NDArray[np.floating], mask: Mask) -> float:
    """Intersection over union, in [0, 1], of the mask and as many of the map's highest pixels.

    Of pixels of one height, which a map without any evidence has everywhere, the earlier in the picture count.
    """
    area = int(mask.sum())
    top = np.zeros(mask.size, dtype=bool)
    top[np.argsort(-heat.ravel(), kind="stable")[:area]] = True
    both = int((top & mask.ravel()).sum())
    return both / (2 * area - both) if area else nan


def centred_box(mask: Mask) -> NDArray[np.float32]:
    """A map [S, S] that is highest in the middle and falls off in squares: its top pixels are a centred box."""
    height, width = mask.shape
    y, x = (np.abs(np.arange(size) - (size - 1) / 2) for size in (height, width))
    return (1 - np.maximum(y[:, None], x[None, :]) / (max(height, width) / 2)).astype(np.float32)


def localisation(
    maps: Mapping[str, Sequence[NDArray[np.floating]]], masks: Sequence[Mask], groups: ArrayLike, level: float = 0.95
) -> list[dict[str, object]]:
    """How well the maps of each method find the masks, with intervals over groups, beside the centred box.

    Args:
        maps: by method, N maps [S, S].
        masks: N, each with a pixel set and a pixel unset.
        groups: [N] identities or sources.

    Returns:
        One row a method and figure: method, figure (pointing, iou), value and box and difference (`Interval`), and n.
    """
    names = np.asarray(groups)
    rows: list[dict[str, object]] = []
    for figure, score in (("pointing", pointing), ("iou", iou)):
        box = np.array([score(centred_box(mask), mask) for mask in masks])
        for method, found in maps.items():
            own = np.array([score(heat, mask) for heat, mask in zip(found, masks, strict=True)])
            rows.append(
                {
                    "method": method,
                    "figure": figure,
                    "value": clustered_mean(own, names, level),
                    "box": clustered_mean(box, names, level),
                    "difference": clustered_mean(own - box, names, level, least=-1.0),
                    "n": len(masks),
                    "groups": len(np.unique(names)),
                }
            )
    return rows


def clustered_mean(values: ArrayLike, groups: ArrayLike, level: float = 0.95, *, least: float = 0.0) -> Interval:
    """The mean of values [N] in [least, 1] with a t interval over their groups [N], cut at those ends.

    It has no ends where there is one group only.

    The variance is that of a ratio of sums over G groups (Liang & Zeger 1986, with the factor G / (G - 1)):
    G / (G - 1) * sum_g (sum_{i in g} (v_i - mean))² / N², with G - 1 degrees of freedom.
    """
    v = np.asarray(values, dtype=np.float64)
    if not len(v):
        return Interval(nan, nan, nan, level)
    mean = float(v.mean())
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(codes, weights=v - mean)
    count = len(sums)
    if count < 2:
        return Interval(mean, nan, nan, level)
    error = sqrt(count / (count - 1) * float((sums**2).sum())) / len(v)
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    return Interval(mean, max(mean - half, least), min(mean + half, 1.0), level)
