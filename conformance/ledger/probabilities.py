"""Where losses that take probabilities on both sides depart: SciPy's, JAX's functions of the same names, and Keras's.

They are given ``exp(input)``, and ``exp(target)`` with ``log_target``: a logarithm survives what its exponential does
not. The functions below follow each one's arithmetic, with the roundings to its dtype that may overflow or underflow.
"""

from dataclasses import replace

import numpy as np

from conformance.elements import Elements, Floats
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
    return replace(e, dtype=e.input_dtype)


def _promoted(e: Elements) -> Elements:
    """In the dtype that both operands are promoted to, where the target's is the coarser one."""
    none_holds_both = (e.input_dtype, e.dtype) == ("float16", "bfloat16")
    return replace(e, dtype="float32") if none_holds_both else _in_dtype_of_input(e)


def _q(e: Elements) -> Floats:
    """Probability of the input, in the input's dtype."""
    return _in_dtype_of_input(e).rounded(np.exp(e.x))


def _p(e: Elements) -> Floats:
    """Probability of the target."""
    return e.rounded(np.exp(e.y)) if e.log_target else e.y


def _by_p(e: Elements) -> Floats:
    """Derivative of the target's probability by the target."""
    return _p(e) if e.log_target else np.ones_like(e.y)


def _in_domain(e: Elements) -> Mask:
    domain: Mask = (_p(e) > 0) & (_q(e) > 0)
    return domain


def _underflows(e: Elements) -> Mask:
    """Where the input's probability has lost digits, or is 0 although the input is finite."""
    mask: Mask = np.isfinite(e.x) & (_q(e) < _in_dtype_of_input(e).tiny)
    return mask


def _overflows(e: Elements) -> Mask:
    """Where a probability is infinite although its logarithm is not."""
    overflows: Mask = (np.isfinite(e.x) & np.isinf(_q(e))) | (e.log_target & np.isfinite(e.y) & np.isinf(_p(e)))
    return overflows


def _lost_digits(e: Elements) -> Floats:
    """What the logarithm of a subnormal probability is off by, if the last digit of that is another one."""
    q, of_input = _q(e), _in_dtype_of_input(e)
    # The logarithm of (q - s) / q is less than s / (q - s), and that of (s + s) / s less than 1.
    off_by = of_input.smallest / np.maximum(q - of_input.smallest, of_input.smallest)
    return np.where((q > 0) & (q < of_input.tiny), off_by, 0.0)


def _of_exponential(e: Elements) -> Floats:
    """What a term of q is off by: an exponential, by 4, and a weight, a sum and a product, by 1/2 each."""
    return 5.5 * e.eps * _q(e)


def _of_constant_by_target(e: Elements) -> Floats:
    """What a constant is off by: a weight, by 1/2; times an exponential, by 4 and by 1/2 more."""
    return e.eps * (5 * _p(e) if e.log_target else np.full_like(e.y, 0.5))


def _entropy(e: Elements) -> Floats:
    """The relative entropy as SciPy defines it."""
    p, q = _p(e), _q(e)
    loss = np.where(_in_domain(e), p * (np.log(p) - np.log(q)), np.where(p == 0, 0.0, np.inf))
    return np.where(np.isnan(p) | np.isnan(q), np.nan, loss)


def _entropy_in_two_products(e: Elements) -> Floats:
    """The same in two products, without a thought for NaN."""
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
    """What log(p/q) is off by: as a logarithm, by p/q and by each exponential; not at all for two equal bounds."""
    p, q = _clipped(e)
    exact = (p == q) & (p != _p(e)) & (q != _q(e))
    return np.where(exact, 0.0, K * e.eps * (1 + np.abs(np.log(p / q))) + _lost_digits(e))


def _of_clipped_loss(e: Elements) -> Floats:
    return _clipped(e)[0] * _of_clipped_logarithm(e)


def _of_clipped_by_input(e: Elements) -> Floats:
    """Of six products and quotients, 1/2 each; a constant is exact."""
    p, q = _clipped(e)
    return np.where(q == _q(e), 3 * e.eps * p, 0.0)


def _of_clipped_by_target(e: Elements) -> Floats:
    """Of the logarithm, and of the 1 beside it; a constant is exact."""
    return np.where(_clipped(e)[0] == _p(e), _by_p(e) * (_of_clipped_logarithm(e) + 3 * e.eps), 0.0)


