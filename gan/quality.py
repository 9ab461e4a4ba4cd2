"""How good a generator is: distances, diversity, memorisation and findable faces, each beside its floor.

Distances are measured in the features of EfficientNet-lite0 and are therefore called FD-lite0 and KD-lite0. Both sides
are equal in number, resized once, and rounded to 8 bits. FID, KID and LPIPS come from their reference implementations,
given files of their networks' weights. Reals of the test split are never used.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor
from torch.utils.data import Dataset, Subset

from core.device import pick_device
from core.errors import UserError
from core.files import write_json
from core.manifest import Manifest
from faces.detection import MIN_CONFIDENCE, crop_detector, share_with_face
from faces.features import Features, features
from faces.loading import Crops, load_crops
from gan.checkpoint import generator_digest, load_generator
from gan.networks import Generator
from gan.sampling import Pixels, render, tiled
from metrics.distributions import Array, Estimate, frechet_distance, kernel_distance, nearest, precision_recall

# A generator that copied nothing has a hundredth of its samples nearer to a photograph than this share of photographs.
NEAR_SHARE = 0.01
SURE = 0.01  # p-value below which copying is said
NEIGHBOUR_COLUMNS = 12
MOST_VALIDATION_FACES = 500  # a second or three of a CPU core for every hundred, each time


@dataclass(frozen=True)
class Quality:
    """What was measured of a generator."""

    generator: str  # digest of its weights
    manifest: str  # digest of the reals
    psi: float  # truncation of the samples
    seed: int  # of the first sample
    count: int  # pictures on each side of every distance
    metrics: dict[str, float]  # beside `kd_lite0` stands `kd_lite0_floor`, the same between two halves of the reals
    memorises: bool  # whether samples are nearer to train photographs than chance explains
    notes: list[str] = field(default_factory=list)  # how faces were looked for; what was not measured, and why

    def table(self) -> pd.DataFrame:
        """A row a measure: its figure, and its floor between two halves of the reals where it has one."""
        names = [name for name in self.metrics if not name.endswith(("_floor", "_floor_sd", "_expected"))]
        floors = {name: f"{name}_floor" if not name.endswith("_sd") else f"{name[:-3]}_floor_sd" for name in names}
        floors |= {"near_copies": "near_copies_expected"}
        rows = [(name, self.metrics[name], self.metrics.get(floors[name])) for name in names]
        return pd.DataFrame(rows, columns=["measure", "samples", "real against real"])


def score_generator(
    folder: Path,
    manifest: Manifest,
    out: Path,
    cache: Path,
    *,
    samples: int | None = None,
    psi: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    inception: Path | None = None,
    alexnet: Path | None = None,
) -> Quality:
    """Measure a generator against the reals of train and val.

    Args:
        folder: a generator's checkpoint.
        manifest: its reals, split in two halves: one that samples are compared with, and one that gives the floor.
        out: gets `quality.json`, `neighbours.png`.
        cache: of decoded crops, see `faces.loading`.
        samples: pictures on each side, at most half of the reals, which is the default.
        psi: truncation of the samples; distances are those of the generator's own spread at 1.
        seed: of the first sample, and of the halves.
        device: where to compute.
        inception: file of Inception weights as torch-fidelity wants them; adds FID and KID.
        alexnet: file of torchvision's AlexNet weights; adds the LPIPS diversity.

    Raises:
        UserError: too few reals, no generator, or weights that do not fit.
    """
    target = pick_device(device)
    generator = load_generator(folder).to(target)
    reals = manifest.select(split=["train", "val"], label="real")
    half = len(reals) // 2
    count = min(samples or half, half)
    if count < 8:
        raise UserError(f"{len(reals)} real faces in train and val are too few to measure by: give at least 16")
    crops = load_crops(reals, generator.image_size, cache)
    order = np.random.default_rng(seed).permutation(len(reals))
    seen = _of_crops(crops, order[: 2 * count], target)
    one, other = Features(*(part[:count] for part in seen)), Features(*(part[count:] for part in seen))
    pictures = render(generator, range(seed, seed + count), psi)
    fake = of_pictures(pictures, target)
    notes: list[str] = []
    metrics = _distances(one, fake, "", notes) | _distances(one, other, "_floor", notes)
    out.mkdir(parents=True, exist_ok=True)
    memorises, nearby = _memorisation(reals, crops, pictures, fake.deep, target, out / "neighbours.png", notes)
    metrics |= nearby
    photographs = crops.batch(order[:count])
    metrics |= _findable(pictures, photographs, notes)
    if inception:
        metrics |= inception_distances(photographs, _tensor(pictures), inception, target)
    else:
        notes.append("FID and KID are not measured: give a file of Inception weights (--inception)")
    if alexnet:
        for suffix, side in (("", _tensor(pictures)), ("_floor", photographs)):
            metrics[f"lpips_diversity{suffix}"] = lpips_diversity(side, alexnet, target)
    else:
        notes.append("the LPIPS diversity is not measured: give a file of AlexNet weights (--alexnet)")
    quality = Quality(generator_digest(folder), reals.digest, psi, seed, count, metrics, memorises, notes)
    write_json(out / "quality.json", asdict(quality))
    return quality


def of_pictures(pictures: Pixels, device: torch.device | None = None) -> Features:
    """Features of uint8 [N, S, S, 3] pictures."""
    return features(len(pictures), lambda start, stop: _tensor(pictures[start:stop]), device)


class Validation:
    """The faces of the val split, and the kernel distance of a generator's samples to them (KD-lite0).

    Of more than 500 faces, a fixed choice. Features are computed on `device`; `cache` keeps decoded crops.
    """

    def __init__(self, faces: Manifest, image_size: int, cache: Path, device: torch.device) -> None:
        if len(faces) > MOST_VALIDATION_FACES:
            chosen = np.random.default_rng(0).permutation(len(faces))[:MOST_VALIDATION_FACES]
            faces = faces.where(np.isin(np.arange(len(faces)), chosen))
        self.faces, self.image_size, self.cache, self.device = faces, image_size, cache, device

    @cached_property
    def real(self) -> Features:
        """Features of the faces, computed at the first use."""
        crops = load_crops(self.faces, self.image_size, self.cache)
        return _of_crops(crops, np.arange(len(crops)), self.device)

    def distance(self, generator: Generator) -> Estimate:
        """Kernel distance between the faces and as many samples, at psi 1 and of always the same seeds."""
        pictures = render(generator, range(len(self.faces)), 1.0)
        return kernel_distance(self.real.deep, of_pictures(pictures, generator.constant.device).deep)


def _distances(real: Features, fake: Features, suffix: str, notes: list[str]) -> dict[str, float]:
    kernel = kernel_distance(real.deep, fake.deep)
    distances = {f"kd_lite0{suffix}": kernel.mean, f"kd_lite0{suffix}_sd": kernel.sd}
    try:
        distances[f"fd_lite0{suffix}"] = frechet_distance(real.stage, fake.stage)
    except UserError as error:
        if not suffix:
            notes.append(str(error))
    precision, recall = precision_recall(real.deep, fake.deep)
    return distances | {f"precision{suffix}": precision, f"recall{suffix}": recall}


def _findable(pictures: Pixels, photographs: Tensor, notes: list[str]) -> dict[str, float]:
    """Share of samples in which a detector finds a face, beside that of the reals at the same size."""
    try:
        finder = crop_detector()
    except UserError as error:
        notes.append(f"the share of samples with a findable face is not measured: {error}")
        return {}
    size = pictures.shape[1]
    notes.append(f"faces_found: by MTCNN with a confidence of at least {MIN_CONFIDENCE:g}, at {size} px on both sides")
    sides = {"faces_found": pictures, "faces_found_floor": photographs.permute(0, 2, 3, 1).numpy()}
    return {name: share_with_face(list(side), finder) for name, side in sides.items()}


def _memorisation(
    reals: Manifest, crops: Crops, pictures: Pixels, fake: Array, device: torch.device, path: Path, notes: list[str]
) -> tuple[bool, dict[str, float]]:
    """Whether samples repeat train photographs, by two binomial tests that must agree.

    A near copy is nearer to a train photograph than a hundredth of the train photographs are to each other (mirrored
    ones included, since training mirrors). The first test asks whether they are more than that hundredth; the second,
    after Meehan et al. 2020, whether they are more than the samples as near to as many photographs of val, which a
    generator that is merely good comes as near to. `fake`: [N, d] features of the pictures. Writes a sheet to `path`.
    """
    splits = reals.rows["split"].to_numpy(dtype=np.str_)
    train, held_out = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "val")
    if len(train) < 16:
        notes.append("memorisation is not measured: the train split has fewer than 16 real faces")
        return False, {}
    own = _of_crops(crops, train, device).deep
    mirrored = features(len(train), lambda start, stop: crops.batch(train[start:stop]).flip(3), device).deep
    index, distance = nearest(fake, np.concatenate([own, mirrored]))
    threshold = np.quantile(nearest(own, own, itself=True)[1], NEAR_SHARE)
    order = np.argsort(distance)[: 2 * NEIGHBOUR_COLUMNS]
    photographs = crops.batch(train[index[order] % len(train)]).permute(0, 2, 3, 1).numpy().copy()
    photographs[index[order] >= len(train)] = photographs[index[order] >= len(train), :, ::-1]
    _neighbour_sheet(pictures[order], photographs, distance[order] < threshold, path)
    near = int((distance < threshold).sum())
    measured = {"near_copies": near / len(fake), "near_copies_expected": NEAR_SHARE}
    sure = bool(binomtest(near, len(fake), NEAR_SHARE, "greater").pvalue < SURE)
    if len(held_out) < 16:
        notes.append("the val split has fewer than 16 real faces: memorisation is judged by distances alone")
        return sure, measured
    equal = min(len(train), len(held_out))
    chosen = np.random.default_rng(0).permutation(len(train))[:equal]
    others = own[chosen], _of_crops(crops, held_out[:equal], device).deep
    to_train, to_val = (int((nearest(fake, other)[1] < threshold).sum()) for other in others)
    measured |= {"near_as_many_train": to_train / len(fake), "near_as_many_val": to_val / len(fake)}
    sure = sure and bool(binomtest(to_train, max(1, to_train + to_val), 0.5, "greater").pvalue < SURE)
    return sure, measured


def _neighbour_sheet(pictures: Pixels, photographs: Pixels, near: NDArray[np.bool_], path: Path) -> None:
    """Samples [N, S, S, 3] above the photographs nearest to them; red frames mark near copies."""
    size, gap = pictures.shape[1], 4
    cells = np.full((len(near), 2 * (size + gap), size + gap, 3), 255, np.uint8)
    cells[near, : 2 * size + gap] = (200, 40, 40)
    cells[:, 2 : 2 + size, 2 : 2 + size] = pictures
    cells[:, 2 + size : 2 + 2 * size, 2 : 2 + size] = photographs
    image = Image.fromarray(tiled(cells, NEIGHBOUR_COLUMNS, fill=255))
    factor = max(1, 96 // size)
    image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST).save(path)


def _of_crops(crops: Crops, rows: NDArray[np.int64], device: torch.device) -> Features:
    return features(len(rows), lambda start, stop: crops.batch(rows[start:stop]), device)


def _tensor(pictures: Pixels) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


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
    _weights(weights, "Inception")  # torch-fidelity would run whatever a pickle says
    given = {"input1": _dataset(fake), "input2": _dataset(real), "feature_extractor_weights_path": str(weights)}
    # The pictures are in memory already: processes that load them would only cost.
    options = {"save_cpu_ram": True, "cuda": device.type == "cuda", "cache": False, "verbose": False}
    try:
        measured = calculate_metrics(fid=True, kid=True, kid_subset_size=min(1000, len(real) // 2), **given, **options)
    except Exception as error:  # torch raises several kinds for a foreign file
        raise UserError(f"{weights} does not work as Inception's weights for torch-fidelity: {error}") from error
    names = {"fid": "frechet_inception_distance"}
    names |= {"kid": "kernel_inception_distance_mean", "kid_sd": "kernel_inception_distance_std"}
    return {name: float(measured[theirs]) for name, theirs in names.items()}


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
    given = _weights(alexnet, "AlexNet")
    with torch.random.fork_rng(devices=[]):
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    try:
        # lpips' slices keep the numbers of torchvision's `features.N.*`.
        wanted = network.net.state_dict()
        network.net.load_state_dict({name: given[f"features.{name.split('.', 1)[1]}"] for name in wanted})
    except Exception as error:  # torch raises several kinds for a foreign file
        raise UserError(f"{alexnet} does not hold torchvision's AlexNet: give its alexnet-owt-*.pth") from error
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


def _dataset(pictures: Tensor) -> Dataset[Tensor]:
    """uint8 [N, 3, S, S] as torch-fidelity wants to be given pictures."""
    return Subset(cast("Dataset[Tensor]", pictures.contiguous()), range(len(pictures)))


def _weights(file: Path, what: str) -> Any:
    """What a file of tensors holds; one of anything else is refused, and no code that a pickle holds is run."""
    if not file.is_file():
        raise UserError(f"no file of {what} weights at {file}: give the path of a downloaded one")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile and torch raise several kinds
        raise UserError(f"{file} holds more than tensors, or is damaged: give a file of plain weights") from error
