"""Where a backbone's weights come from: a local file, timm's cache, or the hub that it is filled from."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import cast
from urllib.parse import urlparse

import huggingface_hub
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.models import load_state_dict
from torch import Tensor

from faces.errors import UserError

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


def imagenet_file(name: str, timm_name: str, offline: str) -> Path:
    """The file of the weights that timm's name stands for, from the cache or from the hub.

    The hub is first asked once with a short time-out: its client alone retries for 45 s where there is no network.

    Raises:
        UserError: it is in neither; the message names the backbone `offline`, which needs no hub.
    """
    config = timm.get_pretrained_cfg(timm_name)
    try:
        return _from_hub(config.hf_hub_id) if config.hf_hub_id else _from_url(config.url)
    except Exception as error:  # httpx, urllib and the hub's client have a dozen kinds for one broken connection
        raise UserError(
            f"the ImageNet weights of {name} ({config.hf_hub_id or config.url}) are not in the cache and the hub "
            f"cannot be reached: use --weights FILE, the backbone {offline} (its weights are installed), "
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
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_HUB_TIMEOUT_S).close()
        cached.parent.mkdir(parents=True, exist_ok=True)
        # The digits behind the dash of the file's name begin its SHA-256.
        prefix = cached.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(cached), hash_prefix=prefix)
    return cached
