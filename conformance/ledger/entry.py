"""What an entry of the ledger is, and the conditions that many of them share."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conformance.elements import Elements, Floats
from conformance.record import Case, Implementation, Outcome

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Deviation:
    """Elements for which an implementation gives something else than PyTorch's formula."""

    id: str
    who: Callable[[Implementation], bool]
    quantities: tuple[str, ...]
    where: Callable[[Elements], Mask]
    instead: Callable[[Elements], Floats | float] | None
    """What it gives there: the loss of the element, or the derivative of that. ``None`` for the formula, of what it
    ``sees``."""
    why: str
    evidence: str
    sees: Callable[[Elements], Elements] | None = None
    """What it takes the elements of the case for, everywhere and in all entries, if not for what they are."""
    roundings: Callable[[Elements], Floats] | None = None
    """Largest error that it makes there by roundings which the formula has not; none where that is not finite."""
    reduced: bool = False
    """Whether it is about the reduced loss as a whole: ``where`` is then one truth value, ``instead`` one number."""
    by_chance: bool = False
    """Whether the implementation does so at one time, and at another not."""


@dataclass(frozen=True)
class Refusal:
    """Calls that one side refuses and the other takes."""

    id: str
    who: Callable[[Implementation], bool]
    explains: Callable[[Case, Outcome], bool]
    why: str
    evidence: str


@dataclass(frozen=True)
class Promotion:
    """Results that have another dtype than PyTorch's; their values are judged all the same."""

    id: str
    who: Callable[[Implementation], bool]
    gives: Callable[[Case, str], str | None]
    """The dtype of a quantity of a case; ``None`` where the entry says nothing of it."""
    why: str
    evidence: str


def named(name: str) -> Callable[[Implementation], bool]:
    """Whether an implementation has this name, on whatever device."""
    return lambda implementation: implementation.name.partition(" ")[0] == name


def floating_arrays(case: Case) -> bool:
    """Whether both operands are arrays of floating numbers."""
    return all(operand.is_array and operand.values.dtype.kind == "f" for operand in (case.input, case.target))


def gives_what_was_asked(case: Case, outcome: Outcome) -> bool:
    """Whether there is a result, of the shape that the reduction leaves; one that is no reduction leaves all."""
    reduced = case.reduction in ("mean", "sum", "batchmean")
    shapes = (np.shape(operand.values) for operand in (case.input, case.target))
    return outcome.loss is not None and outcome.loss.shape == (() if reduced else np.broadcast_shapes(*shapes))


def computed(e: Elements, values: Floats) -> Floats:
    """Values as they are computed: in the dtype of the case, or in float32 for the shorter ones."""
    return values if e.dtype == "float64" else e.flushed(values.astype(np.float32).astype(np.float64))


def sum_overflows(e: Elements) -> bool:
    """Whether the sum of finite losses is too large for the dtype."""
    total = e.formula("loss").sum()
    return bool(np.isfinite(total) and np.isinf(e.rounded(total)))


def running_total(values: Floats, lanes: int, dtype: str) -> float:
    """Sum of all elements in the dtype, one behind the other in each of some lanes."""
    rounded = values.astype(dtype).ravel()
    rows = rounded[: rounded.size - rounded.size % lanes].reshape(-1, lanes)
    totals = np.cumsum(np.vstack([np.zeros((1, lanes), dtype), rows]), axis=0)[-1]
    return float(totals.astype(np.float64).sum() + rounded[rows.size :].astype(np.float64).sum())


def zero(_: Elements) -> float:
    """Nothing, whatever the elements are."""
    return 0.0


def among_probabilities(e: Elements, mask: Mask) -> Mask:
    """Part of a mask that is about targets which are probabilities."""
    probabilities: Mask = mask & np.asarray(not e.log_target)
    return probabilities


def among_log_probabilities(e: Elements, mask: Mask) -> Mask:
    """Part of a mask that is about targets which are log-probabilities."""
    log_probabilities: Mask = mask & np.asarray(e.log_target)
    return log_probabilities


def products_out_of_range(e: Elements) -> Mask:
    """Where one of PyTorch's two products, y log y and y x, is infinite for finite numbers, or y is; or is flushed."""
    y_log_y, y_x = e.rounded(e.y * e.log_p), e.rounded(e.y * e.x)
    overflows: Mask = np.isinf(y_log_y) | (np.isfinite(e.x) & np.isinf(y_x))
    flushed = np.asarray(e.flush) & (e.subnormal(e.y * e.log_p) | e.subnormal(e.y * e.x))
    lost: Mask = overflows | flushed
    return lost
