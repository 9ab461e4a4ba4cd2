"""Blending a face into a photograph: hull, soft mask, alignment, colours, noise, gradients along the edge.

Everything here is a pure function of pictures, landmarks and a random generator that is passed in. Pictures are
[H, W, 3] RGB of any size, uint8 or float32 in [0, 255]; masks [H, W] uint8, 0 where the photograph stays as it is.
Landmarks are MTCNN's five: [5, 2] x, y of the left and right eye of the picture, nose, left and right mouth corner.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.linalg import spsolve

from gan.forging.degradation import Floats, Pixels, noise_level, to_ycc

# A frontal face in units of the distance between the eyes, their middle at 0, y downwards: the five landmarks, and the
# outline of what makes a face (brows, temples, cheeks, jaw, chin), as drawn over the mean of aligned portraits.
FRONTAL_LANDMARKS = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.57], [-0.41, 1.15], [0.41, 1.15]], dtype=np.float64)
_OUTLINE = np.array(
    [
        [-0.95, -0.12], [-0.80, -0.42], [-0.45, -0.55], [0.0, -0.52], [0.45, -0.55], [0.80, -0.42], [0.95, -0.12],
        [0.93, 0.45], [0.84, 0.95], [0.65, 1.40], [0.35, 1.72], [0.0, 1.82],
        [-0.35, 1.72], [-0.65, 1.40], [-0.84, 0.95], [-0.93, 0.45],
    ],
    dtype=np.float64,
)  # fmt: skip
_BROWS = slice(1, 6)
_MEMBRANE_PIXELS = 48  # side of the grid that Poisson's equation is solved on: its solution is smooth


def eye_distance(landmarks: Floats) -> float:
    """The distance between the eyes in pixels, or two thirds of eyes to mouth where a profile foreshortens it."""
    eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    across, down = np.linalg.norm(landmarks[1] - landmarks[0]), np.linalg.norm(mouth - eyes)
    return max(float(across), float(down) / 1.5, 1.0)


def face_hull(landmarks: Floats, random: np.random.Generator | None = None) -> Floats:
    """[K, 2] the convex hull of a face.

    The outline of a frontal face is laid on by the affine map that fits the five landmarks best, and joined by the
    landmarks themselves. With `random` it varies as masks of swapping tools do: more or less forehead, cheeks and chin.
    """
    outline = _OUTLINE.copy()
    if random is not None:
        outline[:, 0] *= random.uniform(0.80, 1.02)
        outline[_BROWS, 1] *= random.uniform(0.55, 1.25)
        outline[9:14, 1] = 1.15 + (outline[9:14, 1] - 1.15) * random.uniform(0.55, 1.05)
    design = np.column_stack([FRONTAL_LANDMARKS, np.ones(5)])
    affine = np.linalg.lstsq(design, landmarks.astype(np.float64), rcond=None)[0]
    points = np.column_stack([outline, np.ones(len(outline))]) @ affine
    return np.asarray(cv2.convexHull(np.concatenate([points, landmarks]).astype(np.float32)))[:, 0]


def hull_mask(hull: Floats, shape: tuple[int, int]) -> Pixels:
    """[H, W] 255 inside a convex hull, 0 outside, to a sixteenth of a pixel."""
    mask = np.zeros(shape, dtype=np.uint8)
    cv2.fillConvexPoly(mask, np.round(hull * 16).astype(np.int32), 255, lineType=cv2.LINE_AA, shift=4)
    return mask


def elastically_deformed(mask: Pixels, random: np.random.Generator, scale: float) -> Pixels:
    """The mask with an elastically bent edge (Simard et al. 2003), as self-blended images use.

    It moves by up to about a tenth of `scale`, the distance between the eyes in pixels.
    """
    # Drawn coarsely, so that a large photograph costs no more numbers than a small one.
    coarse = random.normal(size=(8, 8, 2)).astype(np.float32)
    shift = cv2.resize(coarse, mask.shape[::-1], interpolation=cv2.INTER_CUBIC) * (0.05 * scale)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(np.float32)
    return np.asarray(cv2.remap(mask, x + shift[..., 0], y + shift[..., 1], cv2.INTER_LINEAR))


def feathered(mask: Pixels, pixels: float) -> Pixels:
    """The mask with an edge that rises over about `pixels` inwards; outside the mask it stays 0."""
    sigma = max(pixels, 0.3) / 2
    size = 2 * max(1, round(sigma)) + 1
    inner = cv2.erode(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), borderValue=255)
    return np.minimum(_blurred(inner, sigma), mask)


def similarity(source: Floats, target: Floats) -> Floats:
    """[2, 3] the shift, turn and scale that bring points [N, 2] onto others with the least squared error, N from 2.

    Umeyama, PAMI 1991, eqs. 40-42, without reflection: a face must not be mirrored.
    """
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    a, b = (source - mean_source).astype(np.float64), (target - mean_target).astype(np.float64)
    u, values, vt = np.linalg.svd(b.T @ a / len(a))
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    rotation = u @ np.diag(signs) @ vt
    scale = float((values * signs).sum() / max(a.var(axis=0).sum(), 1e-9))
    matrix = np.column_stack([scale * rotation, mean_target - scale * rotation @ mean_source])
    return matrix.astype(np.float32)


def warped(picture: Pixels | Floats, matrix: Floats, shape: tuple[int, int], border: float | None = None) -> Floats:
    """The picture under an affine map of its coordinates, cubic, [H, W(, 3)] float32 of `shape`.

    Beyond its edges stands `border`, or what stands at the edge.
    """
    # A map that shrinks would alias: the picture is smoothed first by what is lost.
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    floats = picture.astype(np.float32)
    if scale < 0.9:
        floats = _blurred(floats, 0.5 * (1 / scale**2 - 1) ** 0.5)
    mode = cv2.BORDER_REPLICATE if border is None else cv2.BORDER_CONSTANT
    edge = border or 0.0
    return np.asarray(cv2.warpAffine(floats, matrix, shape[::-1], None, cv2.INTER_CUBIC, mode, edge))


def _blurred(picture: Pixels | Floats, sigma: float) -> Any:
    return cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def colour_matched(face: Floats, target: Floats, mask: Pixels) -> Floats:
    """`face` with the mean and deviation of `target` in L*a*b*, under the mask (Reinhard et al. 2001, eqs. 10-11)."""
    own = cv2.cvtColor(np.clip(face, 0, 255) / 255, cv2.COLOR_RGB2LAB)
    other = cv2.cvtColor(np.clip(target, 0, 255) / 255, cv2.COLOR_RGB2LAB)
    here = mask > 127
    if not here.any():
        return face
    mean, deviation = own[here].mean(axis=0), own[here].std(axis=0)
    # Flat faces must not turn to noise.
    ratio = np.clip(other[here].std(axis=0) / np.maximum(deviation, 1e-3), 0.5, 2.0)
    moved = ((own - mean) * ratio + other[here].mean(axis=0)).astype(np.float32)
    return np.asarray(np.clip(cv2.cvtColor(moved, cv2.COLOR_LAB2RGB), 0, 1) * np.float32(255))


def poisson_cloned(face: Floats, target: Floats, mask: Pixels) -> Floats:
    """`face` with its own gradients but the target's values along the mask's edge (Pérez, Gangnet, Blake 2003, eq. 4).

    What is added to the face is the membrane that continues `target - face` from the edge inwards. It is harmonic,
    hence smooth: it is solved on a coarse grid, exactly, and enlarged, in milliseconds for a photograph of any size.
    Edges of the picture that the mask touches are left free. (OpenCV 5.0's seamlessClone was found to change pixels
    outside the mask, and to leave some faces as they were.)
    """
    height, width = mask.shape
    scale = min(1.0, _MEMBRANE_PIXELS / max(height, width))
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    outside = (mask == 0).astype(np.float32)
    weight = cv2.resize(outside, size, interpolation=cv2.INTER_AREA)
    known = weight > 0.25
    if known.all() or not known.any():
        return face
    difference = cv2.resize((target - face) * outside[..., None], size, interpolation=cv2.INTER_AREA)
    membrane = np.where(known[..., None], difference / np.maximum(weight, 0.25)[..., None], 0).astype(np.float32)
    membrane[~known] = _harmonic(membrane, ~known)
    return face + np.asarray(cv2.resize(membrane, (width, height), interpolation=cv2.INTER_LINEAR))


def _harmonic(values: Floats, unknown: NDArray[np.bool_]) -> Floats:
    """[K, C] the harmonic function at the unknown cells, given its values at the others; free at the grid's border."""
    number = np.full(unknown.shape, -1)
    number[unknown] = np.arange(unknown.sum())
    y, x = np.nonzero(unknown)
    count = len(y)
    right = np.zeros((count, values.shape[2]))
    degree = np.zeros(count)
    rows, columns = [np.arange(count)], [np.arange(count)]
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        there_y, there_x = y + dy, x + dx
        inside = (there_y >= 0) & (there_y < unknown.shape[0]) & (there_x >= 0) & (there_x < unknown.shape[1])
        degree += inside
        at = np.flatnonzero(inside)
        neighbour = number[there_y[at], there_x[at]]
        fixed = neighbour < 0
        right[at[fixed]] += values[there_y[at[fixed]], there_x[at[fixed]]]
        rows.append(at[~fixed])
        columns.append(neighbour[~fixed])
    entries = np.concatenate([degree, -np.ones(sum(map(len, rows[1:])))])
    matrix = coo_array((entries, (np.concatenate(rows), np.concatenate(columns))), (count, count))
    return np.asarray(spsolve(matrix.tocsc(), right), dtype=np.float32).reshape(count, -1)


