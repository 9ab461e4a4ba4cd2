"""Which checkpoint of a training is the best: the one whose samples are nearest to faces that it has not seen."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from faces.lite0 import Features, features
from faces.loading import load_crops
from faces.manifest import Manifest
from gan.distances import Estimate
from gan.generator import Generator
from gan.quality import sampled_distance

# Below this many the distance says little more than which faces they happen to be.
FEWEST_FACES = 50
# A second or three of a CPU core for every hundred, each time.
MOST_FACES = 500

_log = logging.getLogger(__name__)


class Validation:
    """The faces of the val split, and the kernel distance of a generator's samples to them (KD-lite0).

    Args:
        faces: any number; of more than 500, a fixed choice.
        image_size: side of the pictures.
        cache: folder of decoded crops.
        device: where features are computed.
    """

    def __init__(self, faces: Manifest, image_size: int, cache: Path, device: torch.device) -> None:
        if len(faces) > MOST_FACES:
            chosen = np.random.default_rng(0).permutation(len(faces))[:MOST_FACES]
            faces = faces.where(np.isin(np.arange(len(faces)), chosen))
        self.faces, self.image_size, self.cache, self.device = faces, image_size, cache, device

    @cached_property
    def seen(self) -> Features:
        """Features of the faces, computed at the first use."""
        crops = load_crops(self.faces, self.image_size, self.cache)
        return features(len(crops), lambda start, stop: crops.batch(np.arange(start, stop)), self.device)

    def distance(self, generator: Generator) -> Estimate:
        """Kernel distance between the faces and as many samples of always the same seeds."""
        return sampled_distance(generator, self.seen)


def validation_of(faces: Manifest, image_size: int, cache: Path, device: torch.device) -> Validation | None:
    """A validation on these faces of the val split, or None, with a line in the log, if they are too few."""
    if len(faces) >= FEWEST_FACES:
        return Validation(faces, image_size, cache, device)
    _log.warning(
        "%d faces in the val split are too few to validate by (%d are needed):"
        " the last generator is kept, and nothing stops early",
        len(faces),
        FEWEST_FACES,
    )
    return None
