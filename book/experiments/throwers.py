"""Growth in packed bits, and patterns from which Conway's Life makes gliders (circuits.py)."""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from nca_lib.lab import gates

# Throwers grow for GROWTH steps. Life then goes on for LIFE_STEPS on a plane, whose middle is at
# HALF cells from its sides, and what counts are gliders outside of a box, BOX cells from there.
GROWTH, LIFE_STEPS, HALF, BOX = 8, 256, 80, 32
SLOPES = 64  # steps of Life that surrogates are trained through; with all, float32 overflows
MOST = 1000  # gliders that no thrower reaches: what it lacks of them are its errors


def pack_grid(bits: np.ndarray) -> int:
    """Put grids of bools (*worlds, H, W) into one integer, a row and a column of zeros after each.

    So whatever is shifted in from beyond a border is zero.
    """
    return gates.pack(np.pad(bits, [(0, 0)] * (bits.ndim - 2) + [(0, 1), (0, 1)]))


def grow(
    circuit: gates.Circuit,
    state: list[int],
    mask: int,
    width: int,
    used: gates.Used | None = None,
) -> Iterator[list[int]]:
    """Yield the bits of all cells, one packed integer for each, after one step, two, and so on.

    `state` are the bits to begin with and `mask` where cells are, all from `pack_grid`; `width` is
    of the grid, in cells; `used` is as in `gates.evaluate`. Beyond the border all bits are zero.
    """
    used = used or gates.active(circuit)
    shifts = [dy * (width + 1) + dx for dy, dx in gates.NEIGHBOURS]
    seen = [(wire, wire // 9, shifts[wire % 9]) for wire in used[0]]
    values = [0] * circuit.inputs
    while True:
        for wire, bit, shift in seen:
            values[wire] = state[bit] >> shift if shift > 0 else state[bit] << -shift
        state = [bits & mask for bits in gates.evaluate(circuit, values, used)]
        yield state


def life_packed(grid: int, mask: int, row: int) -> int:
    """Advance Life by one step, on a grid from `pack_grid` whose rows are `row` bits apart."""
    left, right = grid << 1, grid >> 1
    one, two = left ^ right, left & right  # of the neighbours in a row, as a number of two bits
    ones, twos = one ^ grid, two | (one & grid)  # with the middle
    above, below = (ones << row, twos << row), (ones >> row, twos >> row)
    some = above[0] ^ below[0]
    carry = (above[0] & below[0]) | (some & one)
    pair = above[1] ^ below[1]
    four = (above[1] & below[1]) | (pair & two)
    pair ^= two
    return (pair ^ carry) & ~(four | (pair & carry)) & ((some ^ one) | grid) & mask


def glider_windows() -> list[np.ndarray]:
    """List the 16 gliders: two shapes, eight ways each to turn and mirror them, as bools (3, 3)."""
    shapes = np.array([[[0, 1, 0], [0, 0, 1], [1, 1, 1]], [[1, 0, 1], [0, 1, 1], [0, 1, 0]]])
    ways = [np.rot90(flip, turn) for s in shapes for flip in (s, s.T) for turn in range(4)]
    return list({way.tobytes(): way == 1 for way in ways}.values())


def count_gliders(grid: int, where: int, row: int) -> int:
    """Count the gliders with their middle in `where` and nothing else in 5 x 5 cells."""

    def near(y: int, x: int) -> int:
        shift = y * row + x
        return grid >> shift if shift > 0 else grid << -shift

    around = [(y, x) for y in range(-2, 3) for x in range(-2, 3)]
    for y, x in around:
        if 2 in (abs(y), abs(x)):
            where &= ~near(y, x)
    found, seen = 0, [near(y, x) for y, x in gates.NEIGHBOURS]
    for window in glider_windows() if where else ():
        matches = where
        for bits, want in zip(seen, window.ravel(), strict=True):
            matches &= bits if want else ~bits
        found += matches.bit_count()
    return found


def distance() -> np.ndarray:
    """How far from the middle the cells of the plane are, in rows or columns: (side, side)."""
    away = np.abs(np.arange(-HALF, HALF + 1))
    return np.maximum(away, away[:, None])


def make_throws(start: np.ndarray) -> Callable[..., int]:
    """Count how many gliders a circuit lacks of `MOST`. It is asked from four sides (`turned`).

    `start` are the bits to grow from, bools (C, 1, side, side).
    """
    side, row = start.shape[-1], 2 * HALF + 2
    mask, packed = pack_grid(np.ones((side, side), bool)), [*map(pack_grid, start)]
    plane, there = pack_grid(distance() >= 0), pack_grid(distance() > BOX)
    corner, line, known = (HALF - GROWTH) * (row + 1), (1 << side) - 1, {}

    def thrown(body: int) -> int:
        lines = ((body >> y * (side + 1) & line) << y * row for y in range(side))
        grid, before = sum(lines) << corner, 0
        for _ in range(LIFE_STEPS):
            grid, before = life_packed(grid, plane, row), grid
            if grid == before:
                return 0
        return count_gliders(grid, there, row)

    def errors(circuit: gates.Circuit, used: gates.Used | None = None) -> int:
        circuit = gates.turned(circuit)
        if any(bit & 1 for bit in gates.evaluate(circuit, [0] * circuit.inputs)):
            return MOST  # where nothing is, nothing begins
        *_, (body, *_) = islice(grow(circuit, packed, mask, side), GROWTH)
        if body not in known:
            known[body] = thrown(body)
        return MOST - known[body]

    return errors
