"""Integers that a trellis allows, in blocks of columns as a codec delivers them."""

import numpy as np

from rbe_cli.weights.trellis_code import TrellisBlock, taps


def onto_trellis(targets, limit, states=8, seed=0):
    """Integers `[K, B]` of random paths, as near to the targets as the paths let them be.

    They lie in [-limit - 1, limit].
    """
    code, rng = taps(states), np.random.default_rng(seed)
    reach = max(*code.parity, *code.offset)
    bits = np.pad(rng.integers(0, 2, targets.shape), ((0, 0), (reach, 0)))
    end = bits.shape[1]

    def earlier(count):
        return bits[:, reach - count : end - count]

    z = np.bitwise_xor.reduce([earlier(count) for count in code.offset])
    lowest = np.bitwise_xor.reduce([earlier(0), *map(earlier, code.parity)])
    residue = 2 * lowest + z  # of n modulo 4
    integers = 4 * np.rint((targets - residue) / 4).astype(np.int64) + residue
    integers -= 4 * np.maximum(-((limit - integers) // 4), 0)
    integers += 4 * np.maximum(-((integers + limit + 1) // 4), 0)
    assert -limit - 1 <= integers.min() <= integers.max() <= limit
    return integers.astype(np.int16)


def blocks_of(targets, steps, limit, states=8, width=100, seed=0):
    """Blocks of columns whose integers are near to the targets `[K, N]`, in a random order."""
    rng = np.random.default_rng(seed)
    for start in range(0, targets.shape[1], width):
        stop = min(start + width, targets.shape[1])
        order = rng.permutation(stop - start)
        own = onto_trellis(targets[:, start:stop][:, order], limit, states, seed)
        yield TrellisBlock(slice(start, stop), order, own, steps[start:stop][order])


def joined(blocks, shape):
    """The integers `[K, N]` of blocks, in the order of the matrix."""
    found = np.empty(shape, np.int16)
    for columns, order, integers, _ in blocks:
        found[:, columns.start + order] = integers
    return found
