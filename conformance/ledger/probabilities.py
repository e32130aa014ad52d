"""Where losses of two probabilities depart: SciPy's, JAX's functions of the same names, and Keras's.

The adapters pass ``exp(input)`` and, with ``log_target``, ``exp(target)``, which may overflow or underflow where the
logarithms do not. The functions below reproduce the arithmetic of each loss, with those roundings to its dtype that may
overflow or underflow.
"""

from functools import lru_cache

import numpy as np

from conformance.elements import Elements, Floats, rounded_to
from conformance.ledger.entry import (
    Deviation,
    Mask,
    Promotion,
    Refusal,
    among_probabilities,
    computed,
    floating_arrays,
    gives_what_was_asked,
    named,
    zero,
)
from conformance.record import Implementation
from conformance.tolerance import K

_scipy_kl_div = named("scipy.special.kl_div")
_jax_rel_entr = named("jax.scipy.special.rel_entr")
_jax_kl_div = named("jax.scipy.special.kl_div")
_keras = named("keras.losses.kl_divergence")


def _scipy(implementation: Implementation) -> bool:
    return implementation.library == "scipy"


def _rel_entr(implementation: Implementation) -> bool:
    return implementation.name in ("scipy.special.rel_entr", "jax.scipy.special.rel_entr")


def _takes_arrays_of_all_kinds(implementation: Implementation) -> bool:
    return implementation.library == "scipy" or implementation.name.startswith("jax.scipy")


def _everywhere(e: Elements) -> Mask:
    return np.full(e.x.shape, True)


def _in_dtype_of_input(e: Elements) -> Elements:
    return e.computed_in(e.input_dtype)


def _promoted(e: Elements) -> Elements:
    return e.computed_in(e.promoted_dtype)


@lru_cache(maxsize=8)  # several entries ask for it
def _q(e: Elements) -> Floats:
    """Probability of the input, in the input's dtype."""
    return _in_dtype_of_input(e).rounded(np.exp(e.x))


@lru_cache(maxsize=8)
def _p(e: Elements) -> Floats:
    """Probability of the target, in the target's dtype."""
    return e.flushed(rounded_to(np.exp(e.y), e.target_dtype), e.target_dtype) if e.log_target else e.y


def _by_p(e: Elements) -> Floats:
    """Derivative of the target's probability by the target."""
    return _p(e) if e.log_target else np.ones_like(e.y)


def _in_domain(e: Elements) -> Mask:
    domain: Mask = (_p(e) > 0) & (_q(e) > 0)
    return domain


def _underflows(e: Elements) -> Mask:
    """Where the input is finite, and its probability is subnormal or 0."""
    mask: Mask = np.isfinite(e.x) & (_q(e) < _in_dtype_of_input(e).tiny)
    return mask


def _overflows(e: Elements) -> Mask:
    """Where a probability is infinite although its logarithm is not."""
    overflows: Mask = (np.isfinite(e.x) & np.isinf(_q(e))) | (e.log_target & np.isfinite(e.y) & np.isinf(_p(e)))
    return overflows


@lru_cache(maxsize=8)
def _lost_digits(e: Elements) -> Floats:
    """Error of the logarithm of a subnormal probability, for an error of one unit in its last digit."""
    q, of_input = _q(e), _in_dtype_of_input(e)
    # The logarithm of (q - s) / q is less than s / (q - s), and that of (s + s) / s less than 1.
    off_by = of_input.smallest / np.maximum(q - of_input.smallest, of_input.smallest)
    return np.where((q > 0) & (q < of_input.tiny), off_by, 0.0)


def _of_exponential(e: Elements) -> Floats:
    """Error of a term of q: 4 roundings of the exponential, and 1/2 each of a weight, a sum and a product."""
    return 5.5 * e.eps * _q(e)


def _of_constant_by_target(e: Elements) -> Floats:
    """Error of a constant: 1/2 of a weight; times an exponential, 4 and another 1/2."""
    return e.eps * (5 * _p(e) if e.log_target else np.full_like(e.y, 0.5))


