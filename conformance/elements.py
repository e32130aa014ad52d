"""The elements of a case, for the conditions of the ledger and the tolerance."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from conformance.record import Case, from_bfloat16_bits, to_bfloat16_bits

Floats = npt.NDArray[Any]

EPS = {"bfloat16": 2.0**-7, **{t: float(np.finfo(t).eps) for t in ("float16", "float32", "float64")}}
TINY = {"bfloat16": 2.0**-126, **{t: float(np.finfo(t).tiny) for t in ("float16", "float32", "float64")}}


@dataclass(frozen=True)
class Elements:
    """Arrays of a case in float64, and the limits of the dtype of the computation.

    ``x`` is the input, ``y`` the target, ``divisor`` the number of elements or rows that the reduction averages over,
    and ``cotangent`` the upstream gradient of the loss.
    """

    x: Floats
    y: Floats
    log_target: bool
    dtype: str
    reduction: str
    divisor: int
    input_dtype: str
    """Dtype of the input; ``dtype`` is the coarser one of both operands."""
    cotangent: Floats = field(default_factory=lambda: np.asarray(1.0))
    one_array: bool = False
    """Whether input and target are one array, whose gradient is the sum of both gradients."""
    flush: bool = False
    """Whether the library flushes subnormal numbers to zero."""

    @staticmethod
    def of(case: Case) -> "Elements":
        """Elements of a case whose operands are floating arrays, of one shape or broadcast to one."""
        # The result of mixed dtypes is no better than the coarser one: PyTorch rounds y log y to the dtype of y.
        dtype = max(str(case.input.dtype), str(case.target.dtype), key=EPS.__getitem__)
        x, y = np.broadcast_arrays(*(np.asarray(o.values, np.float64) for o in (case.input, case.target)))
        cotangent = 1.0 if case.cotangent is None else case.cotangent.values
        return Elements(
            x,
            y,
            case.log_target,
            dtype,
            case.reduction,
            _divisor(case, x.shape),
            str(case.input.dtype),
            np.asarray(cotangent, np.float64),
            one_array=case.call == "one array",
        )

    @property
    def eps(self) -> float:
        """Distance of 1 to the next number."""
        return EPS[self.dtype]

    @property
    def tiny(self) -> float:
        """Smallest normal number."""
        return TINY[self.dtype]

    @property
    def smallest(self) -> float:
        """Smallest subnormal number."""
        return TINY[self.dtype] * EPS[self.dtype]

    @cached_property
    def p(self) -> Floats:
        """Probability of the target."""
        return self.flushed(np.exp(self.y)) if self.log_target else self.y

    @cached_property
    def log_p(self) -> Floats:
        """Its logarithm: NaN for a negative target."""
        return self.y if self.log_target else np.log(self.y)

    @property
    def weight(self) -> Floats:
        """Gradient of what follows by the loss of each element: the cotangent, divided as the reduction divides."""
        return np.asarray(self.cotangent / max(self.divisor, 1))

    def per_weight(self, gradient: Floats) -> Floats:
        """Derivative that gives a gradient when it is multiplied by the weight."""
        return np.where((self.weight == 0) & (gradient == 0), 0.0, gradient / self.weight)

    @cached_property
    def terms(self) -> Floats:
        """Size of what the probability is multiplied by; an infinity or a NaN is exact and counts nothing."""
        terms = np.abs(self.log_p) + np.abs(self.x) + 1
        return np.where(np.isfinite(terms), terms, 0.0)

    def rounded(self, values: Floats | float) -> Floats:
        """Values rounded to the dtype in which the case is computed, infinite where they are too large for it."""
        if self.dtype == "bfloat16":
            return self.flushed(from_bfloat16_bits(to_bfloat16_bits(np.asarray(values))).astype(np.float64))
        return self.flushed(np.asarray(values).astype(self.dtype).astype(np.float64))

    def subnormal(self, values: Floats) -> npt.NDArray[np.bool_]:
        """Mask of the values that are subnormal in what ``kldiv_xp`` computes in: float32 for 16 bits."""
        tiny = min(self.tiny, TINY["float32"])
        mask: npt.NDArray[np.bool_] = (values != 0) & (np.abs(values) < tiny)
        return mask

    def flushed(self, values: Floats) -> Floats:
        """Values with zeros for the subnormal numbers, if these are flushed; otherwise as they are."""
        return np.where(self.subnormal(values), 0.0, values) if self.flush else values

    def with_flush(self) -> "Elements":
        """The same elements as a library sees them for which subnormal numbers count as zero."""
        flushing = replace(self, flush=True)
        return replace(flushing, x=flushing.flushed(self.x), y=flushing.flushed(self.y))

    def formula(self, quantity: str) -> Floats:
        """PyTorch's formula, or the derivative of it that PyTorch's autograd computes."""
        if quantity == "input":
            return -self.p
        if self.log_target:
            loss: Floats = self.p * (self.y - self.x)
            return loss if quantity == "loss" else loss + self.p
        if quantity == "target":
            return np.where(self.y == 0, np.nan, self.log_p + self.y / self.y - self.x)
        return np.where(self.y == 0, 0.0, self.rounded(self.y * self.log_p)) - self.rounded(self.y * self.x)


def _divisor(case: Case, shape: tuple[int, ...]) -> int:
    """How many elements or rows the reduction of a case averages over."""
    if case.reduction == "mean":
        return int(np.prod(shape, dtype=int))
    return shape[0] if case.reduction == "batchmean" and shape else 1
