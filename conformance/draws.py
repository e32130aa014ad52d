"""Random cases for the fuzzer, as Hypothesis strategies: weighted to the edges, and small."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conformance.elements import EPS, TINY, Floats
from conformance.record import CALLS, Case, FromLogits, Operand, from_bfloat16_bits, to_bfloat16_bits

Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]

DTYPES: Final = ("float32", "float64", "float16", "bfloat16")
LARGEST: Final = {
    "bfloat16": float(from_bfloat16_bits(np.asarray([0x7F7F], np.uint16))[0]),
    **{dtype: float(np.finfo(dtype).max) for dtype in ("float16", "float32", "float64")},
}
REDUCTIONS: Final = ("none", "sum", "mean", "batchmean")
GRADIENTS: Final = (("input", "target"), ("input",), ("target",), ())
FEW_SHAPES: Final = ((2, 3), (4,))
"""For implementations that compile a program for each shape."""
LARGE: Final = (300, 300)
"""More than a block."""
RARELY: Final = 40
"""One case in so many is large, and one is a call to refuse."""
MOST_ELEMENTS: Final = 12
"""Elements that are drawn one by one."""
UPSTREAM: Final = (-2.5, 0.0, 1024.0, 0.125, 3e-5)


def cases(*, shapes: Sequence[Shape] = (), calls: bool = True) -> st.SearchStrategy[Case]:
    """Cases of the loss; of a few shapes, if these are given, and of other ways to call it than once."""
    return _cases(tuple(shapes), calls)


def cases_from_logits(*, shapes: Sequence[Shape] = ()) -> st.SearchStrategy[Case]:
    """Cases of the divergences from logits."""
    return _cases_from_logits(tuple(shapes))


@st.composite
def _cases(draw: Draw, shapes: tuple[Shape, ...], calls: bool) -> Case:
    dtype, other = draw(_dtypes())
    log_target = draw(st.booleans())
    call = draw(st.just("once") | st.sampled_from(list(CALLS))) if calls else "once"
    shape = draw(_shapes(shapes, least_side=0))
    if calls and draw(st.integers(0, RARELY)) == RARELY:  # Hypothesis makes numbers small, and the case with them
        shape = LARGE
    input = draw(_operands(shape, dtype, of_logarithms=True))
    if calls and shape and draw(st.integers(0, RARELY)) == RARELY:
        # Of one dtype, and not 0-d: PyTorch promotes those otherwise.
        target = draw(_operands(draw(_shapes((), least_side=0).filter(len)), dtype, of_logarithms=log_target))
        if target.values.shape != shape:
            return Case("fuzz", "refused", input, target, "mean", log_target, ())
    else:
        target = draw(_operands(shape, other, of_logarithms=log_target))
    gradients: tuple[str, ...] = draw(st.sampled_from(GRADIENTS)) if calls else GRADIENTS[0]
    if call == "one array":
        target, gradients = input, ("input",)
    elif call == "changed after":
        gradients = ("input",)
    reduction = draw(st.just("none") | st.sampled_from(REDUCTIONS))
    cotangent = None
    if call == "in a graph" and (not gradients or input.dtype != target.dtype):
        call = "once"
    elif gradients and input.dtype == target.dtype and (call == "in a graph" or draw(st.booleans())):
        cotangent = draw(_cotangents(shape if reduction == "none" else (), str(input.dtype)))
    return Case("fuzz", "fuzz", input, target, reduction, log_target, gradients, cotangent, call)


@st.composite
def _cases_from_logits(draw: Draw, shapes: tuple[Shape, ...]) -> Case:
    dtype, other = draw(_dtypes())
    shape = draw(_shapes(shapes, least_side=1).filter(len))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    rows = (*shape[: axis % len(shape)], *shape[axis % len(shape) + 1 :])
    target = draw(_logits(shape, other))
    near = draw(st.none() | st.sampled_from((1e-1, 1e-2, 1e-3)))
    input = draw(_logits(shape, dtype)) if near is None else draw(_near(target, near, dtype))
    where = None
    if draw(st.booleans()):
        mask = hnp.arrays(np.bool_, rows) | st.booleans().map(lambda value: np.full((1,) * len(rows), value))
        where = Operand(draw(mask), "bool")
    options = FromLogits(
        beta=draw(st.sampled_from((0.0, 0.5, 1.0, 0.1, 0.9)) | st.floats(0.01, 0.99)),
        temperature=draw(st.sampled_from((1.0, 2.0, 0.5)) | st.floats(0.05, 20.0)),
        axis=axis,
        where=where,
    )
    reduction = draw(st.sampled_from(REDUCTIONS))
    gradients: tuple[str, ...] = GRADIENTS[0]
    # The derivative of an infinite divergence by the logits that it is infinite for is no number.
    if options.beta == 0.0 and np.isneginf(input.values).any():
        gradients = ("input",)
    elif options.beta == 1.0 and np.isneginf(target.values).any():
        gradients = ("target",)
    return Case("fuzz", "logits", input, target, reduction, False, gradients, logits=options)


def _dtypes() -> st.SearchStrategy[tuple[str, str]]:
    """Dtypes of input and target, which mostly are the same."""
    one = st.sampled_from(DTYPES)
    same = one.map(lambda dtype: (dtype, dtype))
    return same | same | st.tuples(one, one)


def _shapes(shapes: tuple[Shape, ...], least_side: int) -> st.SearchStrategy[Shape]:
    if shapes:
        return st.sampled_from(shapes)
    small = hnp.array_shapes(min_dims=0, max_dims=3, min_side=least_side, max_side=4)
    return small | small | hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=12)


@st.composite
def _operands(draw: Draw, shape: Shape, dtype: str, *, of_logarithms: bool) -> Operand:
    """Log-probabilities, or probabilities, among them special values and any other numbers."""
    if np.prod(shape) <= MOST_ELEMENTS:
        values = draw(_elements_drawn(shape, dtype, of_logarithms))
    else:
        values = draw(_rows(shape, of_logarithms))
        for place, value in draw(_sprinkled(values.size, dtype, of_logarithms)):
            values.flat[place] = value
    operand: Operand = draw(_laid_out(values, dtype))
    return operand


@st.composite
def _laid_out(draw: Draw, values: Floats, dtype: str) -> Operand:
    """The values in a memory layout; those of one row for all rows, where a row is expanded."""
    if values.ndim < 2 or not values.size:
        return _operand(values, dtype, "contiguous")
    layout: str = draw(st.just("contiguous") | st.sampled_from(_LAYOUTS))
    if layout == "expanded from a row":
        values = np.repeat(values[:1], len(values), axis=0)
    return _operand(values, dtype, layout)


_LAYOUTS: Final = ("transposed", "in Fortran order", "sliced", "reversed", "expanded from a row")


def _elements_drawn(shape: Shape, dtype: str, of_logarithms: bool) -> st.SearchStrategy[Floats]:
    return hnp.arrays(np.float64, shape, elements=_numbers(dtype, of_logarithms=of_logarithms), fill=st.nothing())


def _numbers(dtype: str, *, of_logarithms: bool) -> st.SearchStrategy[float]:
    tiny, largest = TINY[dtype], LARGEST[dtype]
    special = st.sampled_from(
        (0.0, -np.inf, np.inf, np.nan, -0.0, 1.0, tiny, tiny * EPS[dtype], largest, EPS[dtype], -1.0, -largest, -tiny)
    )
    ordinary = st.floats(-100.0, 0.0) | st.floats(-8.0, 8.0) if of_logarithms else st.floats(0.0, 1.0)
    # The exponents at which exponentials overflow and underflow.
    steep = st.floats(np.log(tiny * EPS[dtype]) - 2, np.log(largest) + 2) if of_logarithms else _powers(tiny, largest)
    return ordinary | ordinary | special | steep | st.floats(-largest, largest)


def _powers(tiny: float, largest: float) -> st.SearchStrategy[float]:
    """Positive numbers of any magnitude."""
    return st.floats(np.log(tiny) - 3, np.log(largest)).map(lambda logarithm: float(np.exp(logarithm)))


def _rows(shape: Shape, of_logarithms: bool) -> st.SearchStrategy[Floats]:
    """Distributions over the last axis, or their logarithms."""

    def rows(seed: int, scale: float) -> Floats:
        scores = scale * np.random.default_rng(seed).standard_normal(shape)
        log_probabilities: Floats = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
        return log_probabilities if of_logarithms else np.exp(log_probabilities)

    return st.builds(rows, st.integers(0, 2**32 - 1), st.sampled_from((1.0, 0.1, 5.0, 30.0)))


def _sprinkled(size: int, dtype: str, of_logarithms: bool) -> st.SearchStrategy[list[tuple[int, float]]]:
    """Places, with other values for them."""
    pair = st.tuples(st.integers(0, size - 1), _numbers(dtype, of_logarithms=of_logarithms))
    return st.lists(pair, max_size=4)


def _cotangents(shape: Shape, dtype: str) -> st.SearchStrategy[Operand]:
    """Upstream gradients of both signs, zero, large and small, which differ between the elements."""
    values = hnp.arrays(np.float64, shape, elements=st.sampled_from(UPSTREAM), fill=st.nothing())
    laid_out: st.SearchStrategy[Operand] = values.flatmap(lambda values: _laid_out(values, dtype))
    return laid_out


@st.composite
def _logits(draw: Draw, shape: Shape, dtype: str) -> Operand:
    """Logits of any size, with an offset of the row; some classes are impossible."""
    seed, scale = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from((3.0, 0.1, 10.0, 40.0)))
    values = scale * np.random.default_rng(seed).standard_normal(shape) + draw(st.sampled_from((0.0, 0.0, 100.0)))
    special = st.sampled_from((-np.inf, -np.inf, -np.inf, -80.0, 0.0, np.inf, np.nan))
    for place, value in draw(st.lists(st.tuples(st.integers(0, values.size - 1), special), max_size=3)):
        values.flat[place] = value
    return _operand(values, dtype, "contiguous")


@st.composite
def _near(draw: Draw, target: Operand, distance: float, dtype: str) -> Operand:
    """A student that has nearly converged."""
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).standard_normal(target.values.shape)
    return _operand(target.values.astype(np.float64) + distance * noise, dtype, "contiguous")


def _operand(values: Floats, dtype: str, layout: str) -> Operand:
    """The values, rounded to the dtype."""
    with np.errstate(all="ignore"):
        rounded = from_bfloat16_bits(to_bfloat16_bits(values)) if dtype == "bfloat16" else values.astype(dtype)
    rounded.flags.writeable = False
    return Operand(rounded, dtype, layout)
