"""The kinds of ledger entries, and the conditions that several entries share."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conformance.divergences import Divergences
from conformance.elements import Elements, Floats, rounded_to
from conformance.record import Case, Implementation, Outcome

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Deviation:
    """Elements for which an implementation departs from PyTorch's formula."""

    id: str
    who: Callable[[Implementation], bool]
    quantities: tuple[str, ...]
    where: Callable[[Elements], Mask]
    instead: Callable[[Elements], Floats | float] | None
    """What it gives there: the loss of the element, or its derivative. ``None`` for the formula, applied to what it
    ``sees``."""
    why: str
    evidence: str
    sees: Callable[[Elements], Elements] | None = None
    """The elements as the implementation sees them, for all entries; ``None`` if it sees them unchanged."""
    roundings: Callable[[Elements], Floats] | None = None
    """Bound on its rounding errors there beyond those of the formula; ignored where it is not finite."""
    reduced: bool = False
    """Whether the entry is about the reduced loss as a whole; ``where`` is then one bool, ``instead`` one number."""
    by_chance: bool = False
    """Whether the deviation occurs in some runs and not in others."""


@dataclass(frozen=True)
class Refusal:
    """Calls that one side rejects and the other accepts."""

    id: str
    who: Callable[[Implementation], bool]
    explains: Callable[[Case, Outcome], bool]
    why: str
    evidence: str


@dataclass(frozen=True)
class Promotion:
    """Results whose dtype is not that of PyTorch; the suite still judges their values."""

    id: str
    who: Callable[[Implementation], bool]
    gives: Callable[[Case, str], str | None]
    """The dtype of a quantity of a case; ``None`` where the entry does not apply."""
    why: str
    evidence: str


@dataclass(frozen=True)
class Inexact:
    """Elements of a divergence from logits for which an implementation, which may be the reference, is not exact."""

    id: str
    who: Callable[[Implementation], bool]
    """The implementations that are not exact."""
    where: Callable[[Divergences, str], Mask]
    """The elements of a quantity."""
    why: str
    evidence: str
    roundings: Callable[[Divergences, str], Floats] | None = None
    """Bound on the error beyond the tolerance; ``None`` for 0."""
    instead: Callable[[Divergences, str], Floats] | float | None = None
    """What it gives there; ``None`` for the exact value."""


def named(name: str) -> Callable[[Implementation], bool]:
    """Whether an implementation has this name, on any device."""
    return lambda implementation: implementation.name.partition(" ")[0] == name


def floating_arrays(case: Case) -> bool:
    """Whether both operands are floating-point arrays."""
    return all(operand.is_array and operand.values.dtype.kind == "f" for operand in (case.input, case.target))


def gives_what_was_asked(case: Case, outcome: Outcome) -> bool:
    """Whether there is a loss, of the shape that the reduction implies; an unknown reduction implies no reduction."""
    reduced = case.reduction in ("mean", "sum", "batchmean")
    shapes = (np.shape(operand.values) for operand in (case.input, case.target))
    return outcome.loss is not None and outcome.loss.shape == (() if reduced else np.broadcast_shapes(*shapes))


def computed(e: Elements, values: Floats) -> Floats:
    """Values in the dtype of the computation: the promoted one, or float32 for 16 bits."""
    return e.flushed(rounded_to(values, e.computing_dtype))


def sum_overflows(e: Elements, dtype: str) -> bool:
    """Whether the sum of finite losses is too large for a dtype."""
    total = e.formula("loss").sum()
    return bool(np.isfinite(total) and np.isinf(rounded_to(total, dtype)))


def running_total(values: Floats, lanes: int, dtype: str) -> float:
    """Sum of all elements in the dtype, added sequentially in each of several lanes."""
    rounded = values.astype(dtype).ravel()
    rows = rounded[: rounded.size - rounded.size % lanes].reshape(-1, lanes)
    totals = np.cumsum(np.vstack([np.zeros((1, lanes), dtype), rows]), axis=0)[-1]
    return float(totals.astype(np.float64).sum() + rounded[rows.size :].astype(np.float64).sum())


def zero(_: Elements) -> float:
    """0 for all elements."""
    return 0.0


def among_probabilities(e: Elements, mask: Mask) -> Mask:
    """The mask, if targets are probabilities; otherwise an empty one."""
    probabilities: Mask = mask & np.asarray(not e.log_target)
    return probabilities


def among_log_probabilities(e: Elements, mask: Mask) -> Mask:
    """The mask, if targets are log-probabilities; otherwise an empty one."""
    log_probabilities: Mask = mask & np.asarray(e.log_target)
    return log_probabilities


def products_out_of_range(e: Elements) -> Mask:
    """Where a product of PyTorch's, y log y or y x, overflows or is flushed to zero, or y is infinite."""
    y_log_y, y_x = e.products
    overflows: Mask = np.isinf(y_log_y) | (np.isfinite(e.x) & np.isinf(y_x))
    flushed = np.asarray(e.flush) & (e.subnormal(e.y * e.log_p) | e.subnormal(e.y * e.x))
    lost: Mask = overflows | flushed
    return lost
