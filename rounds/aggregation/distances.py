"""Squared distances between updates, and of all updates from a mean of them.

Squares of differences are summed in float64 and nothing is subtracted afterwards. The usual way,
‖a‖² + ‖b‖² - 2 a·b, loses what is asked for when updates are long and lie close together, and with
four rows against four in registers the honest way is no slower than a matrix product.
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

ROWS = 4
"""Rows taken at once from either side: sixteen sums, which the vector registers hold."""

ROOM = 1 << 21
"""Sums that are kept apart until the end, so that threads need not wait for each other; 16 MiB."""


def between(
    rows: Sequence[NDArray[np.float32]], *, threads: int | None = None
) -> NDArray[np.float64]:
    """Computes Σ (a - b)² for each pair of rows, in float64.

    Args:
        rows: arrays or memory maps of shape (n,), contiguous float32; only read.
        threads: how many threads compute; one per processor by default. It changes no bit.

    Returns:
        Shape (rows, rows), symmetric, zeros on the diagonal.

    Raises:
        ValueError: a value of any row is NaN or infinite.
    """
    count = len(rows)
    padded = [*rows, *[rows[-1]] * (-count % ROWS)]
    blocks = -(-rows[0].size // BLOCK)
    pieces = min(max(1, blocks), max(1, ROOM // len(padded) ** 2))
    step = BLOCK * -(-max(1, blocks) // pieces)
    sums = np.zeros((pieces, len(padded), len(padded)))
    over_blocks(_between, padded, step, sums, threads=threads, step=step)
    upper = np.triu(sums.sum(axis=0)[:count, :count], 1)
    squares: NDArray[np.float64] = upper + upper.T
    if not np.isfinite(squares).all():
        raise ValueError(f"Expected finite updates. Received: a distance of {squares.max()}")
    return squares


def from_mean(
    rows: Sequence[NDArray[np.float32]],
    weights: NDArray[np.float64],
    *,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], float, NDArray[np.float64]]:
    """Computes the mean Σ weight_k row_k and how far each row is from it, reading rows once.

    Args:
        rows: arrays or memory maps of shape (n,), contiguous float32; only read.
        weights: shape (rows,), float64, not negative, together 1.
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


@njit(nogil=True, cache=True)
def _between(addresses: Any, start: int, stop: int, step: int, sums: Any) -> None:
    count = len(addresses)
    strip, mine = strip_of(count), sums[start // step]
    for first in range(start, stop, strip):
        length = min(strip, stop - first)
        for p in range(0, count, ROWS):
            a, b = block_of(addresses[p], first, length), block_of(addresses[p + 1], first, length)
            c = block_of(addresses[p + 2], first, length)
            d = block_of(addresses[p + 3], first, length)
            for q in range(p, count, ROWS):
                e = block_of(addresses[q], first, length)
                f = block_of(addresses[q + 1], first, length)
                g = block_of(addresses[q + 2], first, length)
                h = block_of(addresses[q + 3], first, length)
                _four_by_four(a, b, c, d, e, f, g, h, mine[p : p + ROWS, q : q + ROWS])


# "reassoc" lets vector units keep several sums of one reduction. Their order depends on the length
# of a strip and the make of the processor, but not on threads.
@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _four_by_four(
    a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, sums: Any
) -> None:
    ae = af = ag = ah = be = bf = bg = bh = ce = cf = cg = ch = de = df = dg = dh = 0.0
    for i in range(len(a)):
        s, t, u, v = np.float64(a[i]), np.float64(b[i]), np.float64(c[i]), np.float64(d[i])
        w, x, y, z = np.float64(e[i]), np.float64(f[i]), np.float64(g[i]), np.float64(h[i])
        ae += (s - w) ** 2
        af += (s - x) ** 2
        ag += (s - y) ** 2
        ah += (s - z) ** 2
        be += (t - w) ** 2
        bf += (t - x) ** 2
        bg += (t - y) ** 2
        bh += (t - z) ** 2
        ce += (u - w) ** 2
        cf += (u - x) ** 2
        cg += (u - y) ** 2
        ch += (u - z) ** 2
        de += (v - w) ** 2
        df += (v - x) ** 2
        dg += (v - y) ** 2
        dh += (v - z) ** 2
    for row, four in enumerate(
        ((ae, af, ag, ah), (be, bf, bg, bh), (ce, cf, cg, ch), (de, df, dg, dh))
    ):
        for column, one in enumerate(four):
            sums[row, column] += one


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
