"""One pass over all updates, block by block, so that memory does not grow with their number.

Updates are memory maps that together may be larger than memory. A kernel takes one block of
weights from every update before it goes on to the next block, keeps its sums in a float64 buffer
that fits in a processor's cache, and so reads every byte once. Blocks belong to no one: each value
of a result depends on its own column alone, and sums over columns are made by block and joined in
the order of blocks, so that any number of threads gives the same bits.

Threads are Python's, made for one walk and gone after it (kernels hold no GIL): unlike numba's
own parallel layers they survive the fork of a worker. Importing this module loads numba.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

BLOCK = 65_536
"""Weights in a block: 512 KiB of sums, a share of a core's second-level cache."""

LANES = 5
"""Updates that a kernel reads at once: fewer trips to the sums, few enough for the prefetcher."""

COLUMNS = 1_024
"""Running sums of squares within a block, in a power of two; 8 KiB."""

TILE = 128
"""Weights in the least part of a block: of fifty updates 25 KiB, a first-level cache's worth."""

STRIP = 1 << 19
"""Bytes that are read from all updates in long runs, to be met again in the second-level cache."""


def weighted_mean(
    rows: Sequence[NDArray[np.float32]],
    weights: Sequence[int],
    *,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], float]:
    """Computes Σ weight_k row_k / Σ weight_k, summed in float64 in the order of rows.

    Args:
        rows: arrays or memory maps of shape (n,), contiguous float32; only read.
        weights: one for each row, not negative, not all zero, each below 2^29 (for the same
            bits on every processor).
        out: where the mean goes, shape (n,), contiguous float32; a new array without it.
        threads: how many threads fold; one per processor by default.

    Returns:
        The mean, shape (n,), float32, and its L2 norm, summed in float64.

    Raises:
        ValueError: a value of the mean is NaN or infinite, or `out` does not fit.
    """
    mean, squares = output_like(rows[0], out)
    # Filled up with the last row at weight zero, which is in the cache and adds nothing.
    padding = max(-len(rows) % LANES, 2 * LANES - len(rows))
    padded = [*rows, *[rows[-1]] * padding]
    scales = np.array([*weights, *[0] * padding], np.float64)
    over_blocks(_weighted_mean, padded, scales, float(sum(weights)), mean, squares, threads=threads)
    return mean, norm_of(squares)


