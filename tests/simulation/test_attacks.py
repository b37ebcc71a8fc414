"""What attackers send, computed by hand."""

from statistics import NormalDist

import numpy as np
import pytest

from simulation import attacks

DELTA = {
    "a": np.array([[1.0, -2.0]], np.float32),
    "b": np.array([0.0, 2.0], np.float32),
}


def test_a_share_of_the_participants_attacks_always_the_same() -> None:
    found = attacks.attackers(20, 0.2, seed=5)
    assert len(found) == 4
    assert found == attacks.attackers(20, 0.2, seed=5)
    assert found != attacks.attackers(20, 0.2, seed=6)
    assert found <= set(range(20))


def test_labels_are_flipped_end_to_end() -> None:
    np.testing.assert_array_equal(attacks.flipped(np.array([0, 1, 9]), 10), [9, 8, 0])


def test_a_flipped_sign_is_four_times_as_long() -> None:
    sent = attacks.disguised("sign_flip", DELTA, strength=None, seed=0)
    np.testing.assert_array_equal(sent["a"], [[-4.0, 8.0]])
    np.testing.assert_array_equal(sent["b"], [0.0, -8.0])


def test_a_scaled_update_is_ten_times_as_long_or_as_one_says() -> None:
    assert attacks.disguised("scaled", DELTA, strength=None, seed=0)["b"].tolist() == [0.0, 20.0]
    assert attacks.disguised("scaled", DELTA, strength=3.0, seed=0)["b"].tolist() == [0.0, 6.0]


def test_noise_is_ten_times_the_root_mean_square() -> None:
    """Of DELTA that is √(9 / 4) = 1.5; so the noise has a deviation of 15."""
    many = {"a": np.tile(DELTA["a"], (5000, 1)), "b": np.tile(DELTA["b"], 5000)}
    sent = attacks.disguised("gaussian", many, strength=None, seed=1)
    noise = np.concatenate([values.ravel() for values in sent.values()])
    assert noise.std() == pytest.approx(15.0, rel=0.02)
    assert noise.mean() == pytest.approx(0.0, abs=0.4)
    again = attacks.disguised("gaussian", many, strength=None, seed=1)
    np.testing.assert_array_equal(sent["a"], again["a"])


@pytest.mark.parametrize("attack", ["label_flip", "little_is_enough"])
def test_what_needs_more_than_the_update_leaves_it_as_it_is(attack: str) -> None:
    assert attacks.disguised(attack, DELTA, strength=None, seed=0) is DELTA


def test_the_deviations_that_nobody_notices_as_in_the_paper() -> None:
    """Baruch et al. 2019, section 3: n = 50, m = 24 leave s = 2, and Φ(z) = 24 / 26."""
    assert attacks.z_max(50, 24) == pytest.approx(NormalDist().inv_cdf(24 / 26))
    assert attacks.z_max(50, 24) == pytest.approx(1.43, abs=0.01)
    assert attacks.z_max(10, 2) == 0.0  # 4 of 8 others: the mean itself


def test_a_little_is_the_mean_less_z_deviations() -> None:
    """Means 2 and 0, deviations 1 and 3."""
    deltas = [np.array([1.0, 3.0], np.float32), np.array([3.0, -3.0], np.float32)]
    np.testing.assert_array_equal(attacks.little_is_enough(deltas, 1.5), [0.5, -4.5])
    assert attacks.little_is_enough(deltas, 1.5).dtype == np.float32
