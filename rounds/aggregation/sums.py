"""Weighted sums of updates, and what a strategy makes of them, block by block in float64.

A strategy says its formula in NumPy, for one block of weights: the kernel hands it the block's
sums while they are in the processor's cache. What it computes from them, its next state included,
is so never held for all weights at once in more than the arrays that remain.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from rounds.aggregation.contract import Contribution
from rounds.aggregation.walk import (
    BLOCK,
    COLUMNS,
    LANES,
    block_of,
    norm_of,
    output_like,
    over_blocks,
    sum_of_squares,
)

Step = Callable[..., NDArray[np.float64]]
"""What becomes of a block's sums: called as `step(at, *sums)` with the block's slice of the
weights and a float64 array for each set of weights, its own to overwrite; returns the block's
delta. It runs on several threads, each with a block of its own, and may only do to a value what
does not depend on its neighbours."""


def weighted_sums(
    ordered: Sequence[Contribution],
    weights: Sequence[Sequence[float]],
    step: Step,
    *,
    statistics: Sequence[tuple[int, int]] = (),
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], float]:
    """Computes Σ weight_k Δ_k, in float64 in the order of updates, and what `step` makes of it.

    Args:
        ordered: the contributions of a round, from `in_order`.
        weights: one or more sets of finite numbers, each with one for every contribution.
        step: see `Step`.
        statistics: spans of the values that `step` is not for: it finds sums of 0 there, and
            what becomes of them is their mean, weighted by samples (see `Setting`).
        out: where the delta goes, shape (n,), contiguous float32; a new array without it.
        threads: how many threads fold; one per processor by default.

    Returns:
        The delta, shape (n,), float32, and its L2 norm, summed in float64.

    Raises:
        ValueError: a value of the delta is NaN or infinite, or `out` does not fit.
    """
    rows = [one.values for one in ordered]
    delta, squares = output_like(rows[0], out)
    # Filled up with the last row at weight zero, which is in the cache and adds nothing.
    padding = -len(rows) % LANES
    padded = [*rows, *[rows[-1]] * padding]
    samples = [one.samples for one in ordered]
    table = np.pad(np.array([samples, *weights], np.float64), ((0, 0), (0, padding)))
    counts, scales, total = table[0], table[1:], sum(samples)

    def fold(addresses: NDArray[np.intp], start: int, stop: int) -> None:
        blocks, columns = np.empty((len(scales), BLOCK)), np.empty(COLUMNS)
        with np.errstate(all="ignore"):  # what is not finite is seen in the norm
            for first in range(start, stop, BLOCK):
                last = min(first + BLOCK, stop)
                sums = blocks[:, : last - first]
                for scale, its_sums in zip(scales, sums, strict=True):
                    _weighted_sum(addresses, first, scale, its_sums)
                apart = [(max(a, first), min(b, last)) for a, b in statistics]
                apart = [(a, b) for a, b in apart if a < b]
                for a, b in apart:
                    sums[:, a - first : b - first] = 0.0
                delta[first:last] = step(slice(first, last), *sums)
                for a, b in apart:
                    plain = blocks[0, : b - a]
                    _weighted_sum(addresses, a, counts, plain)
                    delta[a:b] = plain / total
                squares[first // BLOCK] = sum_of_squares(delta[first:last], columns)

    over_blocks(fold, padded, threads=threads)
    return delta, norm_of(squares)


def norm(values: NDArray[np.floating]) -> float:
    """Computes the L2 norm of a vector, float32 or float64, shape (n,); NaN or infinite with it."""
    columns = np.empty(COLUMNS)
    blocks = range(0, values.size, BLOCK)
    squares = [sum_of_squares(values[first : first + BLOCK], columns) for first in blocks]
    return float(np.sqrt(np.sum(squares)))


def norms(
    rows: Sequence[NDArray[np.float32]],
    *,
    statistics: Sequence[tuple[int, int]] = (),
    threads: int | None = None,
) -> list[float]:
    """Computes the L2 norm of each row, summed in float64; NaN or infinite with its values.

    Args:
        rows: arrays or memory maps of shape (n,), contiguous float32; only read.
        statistics: spans of values to leave out.
        threads: how many threads read; one per processor by default.
    """
    edges = [0, *(edge for span in sorted(statistics) for edge in span), rows[0].size]
    total = np.zeros(len(rows))
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if first < last:
            parts = [row[first:last] for row in rows]
            squares = np.empty((-(-(last - first) // BLOCK), len(rows)))
            over_blocks(_squares, parts, squares, threads=threads)
            total += squares.sum(axis=0)
    return [float(one) for one in np.sqrt(total)]


# Weights here may be any numbers, whose products are rounded: "contract" would change bits.
@njit(nogil=True, cache=True)
def _weighted_sum(addresses: Any, first: int, weights: Any, sums: Any) -> None:
    length = len(sums)
    for row in range(0, len(addresses), LANES):
        a, v = block_of(addresses[row], first, length), weights[row]
        b, w = block_of(addresses[row + 1], first, length), weights[row + 1]
        c, x = block_of(addresses[row + 2], first, length), weights[row + 2]
        d, y = block_of(addresses[row + 3], first, length), weights[row + 3]
        e, z = block_of(addresses[row + 4], first, length), weights[row + 4]
        if row == 0:
            for i in range(length):
                sums[i] = 0.0 + v * a[i] + w * b[i] + x * c[i] + y * d[i] + z * e[i]
        else:
            for i in range(length):
                sums[i] = sums[i] + v * a[i] + w * b[i] + x * c[i] + y * d[i] + z * e[i]


@njit(nogil=True, cache=True)
def _squares(addresses: Any, start: int, stop: int, squares: Any) -> None:
    columns = np.empty(COLUMNS)
    for first in range(start, stop, BLOCK):
        length = min(BLOCK, stop - first)
        for row in range(len(addresses)):
            values = block_of(addresses[row], first, length)
            squares[first // BLOCK, row] = sum_of_squares(values, columns)