def output_like(
    row: NDArray[np.float32], out: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Finds room for what a walk makes of rows like this one.

    Args:
        row: of shape (n,).
        out: where the values are wanted, shape (n,), contiguous float32; None if nowhere.

    Returns:
        The output, `out` if there is one, and room for the sum of squares of each block of it.

    Raises:
        ValueError: `out` does not fit.
    """
    values = np.empty(row.size, np.float32) if out is None else out
    if values.shape != row.shape or values.dtype != np.float32 or not values.flags.c_contiguous:
        raise ValueError(
            f"Expected a contiguous float32 output of shape {row.shape}. "
            f"Received: {values.dtype} of shape {values.shape}"
        )
    return values, np.empty(-(-row.size // BLOCK))


def norm_of(squares: NDArray[np.float64]) -> float:
    """Computes the L2 norm from the sums of squares of the blocks.

    Raises:
        ValueError: it is NaN or infinite.
    """
    norm = math.sqrt(math.fsum(squares))
    if not math.isfinite(norm):
        raise ValueError(f"Expected finite updates. Received: updates whose fold has norm {norm}")
    return norm


def over_blocks(
    kernel: Callable[..., None],
    rows: Sequence[NDArray[np.float32]],
    *args: Any,
    threads: int | None = None,
    step: int | None = None,
) -> None:
    """Runs a kernel over all blocks of the rows, on several threads.

    Args:
        kernel: called as `kernel(addresses, start, stop, *args)` for spans of whole blocks
            (the last block may be short); compiled with `nogil`. `addresses` are those of the
            rows' first values, shape (rows,), for `block_of`.
        rows: arrays or memory maps of one shape (n,), contiguous float32.
        args: what else the kernel needs: its weights, its outputs.
        threads: how many threads; one per processor by default.
        step: the length of a span, of whole blocks, for kernels whose sums are made by span; by
            default a few spans for each thread, so that a slowed thread delays nobody.
    """
    addresses = np.array([row.__array_interface__["data"][0] for row in rows], np.intp)
    threads = threads or _processors()
    step = step or BLOCK * max(1, -(-rows[0].size // BLOCK) // (4 * threads))
    starts = range(0, rows[0].size, step)
    spans = [(start, min(start + step, rows[0].size)) for start in starts]
    if len(spans) <= 1 or threads == 1:
        for start, stop in spans:
            kernel(addresses, start, stop, *args)
        return
    with ThreadPoolExecutor(min(threads, len(spans))) as pool:
        for call in [pool.submit(kernel, addresses, *span, *args) for span in spans]:
            call.result()


def _processors() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _to_pointer(typing_context: Any, address: Any) -> Any:
    """Turns an address into a pointer, which `carray` can look at."""

    def codegen(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], cgutils.voidptr_t)

    return types.voidptr(address), codegen


_pointer: Any = intrinsic(_to_pointer)


@njit(nogil=True, cache=True)
def block_of(address: int, start: int, length: int) -> Any:
    """Views `length` values of the row at `address`, from value `start` on; for kernels.

    Rows come as addresses because a kernel then takes any number of them, and one compiled
    version serves them all.
    """
    return carray(_pointer(address + 4 * start), (length,), np.float32)


@njit(nogil=True, cache=True)
def strip_of(count: int) -> int:
    """Weights of so many rows that are `STRIP` bytes: a power of two of tiles, at least one.

    For kernels that look at each value more than once: a block of every row is more than a cache
    holds, and runs much shorter than a page are more than the prefetcher follows.
    """
    weights = TILE
    while weights < BLOCK and 8 * weights * count <= STRIP:
        weights *= 2
    return weights


# "contract" lets a processor multiply and add in one rounding where it can. Here that changes no
# bit: a float32 times a count below 2^29, and the square of a float32, are exact in float64.
@njit(nogil=True, cache=True, fastmath={"contract"})
def _weighted_mean(
    addresses: Any, start: int, stop: int, weights: Any, total: float, mean: Any, squares: Any
) -> None:
    sums, columns = np.empty(BLOCK), np.empty(COLUMNS)
    last = len(addresses) - LANES
    for first in range(start, stop, BLOCK):
        length = min(BLOCK, stop - first)
        out = mean[first : first + length]
        # The first rows begin the sums and the last ones end them: with few updates, a pass more
        # over the sums would cost as much as reading an update.
        for row in range(0, len(addresses), LANES):
            a, v = block_of(addresses[row], first, length), weights[row]
            b, w = block_of(addresses[row + 1], first, length), weights[row + 1]
            c, x = block_of(addresses[row + 2], first, length), weights[row + 2]
            d, y = block_of(addresses[row + 3], first, length), weights[row + 3]
            e, z = block_of(addresses[row + 4], first, length), weights[row + 4]
            if row == 0:
                for i in range(length):
                    sums[i] = 0.0 + v * a[i] + w * b[i] + x * c[i] + y * d[i] + z * e[i]
            elif row < last:
                for i in range(length):
                    sums[i] = sums[i] + v * a[i] + w * b[i] + x * c[i] + y * d[i] + z * e[i]
            else:
                for i in range(length):
                    whole = sums[i] + v * a[i] + w * b[i] + x * c[i] + y * d[i] + z * e[i]
                    out[i] = whole / total
        squares[first // BLOCK] = sum_of_squares(out, columns)


@njit(nogil=True, cache=True, fastmath={"contract"})
def sum_of_squares(values: Any, columns: Any) -> float:
    """Adds up squares in many columns and then these by halves: vector units can do both."""
    columns[:] = 0.0
    for first in range(0, len(values), COLUMNS):
        line = values[first : first + COLUMNS]
        for i in range(len(line)):
            columns[i] += np.float64(line[i]) ** 2
    half = COLUMNS // 2
    while half:
        for i in range(half):
            columns[i] += columns[half + i]
        half //= 2
    return columns[0]
