"""The robustness ladder: how a detector's figures fall while the pictures get worse.

A detector is scored on the crops as they are, and on every rung of every ladder of `LADDERS` (`degrade`). The
threshold stays the one that was fixed on val: a detector whose AUC holds while its scores drift still calls every real
face fake. Figures are by source, with intervals over identities or sources.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv
from tqdm import tqdm

from classifier.evaluation import columns, per_source, score_table
from classifier.models.ensemble import FaceModel
from classifier.scoring import BATCH_SIZE
from core.cache import ContentCache
from core.errors import UserError
from core.files import digest, sha256, strict_json
from core.manifest import Manifest
from core.progress import progress_bar
from faces.augmentation import jpeg
from faces.loading import Crops, load_crops
from metrics.intervals import Interval, bootstrap_all

CLEAN = "clean"
LADDERS: dict[str, tuple[float, ...]] = {
    "jpeg": (90, 70, 50, 30, 15),  # quality of libjpeg
    "h264": (22, 27, 32, 37, 42),  # quantiser of x264's intra frames; c23 and c40 of FaceForensics++ lie in between
    "blur": (0.25, 0.5, 1.0, 1.5, 2.5),  # standard deviation, % of the side
    "noise": (2, 5, 10, 20, 35),  # standard deviation, grey levels
    "scaling": (0.75, 0.5, 0.35, 0.25, 0.15),  # down to this share of the side, and up again
    "gamma": (0.8, 1.25, 0.6, 1.7, 0.4),  # exponent of values in [0, 1]: below 1 is lighter; |log| rises
    "crop": (0.95, 0.9, 0.8, 0.7, 0.6),  # the middle share of the side, enlarged
}
"""The rungs of each ladder, the mildest first."""

LABELS = {
    "jpeg": "JPEG quality",
    "h264": "H.264 quantiser",
    "blur": "blur, % of the side",
    "noise": "noise, grey levels",
    "scaling": "down to and up again",
    "gamma": "gamma",
    "crop": "crop to the middle",
}


@dataclass(frozen=True)
class Rung:
    """One dataset at one level of one degradation; `clean` has level 0 and step 0."""

    dataset: str
    kind: str
    step: int  # 1 is the mildest
    level: float
    auc: Interval
    fpr: Interval  # at the fixed threshold
    recall: Interval

    @property
    def place(self) -> str:
        """The degradation and its level in words."""
        return "as is" if self.kind == CLEAN else f"{LABELS[self.kind]} {self.level:g}"


@dataclass(frozen=True)
class Ladder:
    """All rungs of all datasets, `clean` first."""

    threshold: float
    rungs: tuple[Rung, ...]

    @property
    def datasets(self) -> list[str]:
        """Their names, in order."""
        return list(dict.fromkeys(rung.dataset for rung in self.rungs))

    @property
    def kinds(self) -> list[str]:
        """The degradations, in order."""
        return list(dict.fromkeys(rung.kind for rung in self.rungs if rung.kind != CLEAN))

    def along(self, dataset: str, kind: str) -> list[Rung]:
        """The rungs of one ladder on one dataset, from clean to worst."""
        return [rung for rung in self.rungs if rung.dataset == dataset and rung.kind in (CLEAN, kind)]

    def clean(self, dataset: str) -> Rung:
        """The crops as they are."""
        return self.along(dataset, CLEAN)[0]

    def worst(self, dataset: str) -> Rung:
        """The rung with the lowest AUC: the figure that a claim of robustness rests on."""
        own = [rung for rung in self.rungs if rung.dataset == dataset and not math.isnan(rung.auc.value)]
        return min(own, key=lambda rung: rung.auc.value, default=self.clean(dataset))

    def most_false_alarms(self, dataset: str) -> Rung:
        """The rung with the highest share of reals called fake at the fixed threshold."""
        own = [rung for rung in self.rungs if rung.dataset == dataset and not math.isnan(rung.fpr.value)]
        return max(own, key=lambda rung: rung.fpr.value, default=self.clean(dataset))

    def to_json(self) -> str:
        """Strict JSON; what is not a number becomes null."""
        return strict_json(asdict(self), indent=1)


def robustness(
    detector: FaceModel,
    manifest: Manifest,
    cache: Path,
    *,
    ladders: Mapping[str, Sequence[float]] = LADDERS,
    store: Path | None = None,
    batch_size: int = BATCH_SIZE,
    replicates: int = 2000,
    seed: int = 0,
) -> Ladder:
    """The detector's figures on every rung, for each dataset of the manifest.

    Degradations hit the crops at the detector's own size. The same call gives the same figures.

    Args:
        manifest: rows to score; whoever hands in test rows has opened them.
        ladders: levels by kind, the mildest first; kinds of `LADDERS`.
        store: folder that keeps the scores of finished rungs, so that a killed job goes on from them.
        replicates: of the bootstrap; seed: of the bootstrap and of the noise.

    Raises:
        UserError: there are no rows.
    """
    if not len(manifest):
        raise UserError("there are no rows to degrade: choose a manifest, split or dataset that has some")
    rungs = [(CLEAN, 0, 0.0)]
    rungs += [(kind, step, level) for kind, levels in ladders.items() for step, level in enumerate(levels, start=1)]
    crops = load_crops(manifest, detector.config.image_size, cache)
    detector.eval()
    found: list[Rung] = []
    hashes: list[str] = manifest.rows["sha256"].tolist()
    options: dict[str, Any] = {"replicates": replicates, "seed": seed, "threshold": detector.threshold}
    with progress_bar(len(rungs) * len(manifest), "robustness", "crop") as bar:
        for kind, step, level in rungs:
            key = f"{detector.digest}/{manifest.digest}/{kind}/{level}/{seed}"
            known = ContentCache(store / f"{kind}-{level:g}-{digest(key, length=12)}", "<f8") if store else None
            if known is not None and not known.lacking(hashes):
                scores = np.asarray(known.rows(hashes), dtype=np.float64)
                bar.update(len(manifest))
            else:
                bar.set_postfix_str(f"{kind} {level:g}" if step else CLEAN)
                scores = _score(detector, crops, np.array(hashes), kind, level, batch_size, seed, bar)
                if known is not None:
                    known.add(hashes, scores)
            for name, table in per_source(score_table(manifest.rows, scores)).groupby("dataset"):
                intervals = bootstrap_all(*columns(table), ("auc", "fpr", "recall"), **options)
                found.append(Rung(str(name), kind, step, level, **intervals))
    return Ladder(detector.threshold, tuple(found))


@torch.inference_mode()
def _score(
    detector: FaceModel,
    crops: Crops,
    hashes: NDArray[np.str_],
    kind: str,
    level: float,
    batch_size: int,
    seed: int,
    bar: tqdm,
) -> NDArray[np.float64]:
    """[N] P(fake) of the degraded crops, in batches by hash, so that a shuffled manifest makes the same ones."""
    order = np.argsort(hashes, kind="stable")
    scores = np.empty(len(order), dtype=np.float64)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        images = crops.batch(rows)
        if kind != CLEAN:
            images = degrade(images, kind, level, hashes[rows], seed)
        images = images.contiguous(memory_format=torch.channels_last).to(detector.mean.device)
        scores[rows] = detector.probability(images).float().cpu().numpy()
        bar.update(len(rows))
    return scores


def degrade(images: Tensor, kind: str, level: float, keys: Iterable[str] | None = None, seed: int = 0) -> Tensor:
    """Degraded copies of the pictures.

    Args:
        images: uint8 [B, 3, S, S] on the CPU.
        kind: a key of LADDERS.
        level: any value of the kind's unit, not only a rung.
        keys: a name of each picture (its hash), from which noise is drawn; by default its bytes.

    Raises:
        ValueError: the kind is unknown, or the pictures are not uint8 [B, 3, S, S].
        UserError: kind is h264 and this build of PyAV has no libx264.
    """
    if kind not in LADDERS:
        raise ValueError(f"there is no degradation {kind!r}: choose one of {', '.join(LADDERS)}")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"pictures must be uint8 [B, 3, H, W], not {images.dtype} {list(images.shape)}")
    if not len(images):
        return images
    if kind == "noise":
        return _noise(images, level, keys, seed)
    return _FUNCTIONS[kind](images, level)


def _h264(images: Tensor, quantiser: float) -> Tensor:
    """Each picture as an intra frame of one stream: at a constant quantiser, frames know nothing of each other."""
    height, width = images.shape[2:]
    padded = F.pad(images, (0, width % 2, 0, height % 2), mode="replicate")  # 4:2:0 wants even sides
    try:
        encoder = av.CodecContext.create("libx264", "w")
    except (av.codec.codec.UnknownCodecError, ValueError) as error:
        raise UserError("this PyAV has no libx264: leave h264 out of the ladders, or install the wheel `av`") from error
    encoder.height, encoder.width = padded.shape[2:]
    encoder.pix_fmt, encoder.time_base, encoder.thread_count = "yuv420p", Fraction(1, 25), 1
    encoder.options = {"qp": str(int(quantiser)), "preset": "veryfast", "g": "1", "bf": "0", "tune": "zerolatency"}
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    packets = []
    for number, picture in enumerate(padded.permute(0, 2, 3, 1).contiguous().numpy()):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoded = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
    return torch.from_numpy(pictures[:, :height, :width]).permute(0, 3, 1, 2)


def _blur(images: Tensor, share: float) -> Tensor:
    sigma = share / 100 * images.shape[-1]
    radius = min(
        max(1, round(3 * sigma)), min(images.shape[2:]) - 1
    )  # the mirrored border cannot be wider than the picture
    return tv.gaussian_blur(images, [2 * radius + 1] * 2, [sigma, sigma])


def _noise(images: Tensor, deviation: float, keys: Iterable[str] | None, seed: int) -> Tensor:
    names = [sha256(one.numpy().tobytes()) for one in images] if keys is None else keys
    result = np.empty(tuple(images.shape), dtype=np.uint8)
    for place, (name, picture) in enumerate(zip(names, images.numpy(), strict=True)):
        random = np.random.default_rng(int(digest(f"{seed}/{deviation}/{name}"), 16))
        drawn = random.standard_normal(picture.shape, dtype=np.float32) * np.float32(deviation)
        result[place] = np.rint(picture + drawn).clip(0, 255)
    return torch.from_numpy(result)


def _scaling(images: Tensor, share: float) -> Tensor:
    side = list(images.shape[2:])
    small = tv.resize(images, [max(1, round(one * share)) for one in side], antialias=True)
    return tv.resize(small, side, antialias=True)


def _gamma(images: Tensor, exponent: float) -> Tensor:
    table = torch.round(255 * (torch.arange(256) / 255) ** exponent).to(torch.uint8)
    return table[images.long()]


def _crop(images: Tensor, share: float) -> Tensor:
    height, width = images.shape[2:]
    inner = tv.center_crop(images, [max(1, round(height * share)), max(1, round(width * share))])
    return tv.resize(inner, [height, width], interpolation=tv.InterpolationMode.BICUBIC, antialias=True)


_FUNCTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {  # noise stands apart: it wants to know the pictures
    "jpeg": lambda images, quality: jpeg(images, [int(quality)] * len(images)),
    "h264": _h264,
    "blur": _blur,
    "scaling": _scaling,
    "gamma": _gamma,
    "crop": _crop,
}
