"""Venn-Abers intervals against a slow reference, their calibration on made data, and their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from classifier.venn_abers import VAL, ValScores, VennAbers
from core.errors import UserError


def pooled(targets: list[int]) -> list[float]:
    """Isotonic regression by pooling adjacent violators, for scores in rising order."""
    blocks: list[list[float]] = []
    for target in targets:
        blocks.append([float(target), 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    return [total / count for total, count in blocks for _ in range(int(count))]


def test_the_ends_are_those_of_two_isotonic_regressions() -> None:
    random = np.random.default_rng(0)
    logits = np.sort(random.normal(size=40))
    targets = (random.uniform(size=40) < expit(logits)).astype(int)
    intervals = VennAbers(ValScores.of(logits, targets, np.arange(40)))
    for value in (-5.0, -0.31, 0.02, 0.77, 5.0):
        place = int(np.searchsorted(logits, np.float32(value)))
        ends = [pooled([*targets[:place], assumed, *targets[place:]])[place] for assumed in (0, 1)]
        assert intervals([value])[0] == pytest.approx(ends, abs=1e-12)
        assert ends[0] <= ends[1]


def test_faces_with_such_a_score_are_fake_as_often_as_the_interval_says() -> None:
    random = np.random.default_rng(1)

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
        logits = random.normal(scale=2, size=count)
        return logits * 3 + 1, (random.uniform(size=count) < expit(logits)).astype(
            int
        )  # scores that are badly calibrated

    low, high, truth = [], [], []
    for _ in range(30):
        logits, targets = drawn(150)
        new, fake = drawn(40)
        ends = VennAbers(ValScores.of(logits, targets, np.arange(150)))(new)
        low.append(ends[:, 0])
        high.append(ends[:, 1])
        truth.append(fake)
    share = np.mean(truth)
    error = 3 * np.std(truth) / np.sqrt(np.size(truth))
    assert np.mean(low) - error <= share <= np.mean(high) + error
    confident = np.concatenate(low) > 0.9
    assert np.concatenate(truth)[confident].mean() > 0.85


def test_many_frames_of_one_person_say_no_more_than_one() -> None:
    random = np.random.default_rng(2)
    logits = np.concatenate([random.normal(-2, 0.1, 6), random.normal(2, 0.1, 6)])
    targets = np.repeat([0, 1], 6)
    few = VennAbers(ValScores.of(logits, targets, np.arange(12)))([3.0])[0]
    many = VennAbers(ValScores.of(np.repeat(logits, 50), np.repeat(targets, 50), np.repeat(np.arange(12), 50)))([3.0])[
        0
    ]
    assert many == pytest.approx(few, abs=0.02)


def test_a_val_split_of_one_class_says_nothing() -> None:
    intervals = VennAbers(ValScores.of([0.0, 1.0], [1, 1], ["a", "b"]))
    assert not intervals.possible
    assert np.isnan(intervals([0.5])).all()


def test_the_file_comes_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    assert ValScores.read(tmp_path) is None
    val = ValScores.of([0.5, -1.0, 2.0], [1, 0, 1], ["b", "a", "b"])
    val.save(tmp_path)
    back = ValScores.read(tmp_path)
    assert back is not None
    assert back.logits.tolist() == [0.5, -1.0, 2.0]
    assert back.targets.tolist() == [1, 0, 1]
    assert back.groups.tolist() == [1, 0, 1]
    ValScores.of([np.nan], [1], ["a"]).save(tmp_path)
    with pytest.raises(UserError, match="damaged"):
        ValScores.read(tmp_path)
    (tmp_path / VAL).write_bytes(b"no tensors")
    with pytest.raises(UserError, match="damaged"):
        ValScores.read(tmp_path)