def _entropy(e: Elements) -> Floats:
    """The relative entropy as SciPy defines it."""
    p, q = _p(e), _q(e)
    loss = np.where(_in_domain(e), p * (np.log(p) - np.log(q)), np.where(p == 0, 0.0, np.inf))
    return np.where(np.isnan(p) | np.isnan(q), np.nan, loss)


def _entropy_in_two_products(e: Elements) -> Floats:
    """The relative entropy as the difference of two products, without special treatment of NaN."""
    p, q, promoted = _p(e), _q(e), _promoted(e)
    inside = promoted.rounded(p * np.log(p)) - promoted.rounded(p * np.log(q))
    return np.where(_in_domain(e), inside, np.where((p == 0) & (q >= 0), 0.0, np.inf))


def _divergence(e: Elements) -> Floats:
    """SciPy's divergence, with the logarithm of a ratio, in float64 throughout."""
    p, q = _p(e), _q(e)
    loss = np.where(_in_domain(e), p * np.log(p / q) - p + q, np.where(p == 0, q, np.inf))
    return computed(e, np.where(np.isnan(p) | np.isnan(q), np.nan, loss))


def _entropy_by_q(e: Elements) -> Floats:
    """The derivative by the input's probability, times the gradient of the reduction."""
    promoted = _promoted(e)
    return np.where(_in_domain(e), -promoted.rounded(promoted.rounded(e.weight / _q(e)) * _p(e)), 0.0)


def _entropy_by_p(e: Elements) -> Floats:
    """The derivative by the target's probability."""
    return np.where(_in_domain(e), np.log(_p(e)) + 1 - np.log(_q(e)), 0.0)


@lru_cache(maxsize=8)
def _clipped(e: Elements) -> tuple[Floats, Floats]:
    """Both probabilities between Keras's epsilon, a float32 number, and 1."""
    epsilon = e.rounded(float(np.float32(1e-7)))
    return np.clip(_p(e), epsilon, 1.0), np.clip(_q(e), epsilon, 1.0)


def _clips(e: Elements) -> Mask:
    p, q = _clipped(e)
    clips: Mask = (p != _p(e)) | (q != _q(e))
    return clips


def _clipped_loss(e: Elements) -> Floats:
    p, q = _clipped(e)
    return p * np.log(e.rounded(p / q))


def _of_clipped_logarithm(e: Elements) -> Floats:
    """Error of log(p/q): of the logarithm, of p/q and of both exponentials; none where both equal the same bound."""
    p, q = _clipped(e)
    exact = (p == q) & (p != _p(e)) & (q != _q(e))
    return np.where(exact, 0.0, K * e.eps * (1 + np.abs(np.log(p / q))) + _lost_digits(e))


def _of_clipped_loss(e: Elements) -> Floats:
    return _clipped(e)[0] * _of_clipped_logarithm(e)


def _of_clipped_by_input(e: Elements) -> Floats:
    """Error of six products and quotients, 1/2 each; a constant is exact."""
    p, q = _clipped(e)
    return np.where(q == _q(e), 3 * e.eps * p, 0.0)


def _of_clipped_by_target(e: Elements) -> Floats:
    """Error of the logarithm, and of the term 1; a constant is exact."""
    return np.where(_clipped(e)[0] == _p(e), _by_p(e) * (_of_clipped_logarithm(e) + 3 * e.eps), 0.0)


@lru_cache(maxsize=8)
def _clipped_by_ratio(e: Elements) -> tuple[Floats, Floats]:
    """The ratio, and the derivative by it, times the gradient of the reduction."""
    p, q = _clipped(e)
    ratio = e.rounded(p / q)
    return ratio, e.rounded(e.rounded(e.rounded(e.weight) * p) / ratio)


def _ratio_out_of_range(e: Elements) -> Mask:
    """Where the ratio overflows, or its denominator is subnormal."""
    out_of_range: Mask = np.isinf(_clipped_by_ratio(e)[0]) | _underflows(e)
    return out_of_range


