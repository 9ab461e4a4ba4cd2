"""The field's own metrics, for whoever brings the weights that they need: FID and KID (Inception), LPIPS (AlexNet).

None of these weights is installed or fetched: each is a local file. Needs the extra `fidelity`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from faces.errors import UserError

if TYPE_CHECKING:
    from torch import nn


class _Pictures(Dataset[Tensor]):
    """uint8 [N, 3, S, S] as torch-fidelity wants to be given pictures."""

    def __init__(self, pictures: Tensor) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return self.pictures[index]


def inception_distances(real: Tensor, fake: Tensor, weights: Path, device: torch.device) -> dict[str, float]:
    """`fid`, `kid` and `kid_sd` of torch-fidelity, the reference implementation.

    Args:
        real, fake: uint8 [N, 3, S, S], equally many.
        weights: file of torch-fidelity's Inception (`weights-inception-2015-12-05-*.pth`).
        device: where Inception computes.

    Raises:
        UserError: torch-fidelity is not installed, or the file is none of its Inception.
    """
    try:
        from torch_fidelity import calculate_metrics
    except ImportError as error:
        raise UserError("FID and KID need torch-fidelity: install counterforge[fidelity]") from error
    _require(weights, "Inception")
    _refuse_pickles(weights)
    given: dict[str, Any] = {
        "input1": _Pictures(fake.contiguous()),
        "input2": _Pictures(real.contiguous()),
        "feature_extractor_weights_path": str(weights),
        "cuda": device.type == "cuda",
        "cache": False,
        "verbose": False,
        "save_cpu_ram": True,  # the pictures are in memory already: processes that load them would only cost
    }
    try:
        found = calculate_metrics(fid=True, kid=True, kid_subset_size=min(1000, len(real) // 2), **given)
    except Exception as error:  # torch raises several kinds for a foreign file
        raise UserError(f"{weights} does not work as Inception's weights for torch-fidelity: {error}") from error
    return {
        "fid": float(found["frechet_inception_distance"]),
        "kid": float(found["kernel_inception_distance_mean"]),
        "kid_sd": float(found["kernel_inception_distance_std"]),
    }


@torch.no_grad()
def lpips_diversity(pictures: Tensor, alexnet: Path, device: torch.device, pairs: int = 1000, seed: int = 0) -> float:
    """Mean LPIPS distance (Zhang et al. 2018, AlexNet) between random pairs of pictures: higher is more diverse.

    Args:
        pictures: uint8 [N, 3, S, S], N at least 2.
        alexnet: file of torchvision's AlexNet (`alexnet-owt-*.pth`); the linear layers come with the package lpips.
        device: where AlexNet computes.
        pairs, seed: how many, and which.

    Raises:
        UserError: lpips is not installed, or the file holds no AlexNet.
    """
    try:
        import lpips
    except ImportError as error:
        raise UserError("the LPIPS diversity needs lpips: install counterforge[fidelity]") from error
    _require(alexnet, "AlexNet")
    with torch.random.fork_rng(devices=[]):
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    _load_alexnet(network.net, alexnet)
    network = network.to(device).eval()
    random = np.random.default_rng(seed)
    first = random.integers(0, len(pictures), pairs)
    second = (first + random.integers(1, len(pictures), pairs)) % len(pictures)  # never the picture itself
    total = 0.0
    for start in range(0, pairs, 64):
        a, b = (pictures[torch.from_numpy(side[start : start + 64])].to(device) for side in (first, second))
        size = (max(64, a.shape[-1]),) * 2  # AlexNet has nothing left of smaller pictures
        a, b = (torch.nn.functional.interpolate(side.float() / 127.5 - 1, size, mode="bilinear") for side in (a, b))
        total += float(network(a, b).sum())
    return total / pairs


def _refuse_pickles(file: Path) -> None:
    """torch-fidelity would run whatever a pickle says; a file of tensors alone also loads without that."""
    try:
        torch.load(file, map_location="meta", weights_only=True)
    except Exception as error:  # as above
        raise UserError(f"{file} holds more than tensors, or is damaged: give a file of plain weights") from error


def _load_alexnet(network: nn.Module, file: Path) -> None:
    """Put torchvision's `features.N.*` into lpips' slices, which keep the numbers."""
    try:
        given = torch.load(file, map_location="cpu", weights_only=True)
        wanted = network.state_dict()
        network.load_state_dict({name: given[f"features.{name.split('.', 1)[1]}"] for name in wanted})
    except Exception as error:  # pickle, zipfile and torch raise several kinds for a foreign file
        raise UserError(f"{file} does not hold torchvision's AlexNet: give its alexnet-owt-*.pth") from error


def _require(file: Path, what: str) -> None:
    if not Path(file).is_file():
        raise UserError(f"no file of {what} weights at {file}: give the path of a downloaded one")
