"""Order statistics of every weight over all updates, at a speed near that of reading them.

A sorting network (Knuth, *The Art of Computer Programming* 3, section 5.3.4) sorts a column by
comparisons that do not depend on its values. One comparison of two rows then serves a whole tile
of columns: the lesser values go to one row and the greater ones to the other, without a branch,
in vector units. Networks are Parberry's (1992, *The Pairwise Sorting Network*), which lose the most
when only the middle is wanted: of 395 comparisons that sort 50 values, 295 find their median.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from rounds.aggregation.walk import (
    BLOCK,
    COLUMNS,
    LANES,
    TILE,
    block_of,
    norm_of,
    output_like,
    over_blocks,
    strip_of,
    sum_of_squares,
)

MAGNITUDE = np.uint32(0x7FFF_FFFF)
"""All bits of a float32 but its sign: as whole numbers they have the order of magnitudes."""

INFINITE = np.uint32(0x7F80_0000)
"""The magnitude of infinity; what is none is larger yet."""


def middle_mean(
    rows: Sequence[NDArray[np.float32]],
    low: int,
    high: int,
    *,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], float]:
    """Sorts each column and takes the mean of its values of the ranks `low` to `high` - 1.

    Args:
        rows: arrays or memory maps of shape (n,), contiguous float32; only read.
        low: the first rank that counts, from 0.
        high: one more than the last rank that counts, up to the number of rows.
        out: where the means go, shape (n,), contiguous float32; a new array without it.
        threads: how many threads fold; one per processor by default.

    Returns:
        The means, summed in float64, shape (n,), float32, and their L2 norm.

    Raises:
        ValueError: a value of any row is NaN or infinite, or `out` does not fit.
    """
    means, squares = output_like(rows[0], out)
    network = _network(len(rows), low, high)
    over_blocks(_middle_mean, rows, network, low, high, means, squares, threads=threads)
    return means, norm_of(squares)


def mean_around_median(
    rows: Sequence[NDArray[np.float32]],
    keep: int,
    *,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], float]:
    """Takes the mean of the values of each column that are closest to its median.

    Args:
        rows: arrays or memory maps of shape (n,), contiguous float32; only read.
        keep: how many values each mean is of, from 1 to the number of rows.
        out: where the means go, shape (n,), contiguous float32; a new array without it.
        threads: how many threads fold; one per processor by default.

    Returns:
        The means, summed in float64, shape (n,), float32, and their L2 norm. The median of an
        even count is the lower of both middle values, and of two values equally far from it the
        lower one counts as the closer.

    Raises:
        ValueError: a value of any row is NaN or infinite, or `out` does not fit.
    """
    means, squares = output_like(rows[0], out)
    network = np.array(_pairwise(len(rows)), np.intp).reshape(-1, 2)
    over_blocks(_mean_around_median, rows, network, keep, means, squares, threads=threads)
    return means, norm_of(squares)


@lru_cache(maxsize=64)
def _network(count: int, low: int, high: int) -> NDArray[np.intp]:
    """Finds comparisons after which the ranks `low` to `high` - 1 are in their rows.

    They are there as a set: among themselves they may be in any order, and so may the rest.

    Args:
        count: how many rows there are.
        low: the first rank that is wanted.
        high: one more than the last.

    Returns:
        Pairs of rows, shape (comparisons, 2): the lesser value goes to the first of a pair.
    """
    # From the last comparison back: while two rows belong to the same group (both wanted, or both
    # below, or both above, and neither looked at again), which of two values is where is no matter.
    group = [(row >= low) + (row >= high) for row in range(count)]
    needed = []
    for first, second in reversed(_pairwise(count)):
        if group[first] != group[second]:
            needed.append((first, second))
            group[first], group[second] = 2 * len(needed) + 1, 2 * len(needed) + 2
    return np.array(needed[::-1], np.intp).reshape(-1, 2)


@lru_cache(maxsize=64)
def _pairwise(count: int) -> list[tuple[int, int]]:
    """Lists the comparisons of the pairwise sorting network, in order.

    It is made for a power of two; of fewer rows the rest would hold infinity and never move. The
    first of all, those of each even row with the next one, are left out: `_sort` begins with them.
    """
    size = 1 << max(0, count - 1).bit_length()
    pairs = []
    step = 2
    while step < size:  # sort pairs of pairs, pairs of these, …
        pairs += [(row, row + step) for row in range(size) if not row & step]
        step *= 2
    step, reach = size // 4, 1
    while step:  # merge them
        leap = reach
        while leap:
            # Rows of each run of `step` that have the bit `step` set, with one `leap` runs on.
            pairs += [
                (row - leap * step, row)
                for row in range((leap + 1) * step, size)
                if not (row // step - leap - 1) & 1
            ]
            leap //= 2
        step, reach = step // 2, 2 * reach + 1
    return [pair for pair in pairs if pair[1] < count]


@njit(nogil=True, cache=True)
def _middle_mean(
    addresses: Any,
    start: int,
    stop: int,
    network: Any,
    low: int,
    high: int,
    means: Any,
    squares: Any,
) -> None:
    tile, sums, columns = _room(len(addresses)), np.empty(TILE), np.empty(COLUMNS)
    strip = strip_of(len(addresses))
    for block in range(start, stop, BLOCK):
        end = min(block + BLOCK, stop)
        strange = 0.0
        for run in range(block, end, strip):
            strange += _read(addresses, run, min(strip, end - run))
            for first in range(run, min(run + strip, end), TILE):
                length = min(TILE, end - first)
                _sort(addresses, first, length, network, tile)
                sums[:] = 0.0
                for rank in range(low, high):
                    row = tile[rank]
                    for i in range(TILE):
                        sums[i] += row[i]
                for i in range(length):
                    means[first + i] = sums[i] / (high - low)
        squares[block // BLOCK] = sum_of_squares(means[block:end], columns) + strange


@njit(nogil=True, cache=True)
def _mean_around_median(
    addresses: Any, start: int, stop: int, network: Any, keep: int, means: Any, squares: Any
) -> None:
    count = len(addresses)
    tile, sums, columns = _room(count), np.empty(TILE), np.empty(COLUMNS)
    strip, middles = strip_of(count), np.empty(TILE)
    for block in range(start, stop, BLOCK):
        end = min(block + BLOCK, stop)
        strange = 0.0
        for run in range(block, end, strip):
            strange += _read(addresses, run, min(strip, end - run))
            for first in range(run, min(run + strip, end), TILE):
                length = min(TILE, end - first)
                _sort(addresses, first, length, network, tile)
                middles[:] = tile[(count - 1) // 2]
                # The closest values are neighbours in order. Their lowest goes for the next one
                # above them where that is closer; who stays takes its place, so that the last
                # rows are those that are kept.
                for row in range(count - keep):
                    lowest, above = tile[row], tile[row + keep]
                    for i in range(TILE):
                        closer = above[i] - middles[i] < middles[i] - lowest[i]
                        above[i] = above[i] if closer else lowest[i]
                sums[:] = 0.0
                for row in range(count - keep, count):
                    line = tile[row]
                    for i in range(TILE):
                        sums[i] += line[i]
                for i in range(length):
                    means[first + i] = sums[i] / keep
        squares[block // BLOCK] = sum_of_squares(means[block:end], columns) + strange


@njit(nogil=True, cache=True)
def _room(count: int) -> Any:
    return np.zeros((count, TILE), np.float32)


@njit(nogil=True, cache=True)
def _read(addresses: Any, start: int, length: int) -> float:
    """Reads a strip of all rows, several at once and in long runs, as the prefetcher likes it.

    Returns:
        Zero if all values are finite, else NaN: comparisons would lose what is not a number.
    """
    last, largest = len(addresses) - 1, np.uint32(0)
    for row in range(0, len(addresses), LANES):
        a = _bits(addresses[row], start, length)
        b = _bits(addresses[min(row + 1, last)], start, length)
        c = _bits(addresses[min(row + 2, last)], start, length)
        d = _bits(addresses[min(row + 3, last)], start, length)
        e = _bits(addresses[min(row + 4, last)], start, length)
        for i in range(length):
            left = max(a[i] & MAGNITUDE, b[i] & MAGNITUDE)
            right = max(c[i] & MAGNITUDE, d[i] & MAGNITUDE)
            largest = max(largest, max(max(left, right), e[i] & MAGNITUDE))
    return 0.0 if largest < INFINITE else np.nan


@njit(nogil=True, cache=True)
def _bits(address: int, start: int, length: int) -> Any:
    return block_of(address, start, length).view(np.uint32)


@njit(nogil=True, cache=True)
def _sort(addresses: Any, start: int, length: int, network: Any, tile: Any) -> None:
    """Copies columns of all rows into a tile and brings them in order.

    What would have to be loaded anyway is compared on the way: each even row with the next one.
    """
    count = len(addresses)
    for row in range(0, count - 1, 2):
        one = block_of(addresses[row], start, length)
        other = block_of(addresses[row + 1], start, length)
        lesser, greater = tile[row], tile[row + 1]
        for i in range(length):
            a, b = one[i], other[i]
            lesser[i] = a if a < b else b
            greater[i] = a if a > b else b
    if count % 2:
        values, line = block_of(addresses[count - 1], start, length), tile[count - 1]
        for i in range(length):
            line[i] = values[i]
    for pair in range(len(network)):
        lesser, greater = tile[network[pair, 0]], tile[network[pair, 1]]
        for i in range(TILE):
            a, b = lesser[i], greater[i]
            lesser[i] = a if a < b else b
            greater[i] = a if a > b else b