def _clipped_by_ratio(e: Elements) -> tuple[Floats, Floats]:
    """The ratio, and the derivative by it, times the gradient of the reduction."""
    p, q = _clipped(e)
    ratio = e.rounded(p / q)
    return ratio, e.rounded(e.rounded(e.rounded(e.weight) * p) / ratio)


def _ratio_out_of_range(e: Elements) -> Mask:
    """Where the ratio overflows, or its denominator has lost digits."""
    out_of_range: Mask = np.isinf(_clipped_by_ratio(e)[0]) | _underflows(e)
    return out_of_range


def _factor_out_of_range(e: Elements) -> Mask:
    """Where a factor of the gradients, p/q/q, g p or the derivative by p/q, overflows or loses digits, or a product."""
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
    "p log(p/q) - p + q is another function, never negative, whose sum is the same only where both sides sum to one:"
    " KL divergence as convex analysis has it, but not this loss"
)
_CLIPPED = (
    "wrong for a loss: both probabilities are clipped to [1e-7, 1], in float64 too: a finite loss where it is infinite,"
    " too small a loss where the input is below -16; and a negative target counts as 1e-7"
)

DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "excluded-class",
        _rel_entr,
        ("loss",),
        lambda e: (_p(e) == 0) & ~np.isnan(e.x),
        zero,
        "a target probability of zero costs nothing, whatever the input says of it, and whether it is given or the"
        " exponential of a log-probability; PyTorch computes 0 * inf = NaN",
        "edge/grid/float32/target/none at y = 0, x = -inf",
    ),
    Deviation(
        "infinite-loss-of-a-negative-target",
        _rel_entr,
        ("loss",),
        lambda e: among_probabilities(e, (e.y < 0) & ~np.isnan(e.x)),
        lambda _: np.inf,
        "outside its domain the relative entropy is defined as infinite, as convex analysis has it",
        "documentation/float32/target/none",
    ),
    Deviation(
        "underflowed-prediction",
        _rel_entr,
        ("loss",),
        lambda e: (_p(e) > 0) & _underflows(e),
        _entropy,
        "wrong for a loss: the exponential of a small log-probability loses its digits and then is 0, which makes the"
        " loss infinite; in float16 that begins at -9.7 and ends at -17",
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
        "the exponential of a large logarithm is infinite, and p log p - p log q may then be inf - inf or inf * 0",
        "edge/grid/float32/log_target/none at y = 1e4, x = 0",
    ),
    Deviation(
        "nan-becomes-infinity",
        _jax_rel_entr,
        ("loss",),
        lambda e: np.isnan(e.x) | np.isnan(e.y),
        lambda _: np.inf,
        "no comparison with NaN holds, so that NaN counts as outside the domain, where the function is documented to be"
        " infinite: a matter of the definition to JAX, but a model that has broken down looks like one that is far off",
        "edge/grid/float32/target/none at x = nan; https://github.com/jax-ml/jax/issues/38262",
    ),
    Deviation(
        "zero-gradient-outside-the-domain",
        _jax_rel_entr,
        ("input",),
        lambda e: ~_in_domain(e),
        lambda e: 0 * _q(e),
        "wrong where the loss is infinite because the exponential of the input underflows: a constant has the gradient"
        " 0, and training never leaves that place. NaN, which is 0 * inf or 0 * NaN, for an input of +inf or NaN",
        "edge/grid/float32/target/none at y = 0.3, x = -1e4",
    ),
    Deviation(
        "gradient-times-exponential",
        _jax_rel_entr,
        ("input",),
        lambda e: _in_domain(e) & ((_entropy_by_q(e) == 0) | ~np.isfinite(_entropy_by_q(e) * _q(e))),
        lambda e: e.per_weight(_entropy_by_q(e) * _q(e)),
        "wrong: the gradient is p/q times q, computed as (1/q) p q: infinite where 1/q overflows, which in float16 it"
        " does for every input below -11, NaN where q is infinite, and 0 where (1/q) p underflows",
        "real/temperature-4/float16/target/none",
    ),
    Deviation(
        "zero-gradient-by-target-outside-the-domain",
        _jax_rel_entr,
        ("target",),
        lambda e: ~_in_domain(e),
        lambda e: 0 * _by_p(e),
        "a constant, be it 0 or infinite, has the gradient 0",
        "real/temperature-0.25/float32/target/none",
    ),
    Deviation(
        "gradient-by-target-of-an-underflowed-prediction",
        _jax_rel_entr,
        ("target",),
        lambda e: _in_domain(e) & _underflows(e),
        lambda e: _entropy_by_p(e) * _by_p(e),
        "the exponential of a small log-probability has lost its digits",
        "random/40x25/sparse/float16/log_target/none",
        roundings=lambda e: _by_p(e) * _lost_digits(e),
    ),
    Deviation(
        "infinite-gradient-by-target",
        _jax_rel_entr,
        ("target",),
        lambda e: _in_domain(e) & (np.isinf(_p(e)) | np.isinf(_q(e))),
        lambda e: _entropy_by_p(e) * _by_p(e),
        "log p + 1 - log q is infinite where a probability is; PyTorch divides infinity by infinity, and takes the"
        " logarithm of q for what it is",
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
        _DIVERGENCE + "; NaN for an infinite target, where SciPy's is infinite",
        "random/5x3/even/float32/target/none; https://github.com/jax-ml/jax/issues/38263",
        roundings=lambda e: np.abs(_p(e)) * _lost_digits(e) + _of_exponential(e),
    ),
    Deviation(
        "non-negative-divergence-by-input",
        _jax_kl_div,
        ("input",),
        _everywhere,
        lambda e: e.per_weight((_entropy_by_q(e) + e.weight) * _q(e)),
        "the derivative of the other function is q - p, and not -p",
        "random/5x3/even/float32/target/none",
        roundings=_of_exponential,
    ),
    Deviation(
        "non-negative-divergence-by-target",
        _jax_kl_div,
        ("target",),
        _everywhere,
        lambda e: (_entropy_by_p(e) - 1) * _by_p(e),
        "the derivative of the other function is log p - log q, and not that plus one",
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
        "wrong for a loss: an input below -16 or above 0 gets no gradient, so that a model cannot leave the worst of"
        " its mistakes; a target below 1e-7 has the gradient of one of 1e-7. NaN, which is 0 * inf or 0 * NaN, for an"
        " input of +inf or NaN",
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
        "a target outside [1e-7, 1] gets no gradient, and that of an input outside has the gradient of a clipped one",
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
        "wrong: p/q is larger than float16 can hold where q is below p / 65504, which makes the loss infinite, and q"
        " has lost digits where the input is below -9.7",
        "random/40x25/sparse/float16/target/mean",
        roundings=_of_clipped_loss,
    ),
    Deviation(
        "ratio-out-of-range-by-input",
        _keras,
        ("input",),
        _factor_out_of_range,
        _clipped_by_input,
        "wrong: the derivative of p/q is computed as p/q/q, which float16 cannot hold for ordinary probabilities, of"
        " inputs below -5.5 already, and is infinite then, or NaN",
        "close/1e-2/float16/log_target/batchmean",
    ),
    Deviation(
        "ratio-out-of-range-by-target",
        _keras,
        ("target",),
        _factor_out_of_range,
        _clipped_by_target,
        "wrong: the logarithm of p/q is infinite where p/q overflows in float16, for inputs below -11, and the factors"
        " of the derivative beside it lose digits",
        "random/16x10/even/float16/log_target/batchmean",
        roundings=_of_clipped_by_target,
    ),
)

REFUSALS = (
    Refusal(
        "what-becomes-an-array-taken",
        _takes_arrays_of_all_kinds,
        lambda case, outcome: not floating_arrays(case) and gives_what_was_asked(case, outcome),
        "lists, numbers and arrays of integers or truth values are taken for arrays of floating numbers",
        "refused/int32-target/target/mean",
    ),
    Refusal(
        "other-dtypes-cast",
        _keras,
        lambda case, outcome: not floating_arrays(case) and gives_what_was_asked(case, outcome),
        "Keras casts whatever it is given, a complex target to its real part",
        "refused/int32-target/target/mean",
    ),
)

PROMOTIONS = (
    Promotion(
        "float16-becomes-float32",
        _scipy,
        lambda case, _: "float32" if "float16" in (case.input.dtype, case.target.dtype) else None,
        "SciPy computes these functions in float32 and float64 alone, and gives what it computed",
        "random/5x3/even/float16/target/none",
    ),
    Promotion(
        "dtype-of-the-input",
        _keras,
        lambda case, quantity: case.input.dtype if quantity == "loss" else None,
        "the target is cast to the dtype of the input, even to a coarser one; PyTorch promotes both",
        "random/5x3/even/float32+float64/target/none",
    ),
)