def _factor_out_of_range(e: Elements) -> Mask:
    """Where a factor of the gradients (p/q/q, g p, the derivative by p/q) or their product overflows or underflows."""
    p, q = _clipped(e)
    ratio, by_ratio = _clipped_by_ratio(e)
    by_q = e.rounded(ratio / q)
    overflows = np.isinf(by_q) | np.isinf(e.rounded(by_ratio * by_q))
    loses_digits = (np.abs(e.weight * p) < e.tiny) | (np.abs(by_ratio) < e.tiny)
    out_of_range: Mask = overflows | loses_digits
    return out_of_range


def _clipped_by_input(e: Elements) -> Floats:
    q = _clipped(e)[1]
    ratio, by_ratio = _clipped_by_ratio(e)
    by_q = -e.rounded(by_ratio * e.rounded(ratio / q))
    return e.per_weight(np.where(q == _q(e), by_q, 0.0) * _q(e))


def _clipped_by_target(e: Elements) -> Floats:
    p, q = _clipped(e)
    ratio, by_ratio = _clipped_by_ratio(e)
    by_p = e.weight * np.log(ratio) + e.rounded(by_ratio / q)
    return e.per_weight(np.where(p == _p(e), by_p, 0.0) * _by_p(e))


_DIVERGENCE = (
    "p log(p/q) - p + q is another function: the KL divergence of convex analysis, never negative. Its sum equals that"
    " of this loss only if both sides sum to one"
)
_CLIPPED = (
    "wrong for a loss: Keras clips both probabilities to [1e-7, 1], even in float64. An infinite loss becomes finite,"
    " the loss is too small for inputs below -16, and a negative target counts as 1e-7"
)

DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "excluded-class",
        _rel_entr,
        ("loss",),
        lambda e: (_p(e) == 0) & ~np.isnan(e.x),
        zero,
        "a target probability of zero, given or the exponential of a log-probability, gives 0 for every input; PyTorch"
        " computes 0 * inf = NaN",
        "edge/grid/float32/target/none at y = 0, x = -inf",
    ),
    Deviation(
        "infinite-loss-of-a-negative-target",
        _rel_entr,
        ("loss",),
        lambda e: among_probabilities(e, (e.y < 0) & ~np.isnan(e.x)),
        lambda _: np.inf,
        "convex analysis defines the relative entropy as infinite outside its domain",
        "documentation/float32/target/none",
    ),
    Deviation(
        "underflowed-prediction",
        _rel_entr,
        ("loss",),
        lambda e: (_p(e) > 0) & _underflows(e),
        _entropy,
        "wrong for a loss: the exponential of a small log-probability loses digits, then underflows to 0, and the loss"
        " is infinite. In float16 digits are lost below -9.7, and the exponential is 0 below -17",
        "random/100x1000/recipe/float16/target/none",
        roundings=lambda e: _p(e) * _lost_digits(e),
    ),
    Deviation(
        "overflowed-exponential",
        named("scipy.special.rel_entr"),
        ("loss",),
        _overflows,
        _entropy,
        "the exponential of a large logarithm is infinite",
        "edge/grid/float32/log_target/none at y = 1e4, x = 1e4",
    ),
    Deviation(
        "infinite-products",
        _jax_rel_entr,
        ("loss",),
        lambda e: _overflows(e) | np.isposinf(e.y),
        _entropy_in_two_products,
        "the exponential of a large logarithm is infinite; p log p - p log q may then compute inf - inf or inf * 0",
        "edge/grid/float32/log_target/none at y = 1e4, x = 0",
    ),
    Deviation(
        "nan-becomes-infinity",
        _jax_rel_entr,
        ("loss",),
        lambda e: np.isnan(e.x) | np.isnan(e.y),
        lambda _: np.inf,
        "comparisons with NaN are false, so NaN counts as outside the domain, where JAX documents the function as"
        " infinite. A model that has diverged then looks like one with a large loss",
        "edge/grid/float32/target/none at x = nan; https://github.com/jax-ml/jax/issues/38262",
    ),
    Deviation(
        "zero-gradient-outside-the-domain",
        _jax_rel_entr,
        ("input",),
        lambda e: ~_in_domain(e),
        lambda e: 0 * _q(e),
        "wrong where the loss is infinite because the exponential of the input underflows: the gradient of this"
        " constant is 0, and training cannot recover. For an input of +inf or NaN the gradient is NaN, from"
        " 0 * inf or 0 * NaN",
        "edge/grid/float32/target/none at y = 0.3, x = -1e4",
    ),
    Deviation(
        "gradient-times-exponential",
        _jax_rel_entr,
        ("input",),
        lambda e: _in_domain(e) & ((_entropy_by_q(e) == 0) | ~np.isfinite(_entropy_by_q(e) * _q(e))),
        lambda e: e.per_weight(_entropy_by_q(e) * _q(e)),
        "wrong: JAX computes the gradient, p/q times q, as (1/q) p q. It is infinite where 1/q overflows, in float16"
        " for every input below -11; NaN where q is infinite; and 0 where (1/q) p underflows",
        "real/temperature-4/float16/target/none",
    ),
    Deviation(
        "zero-gradient-by-target-outside-the-domain",
        _jax_rel_entr,
        ("target",),
        lambda e: ~_in_domain(e),
        lambda e: 0 * _by_p(e),
        "the loss is constant there, 0 or infinite, and its gradient is 0",
        "real/temperature-0.25/float32/target/none",
    ),
    Deviation(
        "gradient-by-target-of-an-underflowed-prediction",
        _jax_rel_entr,
        ("target",),
        lambda e: _in_domain(e) & _underflows(e),
        lambda e: _entropy_by_p(e) * _by_p(e),
        "the exponential of a small log-probability is subnormal, and has lost digits",
        "random/40x25/sparse/float16/log_target/none",
        roundings=lambda e: _by_p(e) * _lost_digits(e),
    ),
    Deviation(
        "infinite-gradient-by-target",
        _jax_rel_entr,
        ("target",),
        lambda e: _in_domain(e) & (np.isinf(_p(e)) | np.isinf(_q(e))),
        lambda e: _entropy_by_p(e) * _by_p(e),
        "log p + 1 - log q is infinite where a probability is; PyTorch divides infinity by infinity, and has the"
        " logarithm of q as its input",
        "edge/grid/float32/target/none at y = inf, x = 0",
    ),
    Deviation(
        "non-negative-divergence",
        _scipy_kl_div,
        ("loss",),
        _everywhere,
        _divergence,
        _DIVERGENCE,
        "random/5x3/even/float32/target/none;"
        " https://docs.scipy.org/doc/scipy/reference/generated/scipy.special.kl_div.html",
        roundings=lambda e: np.abs(_p(e)) * _lost_digits(e) + _of_exponential(e),
    ),
    Deviation(
        "non-negative-divergence-of-products",
        _jax_kl_div,
        ("loss",),
        _everywhere,
        lambda e: computed(e, _entropy_in_two_products(e) - _p(e) + _q(e)),
        _DIVERGENCE + ". It is NaN for an infinite target, where SciPy's is infinite",
        "random/5x3/even/float32/target/none; https://github.com/jax-ml/jax/issues/38263",
        roundings=lambda e: np.abs(_p(e)) * _lost_digits(e) + _of_exponential(e),
    ),
    Deviation(
        "non-negative-divergence-by-input",
        _jax_kl_div,
        ("input",),
        _everywhere,
        lambda e: e.per_weight((_entropy_by_q(e) + e.weight) * _q(e)),
        "the derivative of this other function is q - p, not -p",
        "random/5x3/even/float32/target/none",
        roundings=_of_exponential,
    ),
    Deviation(
        "non-negative-divergence-by-target",
        _jax_kl_div,
        ("target",),
        _everywhere,
        lambda e: (_entropy_by_p(e) - 1) * _by_p(e),
        "the derivative of this other function is log p - log q, without the + 1",
        "random/5x3/even/float32/target/none",
        roundings=lambda e: _by_p(e) * _lost_digits(e) + np.where(_in_domain(e), 0.0, _of_constant_by_target(e)),
    ),
    Deviation(
        "clipped-probabilities",
        _keras,
        ("loss",),
        _clips,
        _clipped_loss,
        _CLIPPED,
        "real/temperature-1/float32/masked-class/target/none; https://github.com/keras-team/keras/issues/19520",
        sees=_in_dtype_of_input,
        roundings=_of_clipped_loss,
    ),
    Deviation(
        "clipped-probabilities-by-input",
        _keras,
        ("input",),
        _clips,
        _clipped_by_input,
        "wrong for a loss: an input below -16 or above 0 gets no gradient, so training cannot correct the worst"
        " predictions. A target below 1e-7 has the gradient of a target of 1e-7. For an input of +inf or NaN the"
        " gradient is NaN, from 0 * inf or 0 * NaN",
        "real/temperature-1/float32/masked-class/target/none",
        sees=_in_dtype_of_input,
        roundings=_of_clipped_by_input,
    ),
    Deviation(
        "clipped-probabilities-by-target",
        _keras,
        ("target",),
        _clips,
        _clipped_by_target,
        "a target outside [1e-7, 1] gets no gradient; where the input is outside, the gradient is that for a clipped"
        " input",
        "real/temperature-1/float32/masked-class/target/none",
        sees=_in_dtype_of_input,
        roundings=_of_clipped_by_target,
    ),
    Deviation(
        "ratio-out-of-range",
        _keras,
        ("loss",),
        _ratio_out_of_range,
        _clipped_loss,
        "wrong: p/q overflows in float16 where q is below p / 65504, and the loss is infinite; q loses digits where the"
        " input is below -9.7",
        "random/40x25/sparse/float16/target/mean",
        roundings=_of_clipped_loss,
    ),
    Deviation(
        "ratio-out-of-range-by-input",
        _keras,
        ("input",),
        _factor_out_of_range,
        _clipped_by_input,
        "wrong: Keras computes the derivative of p/q as p/q/q. In float16 it overflows for ordinary probabilities, of"
        " inputs below -5.5, and the gradient is infinite or NaN",
        "close/1e-2/float16/log_target/batchmean",
    ),
    Deviation(
        "ratio-out-of-range-by-target",
        _keras,
        ("target",),
        _factor_out_of_range,
        _clipped_by_target,
        "wrong: p/q overflows in float16 for inputs below -11, and its logarithm is infinite; the other factors of the"
        " derivative lose digits",
        "random/16x10/even/float16/log_target/batchmean",
        roundings=_of_clipped_by_target,
    ),
)

REFUSALS = (
    Refusal(
        "what-becomes-an-array-taken",
        _takes_arrays_of_all_kinds,
        lambda case, outcome: not floating_arrays(case) and gives_what_was_asked(case, outcome),
        "lists, numbers, and integer and boolean arrays are converted to floating-point arrays",
        "refused/int32-target/target/mean",
    ),
    Refusal(
        "other-dtypes-cast",
        _keras,
        lambda case, outcome: not floating_arrays(case) and gives_what_was_asked(case, outcome),
        "Keras casts every argument; a complex target loses its imaginary part",
        "refused/int32-target/target/mean",
    ),
)

PROMOTIONS = (
    Promotion(
        "float16-becomes-float32",
        _scipy,
        lambda case, _: "float32" if "float16" in (case.input.dtype, case.target.dtype) else None,
        "SciPy computes these functions only in float32 and float64, and does not round the result to float16",
        "random/5x3/even/float16/target/none",
    ),
    Promotion(
        "dtype-of-the-input",
        _keras,
        lambda case, quantity: case.input.dtype if quantity == "loss" else None,
        "Keras casts the target to the dtype of the input, even to a coarser one; PyTorch promotes both",
        "random/5x3/even/float32+float64/target/none",
    ),
)
