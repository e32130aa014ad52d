"""Where torchtune's losses from logits depart: they compute in float32, and fill classes and rows with zeros."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conformance.divergences import Divergences, log_softmax
from conformance.elements import Floats
from conformance.ledger.entry import Deviation, Inexact, Mask, Promotion, Refusal
from conformance.ledger.from_logits import of_float32
from conformance.record import Implementation

Exact = npt.NDArray[np.longdouble]


def _torchtune(implementation: Implementation) -> bool:
    return implementation.library == "torchtune"


@dataclass(frozen=True)
class _Arithmetic:
    """torchtune's operations in its order, on all rows, in extended precision."""

    of: Divergences
    forward: bool

    def rows(self, values: Floats) -> Exact:
        rows = np.moveaxis(np.asarray(values, np.longdouble), self.of.options.axis, -1)
        return np.asarray(rows / np.longdouble(self.of.options.temperature))

    @property
    def x(self) -> Exact:
        return self.rows(self.of.case.input.values)

    @property
    def y(self) -> Exact:
        return self.rows(self.of.case.target.values)

    @property
    def filled(self) -> Mask:
        """Classes whose product is filled with 0: those of an infinite logit of the student, or of either side."""
        return np.isinf(self.x) if self.forward else np.isinf(self.x) | np.isinf(self.y)

    def value(self, quantity: str) -> Floats:
        """The loss, or a gradient."""
        log_q, log_p = log_softmax(self.x), log_softmax(self.y)
        q, p = np.exp(log_q), np.exp(log_p)
        weights = self.of.counts / np.longdouble(max(self.of.case.divisor, 1))
        if quantity == "loss":
            terms = np.where(self.filled, 0, p * log_q if self.forward else q * log_p - q * log_q)
            return np.asarray(-(terms.sum(axis=-1) * weights).sum(), np.float64)
        by_product = np.where(self.filled, 0, -weights[..., None])
        if quantity == "input":
            rows = _through_log_softmax(by_product * p if self.forward else -by_product * q, q)
            if not self.forward:
                rows = rows + _through_softmax(by_product * log_p - by_product * log_q, q)
        else:
            rows = _through_softmax(by_product * log_q, p) if self.forward else _through_log_softmax(by_product * q, p)
        return np.moveaxis(rows / self.of.options.temperature, -1, self.of.options.axis).astype(np.float64)


def _through_log_softmax(gradient: Exact, probabilities: Exact) -> Exact:
    return np.asarray(gradient - probabilities * gradient.sum(axis=-1, keepdims=True))


def _through_softmax(gradient: Exact, probabilities: Exact) -> Exact:
    return np.asarray(probabilities * (gradient - (probabilities * gradient).sum(axis=-1, keepdims=True)))


def _arithmetic(of: Divergences) -> _Arithmetic:
    return _Arithmetic(of, forward=of.options.beta == 0.0)


def _value(of: Divergences, quantity: str) -> Floats:
    with np.errstate(all="ignore"):
        return _arithmetic(of).value(quantity)


def _other_is_nan(of: Divergences, quantity: str) -> Mask:
    with np.errstate(all="ignore"):
        return np.asarray(np.isnan(_Arithmetic(of, forward=of.options.beta != 0.0).value(quantity)))


def _of_entropy(of: Divergences, quantity: str) -> Mask:
    """The loss of the forward divergence, and its gradient by the teacher."""
    return of.everywhere(quantity, when=of.options.beta == 0.0 and quantity != "input")


def _filled(of: Divergences, quantity: str) -> Mask:
    return of.of_rows(np.asarray(_arithmetic(of).filled.any(axis=-1)), quantity)


def _nan_of_masked_rows(of: Divergences, quantity: str) -> Mask:
    return np.asarray(quantity == "loss" and not of.counts.all() and np.isnan(_value(of, "loss")))


DEVIATIONS: tuple[Deviation, ...] = ()

INEXACT = (
    Inexact(
        id="cross-entropy",
        who=_torchtune,
        where=_of_entropy,
        instead=_value,
        roundings=of_float32,
        why="torchtune's forward divergence is the cross-entropy, without the entropy of the teacher: not 0 for equal"
        " logits. Its gradient by the student is that of the divergence, and its gradient by the teacher is not",
        evidence="logits/close/0.0001/float32/beta-0/mean",
    ),
    Inexact(
        id="infinite-logit-filled",
        who=_torchtune,
        where=_filled,
        instead=_value,
        roundings=of_float32,
        why="wrong: torchtune fills the product of a class with an infinite logit with 0, so that an infinite loss is"
        " finite, and a row without possible classes costs nothing. The gradient through the product is 0 times"
        " infinity",
        evidence="logits/impossible-in-the-input-alone/float32/beta-0/mean",
    ),
    Inexact(
        id="other-direction-times-zero",
        who=lambda implementation: _torchtune(implementation) and "Symmetric" in implementation.name,
        where=_other_is_nan,
        instead=np.nan,
        why="wrong: SymmetricKLLoss multiplies the divergence of the direction that does not count by 0, which leaves"
        " the NaN of its gradients",
        evidence="logits/impossible-in-the-input-alone/float32/beta-0/mean",
    ),
    Inexact(
        id="masked-row-times-zero",
        who=_torchtune,
        where=_nan_of_masked_rows,
        instead=np.nan,
        why="wrong: torchtune multiplies the divergence of a row that does not count by 0, which leaves NaN",
        evidence="logits/where-rows/NaN/beta-1/mean",
    ),
)

REFUSALS = (
    Refusal(
        "constant-of-no-rows",
        _torchtune,
        lambda case, outcome: (
            case.logits is not None
            and case.divisor == 0
            and outcome.error is not None
            and outcome.error.startswith("RuntimeError: element 0 of tensors does not require grad")
        ),
        "the mean over no rows is a new tensor of 0, without gradients: a batch without labels stops a training",
        "logits/where-nothing/numbers/beta-0/mean",
    ),
)

PROMOTIONS = (
    Promotion(
        "loss-in-float32",
        _torchtune,
        lambda _, quantity: "float32" if quantity == "loss" else None,
        "the loss is computed in float32, and not rounded to the dtype of the logits",
        "logits/random/5x3/axis--1/float16/beta-1/mean",
    ),
)
