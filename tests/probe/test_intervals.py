"""Intervals against what is known: constants, a normal law, a hand-made Holm table."""

from __future__ import annotations

import numpy as np
import pytest

from mixtura.probe.intervals import DRAWS, bits_per_byte, difference, holm


def test_bits_per_byte_is_of_all_rows_together():
    size = np.array([10.0, 30.0])
    nats = np.log(2) * np.array([[20.0, 20.0], [40.0, 40.0]])  # 1 and 2 bits per byte
    assert bits_per_byte(nats, size) == pytest.approx(1.5)
    assert bits_per_byte(nats[0], size) == pytest.approx(1.0)


def test_a_constant_gain_has_no_interval():
    size = np.full(50, 100.0)
    theirs = np.full((3, 50), 100 * np.log(2))
    found = difference(theirs, theirs * 0.9, size)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.p == 1 / DRAWS


def test_no_difference_is_symmetric_and_insignificant():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 5, (4, 300))
    theirs = 100 + noise - noise.mean()
    ours = np.full_like(theirs, 100.0)
    found = difference(theirs, ours, np.full(300, 100.0))
    back = difference(ours, theirs, np.full(300, 100.0))
    assert found.low < 0 < found.high
    assert found.p > 0.5
    assert back.mean == pytest.approx(-found.mean)


def test_the_interval_over_rows_is_the_normal_one():
    """One seed: the bootstrap of a mean is its standard error."""
    rng = np.random.default_rng(1)
    gain = rng.normal(3, 10, (1, 400)) * np.log(2)
    size = np.ones(400)
    found = difference(gain, np.zeros_like(gain), size)
    error = 1.96 * (gain / np.log(2)).std() / 20
    assert found.high - found.low == pytest.approx(2 * error, rel=0.1)


def test_seeds_widen_the_interval():
    """The same spread between seeds that rows alone cannot show."""
    gain = np.repeat(np.array([[1.0], [2.0], [6.0]]), 100, axis=1) * np.log(2)
    found = difference(gain, np.zeros_like(gain), np.ones(100))
    assert found.mean == pytest.approx(3.0)
    assert found.low < 1.4
    assert found.high > 4.5


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.5, "b": 0.9}) == {"a": 1.0, "b": 1.0}
