"""Squared distances between updates, and of all updates from a mean of them.

Differences are squared and summed, and nothing is subtracted afterwards. The usual way,
‖a‖² + ‖b‖² - 2 a·b, loses what is asked for when updates are long and lie close together.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from rounds.aggregation.walk import (
    BLOCK,
    COLUMNS,
    LANES,
    block_of,
    norm_of,
    output_like,
    over_blocks,
    strip_of,
    sum_of_squares,
)

ROWS, MORE = 2, 4
"""Rows taken at once from either side: eight sums, which leave registers to work with."""

RUN = 512
"""Weights whose squares are summed in float32, before that goes into a sum in float64."""

LEAST = 1e-24
"""Below it squares may have fallen out of float32's range."""

ROOM = 1 << 21
"""Sums that are kept apart until the end, so that threads need not wait for each other; 16 MiB."""


def between(
    rows: Sequence[NDArray[np.float32]], *, threads: int | None = None
) -> NDArray[np.float64]:
    """Computes Σ (a - b)² for each pair of rows.

    A difference of two float32 values is rounded to float32, and so are sums of `RUN` squares:
    together that is a relative error below 1e-5, and of many weights about 1e-8. Where squares
    leave float32's range all is computed anew in float64, but for pairs so close that nothing is
    left of theirs where others are farther apart: they count as equal.

    Args:
        rows: arrays or memory maps of shape (n,), contiguous float32; only read.
        threads: how many threads compute; one per processor by default. It changes no bit.

    Returns:
        Shape (rows, rows), float64, symmetric, zeros on the diagonal.

    Raises:
        ValueError: a value of any row is NaN or infinite.
    """
    squares = _sums_between(rows, threads, single=True)
    apart = squares[np.triu_indices(len(rows), 1)]
    lost = apart[apart < LEAST].any() or not apart.any()
    if lost or not np.isfinite(apart).all():
        squares = _sums_between(rows, threads, single=False)
    if not np.isfinite(squares).all():
        raise ValueError(f"Expected finite updates. Received: a distance of {squares.max()}")
    return squares


