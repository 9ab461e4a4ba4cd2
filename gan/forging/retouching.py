"""What is done to a face before it is blended in: other colours and sharpness, or the photograph's grain."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gan.forging.degradation import noise_level, to_ycc
from gan.forging.encoding import Pixels

Floats = NDArray[np.float32]


def changed(picture: Pixels, random: np.random.Generator, scale: float, *, grey: bool) -> Floats:
    """The picture in slightly other colours, and a little softer or sharper.

    Ranges are those of the paper's own transforms: 20 levels a channel, 0.3 of the hue circle in its library's units of
    degrees (so: next to nothing) and of saturation and value likewise, 10 % of brightness and contrast.
    """
    floats = picture.astype(np.float32)
    if not grey:
        floats = np.clip(floats + random.uniform(-20, 20, 3).astype(np.float32), 0, 255)
        hsv = cv2.cvtColor(floats / 255, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = np.clip(hsv[..., 1] * random.uniform(0.8, 1.2), 0, 1)
        floats = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * np.float32(255)
    floats = (floats - 127.5) * np.float32(random.uniform(0.9, 1.1)) + np.float32(127.5 + random.uniform(-25, 25))
    if random.random() < 0.5:  # as if it had been made at a half or a quarter of the size
        height, width = picture.shape[:2]
        factor = random.choice([2, 4]) if scale > 40 else random.uniform(1.2, 2)
        small = cv2.resize(
            floats, (max(2, round(width / factor)), max(2, round(height / factor))), interpolation=cv2.INTER_AREA
        )
        floats = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    else:
        soft = cv2.GaussianBlur(floats, (0, 0), 1.0, borderType=cv2.BORDER_REPLICATE)
        floats = floats + np.float32(random.uniform(0.3, 1.0)) * (floats - soft)
    changed: Floats = np.clip(floats, 0, 255).astype(np.float32)
    return changed


def grained(face: Floats, target: Floats, mask: Pixels, random: np.random.Generator) -> Floats:
    """The face with as much noise as the photograph has under the mask, if it has less."""
    y, x = np.nonzero(mask)
    if not len(y):
        return face
    window = (slice(int(y.min()), int(y.max()) + 1), slice(int(x.min()), int(x.max()) + 1))
    grain = random.normal(size=(*face.shape[:2], 1)).astype(np.float32)
    wanted, own = noise_level(to_ycc(target[window]))[0], noise_level(to_ycc(face[window]))[0]
    return face + grain * np.float32(max(wanted**2 - own**2, 0.0) ** 0.5)
