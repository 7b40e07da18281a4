"""The endless order, against Philox written out from its paper and against plain concatenation."""

import numpy as np
import pytest

from landmarks_jax.data import sampling

MASK = 2**64 - 1


def philox(counter: list[int], key: list[int]) -> list[int]:
    """One block of Philox4x64-10 (Salmon et al., SC 2011), in plain integers."""
    for _ in range(10):
        first = 0xD2E7470EE14C6C93 * counter[0]
        second = 0xCA5A826395121157 * counter[2]
        counter = [
            (second >> 64) ^ counter[1] ^ key[0],
            second & MASK,
            (first >> 64) ^ counter[3] ^ key[1],
            first & MASK,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) & MASK, (key[1] + 0xBB67AE8584CAA73B) & MASK]
    return counter


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (7, 3), (-1, 2)])
def test_permutation_sorts_philox_bits(seed, epoch):
    bits = [word for i in range(5) for word in philox([i + 1, 0, 0, 0], [seed & MASK, epoch])]
    expected = sorted(range(18), key=bits.__getitem__)
    assert sampling.permutation(seed, 18, epoch).tolist() == expected


def test_rows_are_slices_of_the_concatenated_epochs():
    endless = np.concatenate([sampling.permutation(5, 7, epoch) for epoch in range(9)])
    assert all(sorted(epoch) == list(range(7)) for epoch in endless.reshape(9, 7))
    assert len({tuple(epoch) for epoch in endless.reshape(9, 7)}) > 1
    for start, stop in [(0, 7), (3, 3), (5, 30), (20, 63)]:
        np.testing.assert_array_equal(sampling.rows(5, 7, start, stop), endless[start:stop])


def test_a_batch_larger_than_the_set_repeats_photos():
    assert sorted(sampling.batch_rows(0, 3, 9, step=4)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_each_batch(processes):
    shares = [
        sampling.batch_rows(1, 11, 8, 6, process_index=p, process_count=processes)
        for p in range(processes)
    ]
    np.testing.assert_array_equal(np.concatenate(shares), sampling.rows(1, 11, 48, 56))
