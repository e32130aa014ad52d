"""Where Keras's divergence of two softmaxes departs: it clips both probabilities, and divides one by the other."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from conformance.divergences import Divergences, log_softmax
from conformance.elements import TINY, Floats
from conformance.ledger.entry import Inexact, Mask
from conformance.record import Implementation, Operand, from_bfloat16_bits, to_bfloat16_bits


def _keras(implementation: Implementation) -> bool:
    return implementation.name == "keras.losses.kl_divergence of softmaxes"


def _rounded(values: npt.ArrayLike, dtype: str) -> Floats:
    """Values in a dtype, as float64."""
    if dtype == "bfloat16":
        return np.asarray(from_bfloat16_bits(to_bfloat16_bits(np.asarray(values))), np.float64)
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(dtype).astype(np.float64)


@dataclass(frozen=True)
class _Arithmetic:
    """The operations of Keras and of PyTorch's gradients, each rounded to the dtype, over rows of classes."""

    of: Divergences

    @property
    def dtype(self) -> str:
        """The dtype of the predictions, which the targets are cast to."""
        return str(self.predictions.dtype)

    @property
    def predictions(self) -> Operand:
        return self.of.case.target if self.of.options.beta else self.of.case.input

    @property
    def targets(self) -> Operand:
        return self.of.case.input if self.of.options.beta else self.of.case.target

    def in_dtype(self, values: npt.ArrayLike) -> Floats:
        return _rounded(values, self.dtype)

    def probabilities(self, operand: Operand) -> Floats:
        """Softmax of logits; Keras computes that of float16 in float32."""
        rows = np.moveaxis(operand.values.astype(np.longdouble), self.of.options.axis, -1)
        dtype = str(operand.dtype)
        over_temperature = _rounded(rows / np.longdouble(self.of.options.temperature), dtype)
        probabilities = np.exp(log_softmax(over_temperature.astype(np.longdouble)))
        return _rounded(probabilities, "float32" if dtype == "float16" else dtype)

    @cached_property
    def q(self) -> Floats:
        return self.in_dtype(self.probabilities(self.predictions))

    @cached_property
    def p(self) -> Floats:
        return self.in_dtype(self.probabilities(self.targets))

    def clipped(self, probabilities: Floats) -> Floats:
        return np.clip(probabilities, self.in_dtype(np.float32(1e-7)), 1.0)

    @cached_property
    def ratio(self) -> Floats:
        return self.in_dtype(self.clipped(self.p) / self.clipped(self.q))

    @cached_property
    def weight(self) -> Floats:
        return self.in_dtype(self.of.counts[..., None] / max(self.of.case.divisor, 1))

    @cached_property
    def by_ratio(self) -> Floats:
        """The gradient by the ratio, through its logarithm."""
        return self.in_dtype(self.in_dtype(self.weight * self.clipped(self.p)) / self.ratio)

    @cached_property
    def ratio_by_q(self) -> Floats:
        return self.in_dtype(self.ratio / self.clipped(self.q))

    def loss(self) -> Floats:
        terms = self.in_dtype(self.clipped(self.p) * self.in_dtype(np.log(self.ratio)))
        rows = np.where(self.of.counts, self.in_dtype(terms.sum(axis=-1)), 0.0)
        return rows if self.of.case.reduction == "none" else np.asarray(rows.sum() / np.float64(self.of.case.divisor))

    def gradient(self, quantity: str) -> Floats:
        if (quantity == "input") == (self.predictions is self.of.case.input):
            operand, given, by_clipped = self.predictions, self.q, -self.in_dtype(self.by_ratio * self.ratio_by_q)
        else:
            through_logarithm = self.in_dtype(self.by_ratio / self.clipped(self.q))
            by_factor = self.in_dtype(self.weight * self.in_dtype(np.log(self.ratio)))
            operand, given, by_clipped = self.targets, self.p, self.in_dtype(by_factor + through_logarithm)
        by_clipped = np.where(given == self.clipped(given), by_clipped, 0.0)
        probabilities = self.probabilities(operand)
        rows = probabilities * (by_clipped - (probabilities * by_clipped).sum(axis=-1, keepdims=True))
        return np.moveaxis(rows / self.of.options.temperature, -1, self.of.options.axis)


def _value(of: Divergences, quantity: str) -> Floats:
    with np.errstate(all="ignore"):
        arithmetic = _Arithmetic(of)
        return arithmetic.loss() if quantity == "loss" else arithmetic.gradient(quantity)


def _clips(of: Divergences, quantity: str) -> Mask:
    arithmetic = _Arithmetic(of)
    found = [(z != arithmetic.clipped(z)).any(axis=-1) for z in (arithmetic.p, arithmetic.q)]
    return of.of_rows(found[0] | found[1], quantity)


def _out_of_range(of: Divergences, quantity: str) -> Mask:
    """Rows with a class whose ratio, or a factor of whose gradients, overflows or loses digits."""
    with np.errstate(all="ignore"):
        arithmetic = _Arithmetic(of)
        factors = [arithmetic.ratio] if quantity == "loss" else [arithmetic.ratio_by_q, arithmetic.by_ratio]
        tiny = TINY[arithmetic.dtype]
        found = [np.isinf(factor) | (np.abs(factor) < tiny) for factor in (*factors, arithmetic.p, arithmetic.q)]
        return of.of_rows(np.any(found, axis=0).any(axis=-1), quantity)


def _roundings(of: Divergences, quantity: str) -> Floats:
    return of.tolerance(quantity, derived=quantity != "loss")


INEXACT = (
    Inexact(
        id="clipped-softmax",
        who=_keras,
        where=_clips,
        instead=_value,
        roundings=_roundings,
        why="wrong for a loss: Keras clips both probabilities to [1e-7, 1], even in float64. An infinite loss becomes"
        " finite, and a clipped class gets no gradient. Of a vocabulary of 50,257 classes it clips half",
        evidence="logits/long/2x50257/apart/float32/beta-0/mean; https://github.com/keras-team/keras/issues/19520",
    ),
    Inexact(
        id="ratio-of-softmaxes-out-of-range",
        who=_keras,
        where=_out_of_range,
        instead=_value,
        roundings=_roundings,
        why="wrong: p/q and its derivative p/q/q overflow in float16 for ordinary probabilities, so that the loss and"
        " the gradients are infinite or NaN",
        evidence="logits/random/5x3/axis--1/float16/beta-0/none",
    ),
)
