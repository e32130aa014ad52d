"""What a divergence from logits should be, how far rounding may take it, and the verdict on it.

The reference is the composition that people write: ``torch.nn.KLDivLoss`` of ``log_softmax`` and ``softmax``, in the
dtype of the logits. Where it gives NaN although the divergence is a number, the exact value decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from conformance.elements import EPS, TINY, Floats, rounded_to
from conformance.record import Case, FromLogits
from conformance.tolerance import K

Mask = npt.NDArray[np.bool_]
Exact = npt.NDArray[Any]


@dataclass(frozen=True)
class Divergences:
    """The rows of a case, with the classes along the last axis, in extended precision where the machine has it."""

    case: Case
    options: FromLogits

    @staticmethod
    def of(case: Case) -> "Divergences":
        """Rows of a case of logits; the same object for all quantities, which share most of the work."""
        assert case.logits is not None
        if not (_latest and _latest[0].case is case):
            _latest[:] = [Divergences(case, case.logits)]
        return _latest[0]

    @cached_property
    def x(self) -> Exact:
        """Logits of the student, over the temperature; zeros in the rows that do not count."""
        return self._over_temperature(self.case.input.values)

    @cached_property
    def y(self) -> Exact:
        """Logits of the teacher, over the temperature; zeros in the rows that do not count."""
        return self._over_temperature(self.case.target.values)

    @cached_property
    def counts(self) -> Mask:
        """Which rows count."""
        return self.case.counts

    def impossible(self, quantity: str) -> Mask:
        """Which elements of a quantity come from rows that count, and have an impossible class."""
        return self.of_rows(((self.x == -np.inf) | (self.y == -np.inf)).any(axis=-1), quantity)

    def left_out(self, quantity: str) -> Mask:
        """Which elements of a quantity come from rows that do not count."""
        return self.of_rows(~self.counts, quantity)

    @property
    def underflows(self) -> Mask:
        """Rows with a possible class whose probability rounds to 0 in its dtype, or is subnormal outside of float16.

        Vectorised exponentials give 0 for subnormal results; float16 is computed in float32 and rounded.
        """
        bounds = [TINY[d] * (EPS[d] / 2 * (1 + K * self.eps) if d == "float16" else 1.0) for d in self._dtypes]
        return self._below(bounds)

    def _below(self, bounds: Sequence[float]) -> Mask:
        """Rows with a possible class whose probability in the student or the teacher is at most a bound."""
        pairs = zip((self._log_q, self._log_p), bounds, strict=True)
        found = [(np.exp(log) <= bound) & (log > -np.inf) for log, bound in pairs]
        return np.asarray((found[0] | found[1]).any(axis=-1))

    @property
    def mixture_vanishes(self) -> Mask:
        """Rows with a class that has a probability, but none in the distribution that it is divided by.

        A probability has the dtype of its logits, in which it may round to 0.
        """
        beta, within = self.options.beta, K * self.eps
        halves = [TINY[dtype] * EPS[dtype] / 2 for dtype in self._dtypes]
        # A probability is rounded before it is multiplied by its share, and may have lost half of a unit.
        least = [np.maximum(z - half, 0) for z, half in zip((self.q, self.p), halves, strict=True)]
        shares = ((1 - beta) * least[0], beta * least[1])
        gone = [share <= half * (1 + within) for share, half in zip(shares, halves, strict=True)]
        there = [z >= half * (1 - within) for z, half in zip((self.q, self.p), halves, strict=True)]
        weighted = there[1] if beta == 0.0 else there[0] if beta == 1.0 else there[0] | there[1]
        return np.asarray((gone[0] & gone[1] & weighted).any(axis=-1))

    def loss_in_own_dtypes(self, quantity: str) -> Floats:
        """The divergence of probabilities that are rounded to the dtypes of their logits, where they may be 0."""
        assert quantity == "loss"
        rounded = [
            rounded_to(np.asarray(z, np.float64), d) for z, d in zip((self.q, self.p), self._dtypes, strict=True)
        ]
        q, p = (np.asarray(z, np.longdouble) for z in rounded)
        with np.errstate(all="ignore"):
            if self._is_kl:
                p, m = (q, p) if self.options.beta else (p, q)
                return self._reduced(_product(p, np.log(p / m)).sum(axis=-1)).astype(np.float64)
            m = self.options.beta * p + (1 - self.options.beta) * q
            rows = self.options.beta * _product(p, np.log(p / m)) + (1 - self.options.beta) * _product(q, np.log(q / m))
            return self._reduced(rows.sum(axis=-1)).astype(np.float64)

    @property
    def eps(self) -> float:
        """Machine epsilon of the coarser dtype."""
        return max(EPS[dtype] for dtype in self._dtypes)

    @property
    def _dtypes(self) -> list[str]:
        return [str(operand.dtype) for operand in (self.case.input, self.case.target)]

    def without_impossible(self, quantity: str) -> Floats:
        """Gradient of ``KL`` of the classes alone that are possible, by the logits that it is finite for."""
        if quantity == "loss":
            return self.exact(quantity)
        p, q = (self.q, self.p) if self.options.beta else (self.p, self.q)
        lost = np.where(q == 0, p, 0).sum(axis=-1, keepdims=True)
        derivative = np.where(q == 0, 0, q - p - q * lost) / self.options.temperature
        return np.asarray(self._in_place(derivative * self._weight), np.float64)

    @property
    def infinite(self) -> Mask:
        """Rows whose divergence is infinite."""
        return np.asarray(np.isinf(self._rows))

    def of_rows(self, rows: Mask, quantity: str) -> Mask:
        """Which elements of a quantity come from some rows."""
        if quantity == "loss":
            return rows if self.case.reduction == "none" else np.asarray(rows.any())
        return np.moveaxis(np.broadcast_to(rows[..., None], self.x.shape), -1, self.options.axis)

    def everywhere(self, quantity: str, *, when: bool) -> Mask:
        """All elements of a quantity, or none."""
        return self.of_rows(np.full(self.counts.shape, when), quantity)

    def exact(self, quantity: str) -> Floats:
        """Exact values of a quantity."""
        with np.errstate(all="ignore"):
            if quantity == "loss":
                return self._reduced(self._rows).astype(np.float64)
            defined = ~np.isnan(self._rows)[..., None]
            derivatives = np.where(defined, self._derivatives(quantity), np.nan)
            return self._in_place(derivatives * self._weight).astype(np.float64)

    def in_dtype(self, dtype: str) -> "Divergences":
        """The same rows, as an implementation computes them that converts both arguments to a dtype first."""
        input, target = (replace(operand, dtype=dtype) for operand in (self.case.input, self.case.target))
        return Divergences(replace(self.case, input=input, target=target), self.options)

    def subnormal(self, quantity: str) -> Mask:
        """Which elements are subnormal in the computation, or come from rows with such a probability."""
        tiny = max(self._tiny_in_computation)
        return self.of_rows(self._below([tiny, tiny]), quantity) | (np.abs(self.exact(quantity)) < tiny)

    @property
    def _tiny_in_computation(self) -> list[float]:
        """Smallest normal number of the dtype in which the logits are computed: float32 for 16 bits."""
        return [min(TINY[d], TINY["float32"]) for d in self._dtypes]

    def tolerance(self, quantity: str, *, derived: bool = False, flushed: bool = False) -> Floats:
        """Largest difference that rounding can make, without the rows that have no divergence.

        ``derived`` is for gradients by automatic differentiation, in which terms cancel that have the other
        distribution's probability; ``flushed`` for a library that replaces subnormal numbers by zero.

        A logarithm of a probability suffers ``K`` roundings relative to the logit over the temperature, to itself and
        to 1; so does, relatively, the probability. A class adds a probability times a score, the logarithm of a ratio;
        a derivative is a probability times a score, less the mean score of the row.
        """
        eps, smallest = self.eps, max(TINY[d] * EPS[d] for d in self._dtypes)
        if flushed:
            smallest = max(smallest, *self._tiny_in_computation)
        with np.errstate(all="ignore"):
            # Where a probability underflows, its error is absolute.
            p, q = self.p + smallest / eps, self.q + smallest / eps
            # An error d of a logit is a relative error of exp(d) - 1 of the probability, whose error is at most 1.
            errors = [np.minimum(np.expm1(K * eps * self._terms), 1 / z) for z in (p, q)]
            of_p, of_q = (e * (1 + np.abs(score)) for e, score in zip(errors, self._finite_scores, strict=True))
            underflow = K * smallest * self.x.shape[-1]
            if quantity == "loss":
                of_row = (self.options.beta * q + (1 - self.options.beta) * p if self._is_kl else self._m) * np.maximum(
                    of_p, of_q
                )
                return np.asarray(self._reduced(_defined(of_row.sum(axis=-1)) + underflow) + smallest, np.float64)
            if derived:
                weight, terms = np.maximum(p, q), np.maximum(of_p, of_q)
                each = weight * (terms + (weight * terms).sum(axis=-1, keepdims=True))
            elif self._is_kl and quantity == ("target" if self.options.beta else "input"):
                each = p * errors[0] + q * errors[1]
            else:
                weight, terms = (q, of_q) if quantity == "input" else (p, of_p)
                each = weight * (terms + (weight * terms).sum(axis=-1, keepdims=True))
            bound = (_defined(each) + underflow) * np.abs(self._weight) / self.options.temperature + smallest
            return np.asarray(self._in_place(bound), np.float64)

    def rounded_once(self, quantity: str, dtype: str, *, derived: bool) -> Floats:
        """Largest error of a result that is computed in float32 at least, and then rounded to its dtype."""
        rounding = EPS[dtype] * np.abs(self.exact(quantity)) + TINY[dtype] * EPS[dtype]
        return self.in_dtype("float32").tolerance(quantity, derived=derived) + np.where(
            np.isfinite(rounding), rounding, 0
        )

    @property
    def is_coarse(self) -> bool:
        """Whether both arguments have 16 bits."""
        return all(EPS[dtype] > EPS["float32"] for dtype in self._dtypes)

    @property
    def _is_kl(self) -> bool:
        return self.options.beta in (0.0, 1.0)

    @property
    def _finite_scores(self) -> tuple[Exact, Exact]:
        """Scores of both distributions; 0 for classes that are impossible."""
        scores = (self._log_ratio, -self._log_ratio) if self._is_kl else self._scores
        of_p, of_q = (np.where(np.isfinite(score), score, 0) for score in scores)
        return np.where(self.p == 0, 0, of_p), np.where(self.q == 0, 0, of_q)

    @cached_property
    def _log_q(self) -> Exact:
        return log_softmax(self.x)

    @cached_property
    def _log_p(self) -> Exact:
        return log_softmax(self.y)

    @cached_property
    def q(self) -> Exact:
        """Probabilities of the student."""
        return np.exp(self._log_q)

    @cached_property
    def p(self) -> Exact:
        """Probabilities of the teacher."""
        return np.exp(self._log_p)

    @cached_property
    def _m(self) -> Exact:
        if self._is_kl:
            return self.q if self.options.beta else self.p
        return self.options.beta * self.p + (1 - self.options.beta) * self.q

    @cached_property
    def _log_ratio(self) -> Exact:
        """``log(p / q)``, from the differences of the logits, which are exact."""
        shifted = [z - z.max(axis=-1, keepdims=True) for z in (self.x, self.y)]
        log_sums = [np.log(np.exp(z).sum(axis=-1, keepdims=True)) for z in shifted]
        difference = np.asarray(shifted[1] - shifted[0])
        gone = (self.x == -np.inf) & (self.y == -np.inf)
        return np.where(gone, np.longdouble(0), difference - (log_sums[1] - log_sums[0]))

    @property
    def _terms(self) -> Exact:
        """What the roundings of a class are relative to; 1 for one that is impossible."""
        terms = [np.abs(z) for z in (self.x, self.y, self._log_q, self._log_p)]
        return np.asarray(1 + sum(np.where(np.isfinite(term), term, 0) for term in terms))

    @cached_property
    def _rows(self) -> Exact:
        r = self._log_ratio
        if self._is_kl:
            p, q, r = (self.q, self.p, -r) if self.options.beta else (self.p, self.q, r)
            terms = np.where(p == 0, q, p * (r + np.expm1(-r)))  # whose sum is the same, and which do not cancel
            return np.asarray(terms.sum(axis=-1))
        by_p, by_q = self._scores
        return np.asarray(
            (self.options.beta * _product(self.p, by_p) + (1 - self.options.beta) * _product(self.q, by_q)).sum(axis=-1)
        )

    @cached_property
    def _scores(self) -> tuple[Exact, Exact]:
        """``log(p / m)`` and ``log(q / m)``."""
        r = np.clip(self._log_ratio, -10000, 10000)
        by_p = -np.log1p((1 - self.options.beta) * np.expm1(-r))
        return by_p, by_p - r

    def _derivatives(self, quantity: str) -> Exact:
        """Derivatives of the divergence of its row by each logit."""
        p, q, r = self.p, self.q, self._log_ratio
        if self.options.beta == (1.0 if quantity == "target" else 0.0):
            difference = q - p if quantity == "input" else p - q
            return np.asarray(difference / self.options.temperature)
        if self._is_kl:
            weight, score = (q, -r) if quantity == "input" else (p, r)
            share = 1.0
        elif quantity == "input":
            weight, score, share = q, self._scores[1], 1 - self.options.beta
        else:
            weight, score, share = p, self._scores[0], self.options.beta
        mean = _product(weight, score).sum(axis=-1, keepdims=True)
        return np.asarray(_product(weight, score - mean) * share / self.options.temperature)

    @cached_property
    def _weight(self) -> Exact:
        """Upstream gradient of ones, over the divisor; 0 for rows that do not count."""
        return np.asarray(self.counts[..., None] / np.longdouble(max(self.case.divisor, 1)))

    def _reduced(self, rows: Exact) -> Exact:
        rows = np.where(self.counts, rows, 0)
        return rows if self.case.reduction == "none" else np.asarray(rows.sum() / np.longdouble(self.case.divisor))

    def _over_temperature(self, values: Any) -> Exact:
        rows = np.moveaxis(np.asarray(values, np.longdouble), self.options.axis, -1)
        return np.where(self.counts[..., None], rows / np.longdouble(self.options.temperature), 0)

    def _in_place(self, rows: Exact) -> Exact:
        """Rows with the classes back in their axis; 0 in rows that do not count."""
        return np.moveaxis(np.where(self.counts[..., None], rows, 0), -1, self.options.axis)


_kept: dict[tuple[object, ...], tuple[Case, Any]] = {}
_latest: list[Divergences] = []
"""The rows of the case that was asked for last."""
_MOST_KEPT = 40_000
"""More than the corpora need. The number of random cases has no bound."""


def exact_and_tolerance(case: Case, quantity: str) -> tuple[Floats, Floats]:
    """Exact values of a quantity, and the tolerance."""
    of = Divergences.of(case)
    both: tuple[Floats, Floats] = _once((quantity,), case, lambda: (of.exact(quantity), of.tolerance(quantity)))
    return both


def rounded_once(case: Case, quantity: str, dtype: str, *, derived: bool) -> Floats:
    """Largest error of a result that is computed in float32, and then rounded to its dtype."""
    of = Divergences.of(case)
    bound: Floats = _once((quantity, dtype, derived), case, lambda: of.rounded_once(quantity, dtype, derived=derived))
    return bound


def _once(key: tuple[object, ...], case: Case, compute: Callable[[], Any]) -> Any:
    """What a function computes for a case; kept, because many implementations are held against it."""
    key = case.id, *key
    if key not in _kept or _kept[key][0] is not case:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        _kept[key] = case, compute()
    return _kept[key][1]


def log_softmax(x: Exact) -> Exact:
    """Logarithms of the probabilities of rows of logits."""
    shifted = x - x.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _defined(bound: Exact) -> Exact:
    return np.where(np.isnan(bound), 0, bound)


def _product(p: Exact, score: Exact) -> Exact:
    """A probability times a logarithm: 0 if the probability is."""
    return np.where(p == 0, np.longdouble(0), p * score)
