"""The block bootstrap of a mean: its coverage on series whose neighbours resemble each other."""

import numpy as np
import pytest

from metrics.intervals import block_bootstrap_mean


def test_it_is_wider_than_the_plain_bootstrap_where_neighbours_resemble_each_other() -> None:
    random = np.random.default_rng(0)
    held = {"block": 0, "plain": 0}
    for number in range(150):
        noise = random.normal(size=80)
        series = np.empty(80)
        series[0] = noise[0]
        for i in range(1, 80):
            series[i] = 0.6 * series[i - 1] + noise[i]
        low, high = block_bootstrap_mean(series, replicates=500, seed=number)
        held["block"] += low <= 0 <= high
        plain = random.choice(series, (500, 80)).mean(axis=1)
        held["plain"] += np.quantile(plain, 0.025) <= 0 <= np.quantile(plain, 0.975)
    assert held["block"] > held["plain"] + 10
    assert held["block"] >= 0.78 * 150


def test_a_constant_series_is_a_point_and_a_single_value_tells_nothing() -> None:
    assert block_bootstrap_mean([0.25] * 9) == pytest.approx((0.25, 0.25))
    assert np.isnan(block_bootstrap_mean([0.25])).all()
