"""How long one face takes, measured where it is asked, two detectors turn by turn so that a busy machine hits both."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from classifier.ensemble import FaceModel

_WARM_UP = 3


@torch.inference_mode()
def milliseconds_per_image(detectors: Sequence[FaceModel], repeats: int = 30, batch_size: int = 1) -> list[float]:
    """The median wall time of a forward pass of each detector, in ms an image, on the device that it lies on.

    From uint8 pictures of its own size in memory to probabilities; decoding and face detection are not in it.
    """
    random = torch.Generator().manual_seed(0)
    batches = [
        torch.randint(
            0, 256, (batch_size, 3, detector.config.image_size, detector.config.image_size), generator=random
        ).to(detector.mean.device, torch.uint8)
        for detector in detectors
    ]
    times: list[list[float]] = [[] for _ in detectors]
    for turn in range(_WARM_UP + repeats):
        for own, detector, images in zip(times, detectors, batches, strict=True):
            started = time.perf_counter()
            detector.probability(images).cpu()  # the copy waits for the device
            if turn >= _WARM_UP:
                own.append((time.perf_counter() - started) * 1000 / batch_size)
    return [float(np.median(own)) for own in times]
