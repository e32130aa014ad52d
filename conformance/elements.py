"""The elements of a case, for the conditions of the ledger and the tolerance."""

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from conformance.record import Case, from_bfloat16_bits, to_bfloat16_bits

Floats = npt.NDArray[Any]

EPS = {"bfloat16": 2.0**-7, **{t: float(np.finfo(t).eps) for t in ("float16", "float32", "float64")}}
TINY = {"bfloat16": 2.0**-126, **{t: float(np.finfo(t).tiny) for t in ("float16", "float32", "float64")}}
LARGEST = {"bfloat16": 2.0**128 - 2.0**120, **{t: float(np.finfo(t).max) for t in ("float16", "float32", "float64")}}


@dataclass(frozen=True, eq=False)  # hashed by identity, so that what is computed from it can be kept
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
    target_dtype: str
    """Dtype of the target."""
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
            str(case.target.dtype),
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
        """Smallest subnormal number, or the larger one of two dtypes."""
        return max(TINY[dtype] * EPS[dtype] for dtype in (self.dtype, *self._narrower))

    @property
    def promoted_dtype(self) -> str:
        """Dtype of the loss, which holds the numbers of both operands."""
        pair = {self.input_dtype, self.target_dtype}
        return "float32" if pair == {"float16", "bfloat16"} else min(pair, key=EPS.__getitem__)

    @property
    def _narrower(self) -> tuple[str, ...]:
        """float16 beside bfloat16, which is coarser and has a wider range."""
        return ("float16",) if {self.input_dtype, self.target_dtype} == {"float16", "bfloat16"} else ()

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

    @property
    def computing_dtype(self) -> str:
        """The promoted dtype, or float32 for 16 bits."""
        return "float32" if "16" in self.promoted_dtype else self.promoted_dtype

    @property
    def products(self) -> tuple[Floats, Floats]:
        """``y log y`` and ``y x``, in the dtype of the computation."""
        y_log_y, y_x = (rounded_to(self.y * factor, self.computing_dtype) for factor in (self.log_p, self.x))
        return self.flushed(y_log_y), self.flushed(y_x)

    @lru_cache(maxsize=8)  # noqa: B019 -- keeps few
    def computed_in(self, dtype: str) -> "Elements":
        """The same elements for a library that converts both operands to a dtype."""
        return replace(self, dtype=dtype, input_dtype=dtype, target_dtype=dtype)

    def rounded(self, values: Floats | float) -> Floats:
        """Values rounded to the dtype in which the case is computed, infinite where they are too large for it."""
        return self.flushed(rounded_to(values, self.dtype), self.dtype)

    def subnormal(self, values: Floats) -> npt.NDArray[np.bool_]:
        """Mask of the values that may be subnormal: in the coarser dtype of the arguments, or in float32 for 16 bits.

        For the conditions of the ledger. What a library flushes also depends on where it meets a value: ``flushed``.
        """
        tiny = min(self.tiny, TINY["float32"])
        mask: npt.NDArray[np.bool_] = (values != 0) & (np.abs(values) < tiny)
        return mask

    def flushed(self, values: Floats, dtype: str = "") -> Floats:
        """Values with zeros for the subnormal numbers, if these are flushed; otherwise as they are.

        ``dtype`` is that of an argument or a result; by default values are of the computation. 16 bits are converted.
        """
        if not self.flush:
            return values
        tiny = max(TINY[self.computing_dtype], min(TINY[dtype or "float64"], TINY["float32"]))
        return np.where((values != 0) & (np.abs(values) < tiny), 0.0, values)

    def with_flush(self) -> "Elements":
        """The same elements as a library sees them for which subnormal numbers count as zero."""
        flushing = replace(self, flush=True)
        x, y = flushing.flushed(self.x, self.input_dtype), flushing.flushed(self.y, self.target_dtype)
        return replace(flushing, x=x, y=y)

    def formula(self, quantity: str) -> Floats:
        """PyTorch's formula, or the derivative of it that PyTorch's autograd computes."""
        if quantity == "input":
            return -self.p
        if self.log_target:
            loss: Floats = self.p * (self.y - self.x)
            return loss if quantity == "loss" else loss + self.p
        if quantity == "target":
            return np.where(self.y == 0, np.nan, self.log_p + self.y / self.y - self.x)
        y_log_y, y_x = self.products
        return np.where(self.y == 0, 0.0, y_log_y) - y_x


def rounded_to(values: Floats | float, dtype: str) -> Floats:
    """Values rounded to a dtype, infinite where they are too large for it."""
    values = np.asarray(values)
    if dtype == "bfloat16":
        return from_bfloat16_bits(to_bfloat16_bits(values)).astype(np.float64)
    return values.astype(dtype).astype(np.float64)


def _divisor(case: Case, shape: tuple[int, ...]) -> int:
    """How many elements or rows the reduction of a case averages over."""
    if case.reduction == "mean":
        return int(np.prod(shape, dtype=int))
    return shape[0] if case.reduction == "batchmean" and shape else 1