def composite(target: Pixels, face: Floats, mask: Pixels) -> Pixels:
    """`face` over `target`, weighted by the mask; where the mask is 0 the target is kept exactly."""
    weight = mask.astype(np.float32)[..., None] / 255
    return np.asarray(np.rint(np.clip(target + weight * (face - target), 0, 255)).astype(np.uint8))


def transformed(picture: Pixels, random: np.random.Generator, scale: float, *, grey: bool) -> Floats:
    """The picture in slightly other colours, and a little softer or sharper: the source of a self-blended image.

    Ranges are those of the transforms of Shiohara and Yamasaki (CVPR 2022): 20 levels a channel, 0.3 of the hue circle
    in its library's units of degrees (so: next to nothing) and of saturation and value likewise, 10 % of brightness and
    contrast.
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
        size = (max(2, round(width / factor)), max(2, round(height / factor)))
        small = cv2.resize(floats, size, interpolation=cv2.INTER_AREA)
        floats = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    else:
        floats = floats + np.float32(random.uniform(0.3, 1.0)) * (floats - _blurred(floats, 1.0))
    return np.asarray(np.clip(floats, 0, 255), dtype=np.float32)


def noise_matched(face: Floats, target: Floats, mask: Pixels, random: np.random.Generator) -> Floats:
    """The face with as much noise as the photograph has under the mask, if it has less."""
    y, x = np.nonzero(mask)
    if not len(y):
        return face
    window = (slice(int(y.min()), int(y.max()) + 1), slice(int(x.min()), int(x.max()) + 1))
    grain = random.normal(size=(*face.shape[:2], 1)).astype(np.float32)
    wanted, own = noise_level(to_ycc(target[window]))[0], noise_level(to_ycc(face[window]))[0]
    return face + grain * np.float32(max(wanted**2 - own**2, 0.0) ** 0.5)
