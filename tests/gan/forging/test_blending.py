"""Blending: the photograph stays as it was outside the mask, points and colours go where they should."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gan.forging import blending

FRONTAL = np.array([[40, 45], [60, 45], [50, 57], [42, 68], [58, 68]], dtype=np.float32)
SHAPE = (112, 100)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)


def test_the_hull_holds_the_landmarks_and_is_a_face_s_size() -> None:
    mask = blending.hull_mask(blending.face_hull(FRONTAL), SHAPE)
    assert all(mask[int(y), int(x)] == 255 for x, y in FRONTAL)
    y, x = np.nonzero(mask)
    width, height = np.ptp(x) / 20, np.ptp(y) / 20  # in distances between the eyes
    assert 1.8 < width < 2.1
    assert 2.2 < height < 2.6
    assert set(np.unique(mask)) <= set(range(256))
    assert mask[0].max() == mask[:, 0].max() == 0


def test_hulls_of_one_face_differ_by_their_random_numbers() -> None:
    areas = [
        (blending.hull_mask(blending.face_hull(FRONTAL, np.random.default_rng(seed)), SHAPE) > 127).sum()
        for seed in range(20)
    ]
    assert max(areas) > 1.2 * min(areas)


def test_a_soft_mask_stays_within_the_hard_one_and_reaches_its_middle() -> None:
    mask = blending.hull_mask(blending.face_hull(FRONTAL), SHAPE)
    soft = blending.feathered(mask, 8)
    assert (soft <= mask).all()
    assert soft[57, 50] == 255
    between = (soft > 10) & (soft < 245)
    assert between.sum() > 200
    bent = blending.elastically_deformed(mask, np.random.default_rng(0), 20)
    overlap = ((bent > 127) & (mask > 127)).sum() / ((bent > 127) | (mask > 127)).sum()
    assert 0.75 < overlap < 0.995


@pytest.mark.parametrize(("scale", "degrees", "shift"), [(2.0, 20, (5, -3)), (0.4, -35, (0, 9)), (1.0, 0, (0, 0))])
def test_similarity_is_recovered_from_points(scale: float, degrees: float, shift: tuple[float, float]) -> None:
    turn = np.deg2rad(degrees)
    rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = (FRONTAL @ rotation.T + shift).astype(np.float32)
    matrix = blending.similarity(FRONTAL, moved)
    np.testing.assert_allclose(matrix, np.column_stack([rotation, shift]), atol=1e-4)


def test_a_mirrored_face_is_not_mirrored_back() -> None:
    mirrored = FRONTAL * [-1, 1] + [100, 0]
    matrix = blending.similarity(FRONTAL, mirrored.astype(np.float32))
    assert np.linalg.det(matrix[:, :2]) > 0


def test_warping_by_the_similarity_brings_the_landmarks_home() -> None:
    source = np.zeros((*SHAPE, 3), np.uint8)
    for x, y in FRONTAL.astype(int):
        source[y - 2 : y + 3, x - 2 : x + 3] = 255
    target = FRONTAL * 0.5 + 10
    there = blending.warped(source, blending.similarity(FRONTAL, target), SHAPE)
    for x, y in target:
        assert there[round(float(y)), round(float(x))].mean() > 120


def test_colours_are_carried_over_in_mean_and_deviation() -> None:
    random = np.random.default_rng(0)
    face = (random.normal(120, 20, (*SHAPE, 3)) * [0.9, 1, 1.1]).clip(0, 255).astype(np.float32)
    target = (random.normal(140, 15, (*SHAPE, 3)) * [1.2, 1, 0.8]).clip(0, 255).astype(np.float32)
    mask = blending.hull_mask(blending.face_hull(FRONTAL), SHAPE)
    moved = blending.colour_matched(face, target, mask)
    here = mask > 127
    own, other = (cv2.cvtColor(one / 255, cv2.COLOR_RGB2LAB)[here] for one in (moved, target))
    np.testing.assert_allclose(own.mean(axis=0), other.mean(axis=0), atol=0.5)
    np.testing.assert_allclose(own.std(axis=0), other.std(axis=0), rtol=0.1)


def test_a_clone_meets_the_photograph_at_the_edge_and_keeps_the_face_s_gradients() -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    target = np.repeat((60 + x)[..., None], 3, axis=2)
    detail = 10 * np.sin(x / 2)[..., None] * np.sin(y / 2)[..., None] * np.ones(3, np.float32)
    face = np.full_like(target, 200) + detail
    mask = blending.hull_mask(blending.face_hull(FRONTAL), SHAPE)
    clone = blending.poisson_cloned(face, target, mask)
    inside = mask > 127
    # The harmonic continuation of a linear slope is that slope: what is left of the difference is the detail.
    assert np.abs(clone - target - detail)[inside].mean() < 3
    assert np.abs(face - target - detail)[inside].mean() > 80
    everywhere = blending.poisson_cloned(face, target, np.full(SHAPE, 255, np.uint8))
    assert np.array_equal(everywhere, face)


def test_outside_the_mask_nothing_changes() -> None:
    target, face = picture(0), picture(1).astype(np.float32)
    mask = blending.feathered(blending.hull_mask(blending.face_hull(FRONTAL), SHAPE), 10)
    mixed = blending.composite(target, face, mask)
    assert np.array_equal(mixed[mask == 0], target[mask == 0])
    assert np.array_equal(mixed[mask == 255], face[mask == 255].astype(np.uint8))
    assert (mixed != target).any()
