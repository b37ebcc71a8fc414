"""Who holds which examples: each has one holder, nobody goes empty, and the paper's counts hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.partitions import partition

SPECS = st.one_of(
    st.just("iid"),
    st.floats(0.001, 1000).map(lambda alpha: f"dirichlet:{alpha}"),
    st.integers(1, 4).map(lambda shards: f"shards:{shards}"),
)


@settings(deadline=None, max_examples=200)
@given(
    spec=SPECS,
    participants=st.integers(1, 12),
    extra=st.integers(0, 60),
    classes=st.integers(1, 10),
    seed=st.integers(0, 2**32),
)
def test_every_sample_goes_to_one_participant_and_nobody_goes_empty(
    spec: str, participants: int, extra: int, classes: int, seed: int
) -> None:
    y = np.random.default_rng(seed).integers(0, classes, participants * 4 + extra)
    shares = partition(y, participants, spec, seed)
    assert len(shares) == participants
    assert min(len(share) for share in shares) >= 1
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), np.arange(len(y)))
    for share, again in zip(shares, partition(y, participants, spec, seed), strict=True):
        np.testing.assert_array_equal(share, again)


def test_the_paper_deals_200_shards_of_300_two_to_each_of_100() -> None:
    """McMahan et al. 2017, section 3: 60,000 examples sorted by digit."""
    y = np.random.default_rng(3).permutation(np.repeat(np.arange(10), 6000))
    shares = partition(y, 100, "shards:2", seed=7)
    assert [len(share) for share in shares] == [600] * 100
    # 6,000 of each digit are twenty whole shards, so that none holds two digits.
    for share in shares:
        counts = np.bincount(y[share], minlength=10)
        assert sorted(counts[counts > 0].tolist()) in ([600], [300, 300])


def test_shards_of_six_examples_by_hand() -> None:
    """Sorted by label: 0 0 | 1 1 | 2 2; one shard each."""
    y = np.array([2, 0, 1, 0, 2, 1])
    shares = partition(y, 3, "shards:1", seed=0)
    assert sorted(share.tolist() for share in shares) == [[0, 4], [1, 3], [2, 5]]


def test_as_many_participants_as_samples_get_one_each() -> None:
    for spec in ("iid", "dirichlet:0.01", "shards:1"):
        assert [len(share) for share in partition(np.arange(5), 5, spec, seed=1)] == [1] * 5


def test_iid_shares_are_even_and_mixed() -> None:
    y = np.repeat(np.arange(10), 100)
    for share in partition(y, 5, "iid", seed=1):
        assert len(share) == 200
        assert np.bincount(y[share], minlength=10).min() >= 8


def test_the_smaller_alpha_is_the_fewer_classes_most_hold() -> None:
    y = np.repeat(np.arange(10), 1000)

    def held(alpha: str) -> float:
        """Classes of which a participant holds a tenth of its examples or more, on average."""
        counts = [np.bincount(y[share], minlength=10) for share in partition(y, 20, alpha, seed=1)]
        return float(np.mean([(count >= count.sum() / 10).sum() for count in counts]))

    assert held("dirichlet:0.1") < 3 < held("dirichlet:100")


@pytest.mark.parametrize(
    "spec",
    [
        "even",
        "IID",
        "iid:1",
        "dirichlet",
        "dirichlet:0",
        "dirichlet:inf",
        "shards",
        "shards:0",
        "shards:9",
    ],
)
def test_another_partition_is_refused_with_what_there_is(spec: str) -> None:
    with pytest.raises(ValueError, match=r"Expected iid, dirichlet:ALPHA or shards:K"):
        partition(np.arange(40), 5, spec, seed=0)


@pytest.mark.parametrize("participants", [0, -1, 13])
def test_more_participants_than_samples_are_refused(participants: int) -> None:
    with pytest.raises(ValueError, match=f"Received: {participants}"):
        partition(np.arange(12), participants, "iid", seed=1)
