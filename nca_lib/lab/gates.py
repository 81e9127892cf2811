"""Cells made of logic gates, and what an evolution of gates and wires consists of (chapter 9).

Each cell holds C bits. A circuit of two-input gates, the same in every cell, reads the 9 C bits of
the 3x3 neighbourhood and gives the cell's next C bits. Nothing is relaxed: a mutation exchanges one
gate or one wire, and a child that is no worse replaces its parent. That is Cartesian genetic
programming (Miller and Thomson 2000); the tasks are those of Miotti, Niklasson, Randazzo and
Mordvintsev (2025), who train such circuits by gradients through a soft stand-in for each gate.

A gate works on whole grids at once: bits are packed into Python integers, of any length, or lie in
arrays of bools. Mutations spend no evaluation on gates that nothing reads.
"""

import random
from itertools import compress, count
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

# The 16 functions of two bits. Bit 2 a + b of a function's number is its answer to a and b.
GATES = (
    lambda a, b: a & ~a,
    lambda a, b: ~(a | b),
    lambda a, b: b & ~a,
    lambda a, b: ~a,
    lambda a, b: a & ~b,
    lambda a, b: ~b,
    lambda a, b: a ^ b,
    lambda a, b: ~(a & b),
    lambda a, b: a & b,
    lambda a, b: ~(a ^ b),
    lambda a, b: b,
    lambda a, b: ~a | b,
    lambda a, b: a,
    lambda a, b: a | ~b,
    lambda a, b: a | b,
    lambda a, b: a | ~a,
)
OR = 14  # number of that function
# Rows and columns from a cell to its neighbours, in the order of the inputs of each bit.
NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


class Circuit(NamedTuple):
    """A circuit without loops.

    Wires are numbered: first the inputs, then the gates in their order. Input 9 c + k is bit c of
    the k-th of `NEIGHBOURS`. A gate is (function, wire a, wire b) and reads wires of lower numbers
    only; the outputs are wires.
    """

    inputs: int
    gates: tuple[tuple[int, int, int], ...]
    outputs: tuple[int, ...]


Used = tuple[list[int], list[int]]  # inputs that some output depends on, and gates


def random_circuit(rng: random.Random, inputs: int, gates: int, outputs: int) -> Circuit:
    """Draw every function and every wire at random; the counts are of inputs, gates, outputs."""
    wires = [inputs + number for number in range(gates)]
    drawn = [(rng.randrange(16), rng.randrange(end), rng.randrange(end)) for end in wires]
    return Circuit(inputs, tuple(drawn), tuple(rng.choices(range(inputs + gates), k=outputs)))


def active(circuit: Circuit) -> Used:
    """List the wires that some output depends on: inputs, and gates in their order."""
    inputs, gates, outputs = circuit
    used = bytearray(inputs + len(gates))
    for wire in outputs:
        used[wire] = 1
    for number in range(len(gates) - 1, -1, -1):
        if used[inputs + number]:
            _, a, b = gates[number]
            used[a] = used[b] = 1
    return list(compress(range(inputs), used)), list(compress(count(inputs), used[inputs:]))


def evaluate(circuit: Circuit, values: list, used: Used | None = None) -> list:
    """Compute the outputs from the inputs, integers of packed bits or arrays of bools.

    Only the gates that are `used` are computed; who has asked `active` already can pass its answer.
    Where integers are negative, the bits beyond the ones meant are set; mask them.
    """
    inputs, gates, outputs = circuit
    values = values + [0] * len(gates)
    for wire in (used or active(circuit))[1]:
        function, a, b = gates[wire - inputs]
        values[wire] = GATES[function](values[a], values[b])
    return [values[wire] for wire in outputs]


def mutate(circuit: Circuit, wires: set[int], rng: random.Random) -> Circuit:
    """Exchange functions and wires, each at random, until one has changed that is in use.

    `wires` has the active gates. What changes on the way in gates that are not in use is the
    neutral drift (the "single" mutation of Goldman and Punch 2013).
    """
    inputs, gates, outputs = circuit[0], list(circuit.gates), list(circuit.outputs)
    while True:
        number, part = divmod(rng.randrange(3 * len(gates) + len(outputs)), 3)
        if number < len(gates):
            gate = list(gates[number])
            gate[part] = rng.randrange(inputs + number if part else 16)
            changed = tuple(gate) != gates[number] and inputs + number in wires
            gates[number] = tuple(gate)
        else:
            number = 3 * (number - len(gates)) + part
            wire = rng.randrange(inputs + len(gates))
            changed, outputs[number] = wire != outputs[number], wire
        if changed:
            return Circuit(inputs, tuple(gates), tuple(outputs))


def pack(bits: Bool[np.ndarray, "..."]) -> int:
    """Put bits into one integer, the first one lowest."""
    return int.from_bytes(np.packbits(bits.ravel(), bitorder="little").tobytes(), "little")


def step(
    circuit: Circuit, state: Bool[np.ndarray, "C H W"], wrap: bool
) -> Bool[np.ndarray, "C H W"]:
    """Advance a grid by one step, plainly: the borders are joined (`wrap`), else zeros beyond."""
    height, width = state.shape[1:]
    padded = np.pad(state, ((0, 0), (1, 1), (1, 1)), mode="wrap" if wrap else "constant")
    near = [
        plane[1 + y : 1 + y + height, 1 + x : 1 + x + width]
        for plane in padded
        for y, x in NEIGHBOURS
    ]
    return np.stack(evaluate(circuit, near))


def turned(circuit: Circuit) -> Circuit:
    """Let each cell ask a circuit four times, and set the bits that any of the answers sets.

    Each time the neighbourhood is turned by a quarter. So the new circuit, of four copies and some
    ORs, cannot tell directions apart, and what grows from one cell looks the same turned.
    """
    inputs, gates, outputs = circuit
    order, listed, answers = list(range(9)), [], []
    for _ in range(4):
        new = [wire // 9 * 9 + order[wire % 9] for wire in range(inputs)]
        new += [inputs + len(listed) + number for number in range(len(gates))]
        listed += [(function, new[a], new[b]) for function, a, b in gates]
        answers.append([new[wire] for wire in outputs])
        order = [order[k] for k in (2, 5, 8, 1, 4, 7, 0, 3, 6)]
    either = answers[0]
    for answer in answers[1:]:
        pairs = list(zip(either, answer, strict=True))
        either = [inputs + len(listed) + number for number in range(len(pairs))]
        listed += [(OR, a, b) for a, b in pairs]
    return Circuit(inputs, tuple(listed), tuple(either))
