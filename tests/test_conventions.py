"""What the loss is where its formula breaks down: the table in the documentation, cell by cell."""

import itertools
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from kldiv_xp import kl_div
from tests.backends import CONVENTIONS, array, numbers

FINITE = (-2.5, -1.0, -0.0, 0.0, 0.7)
EVERY_INPUT = (*FINITE, inf, -inf, nan)

# Target, inputs, and the loss in the conventions "oneflow", "torch" and "limit".
PROBABILITIES: list[tuple[float, tuple[float, ...], tuple[float, float, float]]] = [
    *((zero, FINITE, (0.0, 0.0, 0.0)) for zero in (0.0, -0.0)),
    *((zero, (inf, -inf), (0.0, nan, 0.0)) for zero in (0.0, -0.0)),
    *((zero, (nan,), (0.0, nan, nan)) for zero in (0.0, -0.0)),
    *((negative, EVERY_INPUT, (0.0, nan, nan)) for negative in (-0.3, -1.0, -1e-30, -inf)),
    (nan, EVERY_INPUT, (nan, nan, nan)),
    (inf, (0.0, -0.0), (inf, nan, inf)),
    (inf, (0.7,), (inf, nan, inf)),
    (inf, (-1.0, -2.5), (inf, inf, inf)),
    (inf, (-inf,), (inf, inf, inf)),
    (inf, (inf, nan), (nan, nan, nan)),
    *((ordinary, (-inf,), (inf, inf, inf)) for ordinary in (1e-30, 0.3, 1.0, 7.0)),
    *((ordinary, (inf,), (-inf, -inf, -inf)) for ordinary in (1e-30, 0.3, 1.0, 7.0)),
    *((ordinary, (nan,), (nan, nan, nan)) for ordinary in (1e-30, 0.3, 1.0, 7.0)),
]
LOG_PROBABILITIES: list[tuple[float, tuple[float, ...], tuple[float, float, float]]] = [
    (-inf, FINITE, (nan, nan, 0.0)),
    (-inf, (inf,), (nan, nan, 0.0)),
    (-inf, (-inf,), (nan, nan, 0.0)),  # masked on both sides
    (-inf, (nan,), (nan, nan, nan)),
    (nan, EVERY_INPUT, (nan, nan, nan)),
    (inf, (*FINITE, -inf), (inf, inf, inf)),
    (inf, (inf, nan), (nan, nan, nan)),
    *((ordinary, (-inf,), (inf, inf, inf)) for ordinary in (-70.0, -0.5, 0.0, 2.0)),
    *((ordinary, (inf,), (-inf, -inf, -inf)) for ordinary in (-70.0, -0.5, 0.0, 2.0)),
    *((ordinary, (nan,), (nan, nan, nan)) for ordinary in (-70.0, -0.5, 0.0, 2.0)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("log_target", "rows"), [(False, PROBABILITIES), (True, LOG_PROBABILITIES)])
def test_every_cell_of_the_table_holds(xp: Any, log_target: bool, rows: Any, convention: Any, dtype: str) -> None:
    cells = [(x, y, cells[CONVENTIONS.index(convention)]) for y, inputs, cells in rows for x in inputs]
    x, y, expected = np.asarray(cells).T
    loss = numbers(kl_div(array(xp, x, dtype), array(xp, y, dtype), "none", log_target, convention=convention))
    wrong = [(a, b, f"is {c}, must be {d}") for a, b, c, d in zip(x, y, loss, expected, strict=True) if not same(c, d)]
    assert not wrong


@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean"])
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("log_target", [False, True])
def test_a_nan_target_is_never_swallowed(xp: Any, log_target: bool, convention: Any, reduction: Any) -> None:
    x, y = array(xp, [[-1.0, -2.0], [-0.5, -inf]]), array(xp, [[0.5, 0.25], [nan, 0.0]])
    assert np.isnan(numbers(kl_div(x, y, reduction, log_target, convention=convention)))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_masked_class_costs_nothing_unless_pytorch_says_so(xp: Any, convention: Any) -> None:
    # A class that neither distribution has: the case that people meet.
    x, y = array(xp, [[np.log(0.25), np.log(0.75), -inf]]), array(xp, [[0.5, 0.5, 0.0]])
    loss = numbers(kl_div(x, y, "batchmean", convention=convention))
    expected = nan if convention == "torch" else 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    np.testing.assert_allclose(loss, expected, rtol=1e-15)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_an_array_may_hold_edges_of_all_kinds_beside_ordinary_numbers(xp: Any, convention: Any) -> None:
    # The mask is taken element by element: what stands next to an edge is untouched.
    edges = list(itertools.product((0.0, -1.0, nan, inf), EVERY_INPUT))
    ordinary = [(1.0, -2.0)] * len(edges)
    y, x = np.asarray([pair for both in zip(edges, ordinary, strict=True) for pair in both]).T
    loss = numbers(kl_div(array(xp, x), array(xp, y), "none", convention=convention))
    np.testing.assert_array_equal(loss[1::2], 2.0)


def same(value: float, expected: float) -> bool:
    return bool(np.array_equal(value, expected, equal_nan=True))