def _sums_between(
    rows: Sequence[NDArray[np.float32]], threads: int | None, *, single: bool
) -> NDArray[np.float64]:
    count = len(rows)
    padded = [*rows, *[rows[-1]] * (-count % MORE)]
    blocks = -(-rows[0].size // BLOCK)
    pieces = min(max(1, blocks), max(1, ROOM // len(padded) ** 2))
    step = BLOCK * -(-max(1, blocks) // pieces)
    sums = np.zeros((pieces, len(padded), len(padded)))
    over_blocks(_between, padded, step, sums, single, threads=threads, step=step)
    upper = np.triu(sums.sum(axis=0)[:count, :count], 1)
    squares: NDArray[np.float64] = upper + upper.T
    return squares


def from_mean(
    rows: Sequence[NDArray[np.float32]],
    weights: NDArray[np.float64],
    *,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], float, NDArray[np.float64]]:
    """Computes the sum Σ weight_k row_k and how far each row is from it, reading rows once.

    Args:
        rows: arrays or memory maps of shape (n,), contiguous float32; only read.
        weights: shape (rows,), float64, not negative.
        out: where the mean goes, shape (n,), contiguous float32; a new array without it.
        threads: how many threads compute; one per processor by default. It changes no bit.

    Returns:
        The mean, shape (n,), float32; its L2 norm; and the L2 distances of the rows from the
        mean before it is rounded to float32, shape (rows,), float64.

    Raises:
        ValueError: a value of any row is NaN or infinite, or `out` does not fit.
    """
    mean, squares = output_like(rows[0], out)
    apart = np.zeros((len(squares), len(rows)))
    padding = -len(rows) % LANES
    padded, scales = [*rows, *[rows[-1]] * padding], np.append(weights, np.zeros(padding))
    over_blocks(_from_mean, padded, scales, mean, squares, apart, threads=threads)
    distances = np.array([math.sqrt(math.fsum(column)) for column in apart.T])
    if not np.isfinite(distances).all():
        raise ValueError(f"Expected finite updates. Received: a distance of {distances.max()}")
    return mean, norm_of(squares), distances


def _two_by_four(number: type[np.floating[Any]]) -> Any:
    """Makes what adds up the squared differences of short runs of rows, in a type of number."""

    # "reassoc" lets vector units keep several sums of one reduction. Their order depends on the
    # length of a run and the make of the processor, but not on threads.
    @njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
    def add(addresses: Any, p: int, q: int, first: int, length: int, sums: Any) -> None:
        a, b = block_of(addresses[p], first, length), block_of(addresses[p + 1], first, length)
        w, x = block_of(addresses[q], first, length), block_of(addresses[q + 1], first, length)
        y, z = block_of(addresses[q + 2], first, length), block_of(addresses[q + 3], first, length)
        aw = ax = ay = az = bw = bx = by = bz = number(0)
        for i in range(len(a)):
            s, t = number(a[i]), number(b[i])
            e, f, g, h = number(w[i]), number(x[i]), number(y[i]), number(z[i])
            aw += (s - e) ** 2
            ax += (s - f) ** 2
            ay += (s - g) ** 2
            az += (s - h) ** 2
            bw += (t - e) ** 2
            bx += (t - f) ** 2
            by += (t - g) ** 2
            bz += (t - h) ** 2
        for column, one in enumerate((aw, ax, ay, az)):
            sums[p, q + column] += np.float64(one)
        for column, one in enumerate((bw, bx, by, bz)):
            sums[p + 1, q + column] += np.float64(one)

    return add


_add_single: Any = _two_by_four(np.float32)
_add_double: Any = _two_by_four(np.float64)


@njit(nogil=True, cache=True)
def _between(addresses: Any, start: int, stop: int, step: int, sums: Any, single: bool) -> None:
    count, mine = len(addresses), sums[start // step]
    for first in range(start, stop, RUN):
        length = min(RUN, stop - first)
        for p in range(0, count, ROWS):
            for q in range(p // MORE * MORE, count, MORE):
                if single:
                    _add_single(addresses, p, q, first, length, mine)
                else:
                    _add_double(addresses, p, q, first, length, mine)


@njit(nogil=True, cache=True)
def _from_mean(
    addresses: Any, start: int, stop: int, weights: Any, mean: Any, squares: Any, apart: Any
) -> None:
    strip, columns = strip_of(len(addresses)), np.empty(COLUMNS)
    sums = np.empty(strip)
    for block in range(start, stop, BLOCK):
        end = min(block + BLOCK, stop)
        for first in range(block, end, strip):
            length = min(strip, end - first)
            sums[:] = 0.0
            for row in range(0, len(addresses), LANES):
                a, v = block_of(addresses[row], first, length), weights[row]
                b, w = block_of(addresses[row + 1], first, length), weights[row + 1]
                c, x = block_of(addresses[row + 2], first, length), weights[row + 2]
                d, y = block_of(addresses[row + 3], first, length), weights[row + 3]
                e, z = block_of(addresses[row + 4], first, length), weights[row + 4]
                for i in range(length):
                    sums[i] = sums[i] + v * a[i] + w * b[i] + x * c[i] + y * d[i] + z * e[i]
            for i in range(length):
                mean[first + i] = sums[i]
            for row in range(apart.shape[1]):
                values = block_of(addresses[row], first, length)
                apart[block // BLOCK, row] += _squares_apart(values, sums)
        squares[block // BLOCK] = sum_of_squares(mean[block:end], columns)


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _squares_apart(values: Any, sums: Any) -> float:
    whole = 0.0
    for i in range(len(values)):
        whole += (values[i] - sums[i]) ** 2
    return whole
