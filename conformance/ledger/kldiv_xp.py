"""Where ``kldiv_xp`` departs from PyTorch's formula: by its conventions, its promises and its compilers."""

from collections.abc import Callable
from typing import get_args

import numpy as np

from conformance.elements import Elements
from conformance.ledger.entry import Deviation, Mask, Refusal, among_probabilities, zero
from conformance.record import Case, Implementation
from kldiv_xp._options import Reduction


def promised_error(case: Case) -> str:
    """Kind of error that ``kldiv_xp`` promises for a call outside its interface; empty for one within it."""
    if not (case.input.is_array and case.target.is_array):
        return "TypeError"
    if any(operand.values.dtype.kind != "f" for operand in (case.input, case.target)):
        return "TypeError"
    fits = case.input.values.shape == case.target.values.shape and case.reduction in get_args(Reduction)
    return "" if fits else "ValueError"


def _convention(*names: str) -> Callable[[Implementation], bool]:
    return lambda implementation: implementation.convention in names


def _kldiv_xp(implementation: Implementation) -> bool:
    return implementation.convention is not None


def _closed_form(implementation: Implementation) -> bool:
    return _kldiv_xp(implementation) and implementation.name not in _BY_AUTOGRAD


def _adds_up_in_float64(implementation: Implementation) -> bool:
    with_numpy = implementation.library in ("numpy", *_COMPUTE_WITH_NUMPY)
    return _kldiv_xp(implementation) and (with_numpy or implementation.name in _IN_BLOCKS)


_BY_AUTOGRAD = ("kldiv_xp torch.compile", "kldiv_xp torch.export", "kldiv_xp torch DTensor")
"""Here PyTorch differentiates the formula itself; elsewhere the gradient is in closed form."""
_IN_BLOCKS = ("kldiv_xp torch", "kldiv_xp torch, closed form", "kldiv_xp torch, small blocks")
_COMPUTE_WITH_NUMPY = ("array-api-strict", "autograd", "dask", "cubed", "sparse")


def _xla_on_cpu(implementation: Implementation) -> bool:
    return implementation.library in ("jax", "optax") and implementation.device == "cpu"


def _subnormal(e: Elements) -> Mask:
    mask: Mask = e.subnormal(e.p) | e.subnormal(e.p * e.weight) | e.subnormal(e.formula("loss"))
    return mask


def _jitted(implementation: Implementation) -> bool:
    return implementation.library == "jax" and implementation.compiled


def _contracted_formula(library: str) -> Callable[[Implementation], bool]:
    return lambda i: i.contracts and i.convention == "torch" and i.library == library


def _two_infinite_products(e: Elements) -> Mask:
    y_log_y, y_x = e.products
    return among_probabilities(e, np.isfinite(e.y) & np.isposinf(y_log_y) & np.isposinf(y_x))


def _float32_sum(e: Elements) -> bool:
    return e.computing_dtype == "float32" and e.reduction != "none"


DEVIATIONS = (
    Deviation(
        "subnormals-are-zero",
        _xla_on_cpu,
        ("loss", "input", "target"),
        _subnormal,
        None,
        "XLA on the CPU flushes subnormal arguments and results to zero; the convention then applies to the zero"
        " target",
        "edge/grid/float32/target/none at y = 1.4e-45; https://github.com/jax-ml/jax/issues/16200",
        sees=Elements.with_flush,
    ),
    Deviation(
        "float32-subnormals-are-zero",
        lambda i: i.library == "cupy",
        ("loss", "input", "target"),
        lambda e: (e.dtype != "float64") & _subnormal(e),
        None,
        "CuPy compiles its kernels with -ftz=true, which flushes subnormal float32 numbers to zero; the convention then"
        " applies to the zero target",
        "edge/grid/float32/target/none at y = 1.4e-45; https://github.com/cupy/cupy/issues/8382",
        sees=lambda e: e if e.dtype == "float64" else e.with_flush(),
    ),
    Deviation(
        "contracted-product",
        _contracted_formula("jax"),
        ("loss",),
        _two_infinite_products,
        lambda _: -np.inf,
        "XLA fuses the product y log y with the difference, where the processor has such an instruction: for a huge"
        " target y x overflows, and y log y does not",
        "edge/grid/float32/target/none at y = 2.1e37, x = 1e4",
    ),
    Deviation(
        "contracted-product-of-the-input",
        _contracted_formula("torch"),
        ("loss",),
        _two_infinite_products,
        lambda _: np.inf,
        "Triton fuses the product y x with the difference: for a huge target y log y overflows, and y x does not",
        "edge/grid/float32/target/none at y = 2.1e37, x = 1e4",
    ),
    Deviation(
        "added-up-in-float64",
        _adds_up_in_float64,
        ("loss",),
        lambda e: among_probabilities(e, _float32_sum(e) & np.isfinite(e.y) & np.isinf(e.products[0])),
        None,
        "the terms of a sum are computed in float64, for 16 bits and float32 too. There those of huge targets do not"
        " overflow: the mean may be finite, and -inf where PyTorch computes inf - inf = NaN",
        "edge/company/float32/2.12676e+37/finite/target/mean",
        sees=lambda e: e.computed_in("float64") if _float32_sum(e) else e,
    ),
    Deviation(
        "negative-target-gradient",
        _convention("oneflow"),
        ("target",),
        lambda e: among_probabilities(e, e.y < 0),
        zero,
        "the loss is 0 there, and so is its gradient",
        "documentation/float32/target/none",
    ),
    Deviation(
        "closed-form-at-infinity",
        _closed_form,
        ("target",),
        lambda e: among_probabilities(e, np.isposinf(e.y) | ((e.y == 0) & np.isinf(e.x))),
        lambda e: e.log_p + 1 - e.x,
        "where the loss is infinite or NaN, the closed form is infinite; PyTorch computes 0 * inf = NaN",
        "edge/grid/float32/target/none at y = inf, x = 0",
    ),
    Deviation(
        "zero-target-gradient",
        _kldiv_xp,
        ("target",),
        lambda e: among_probabilities(e, (e.y == 0) & np.isfinite(e.x)),
        zero,
        "the gradient is 0 at a zero target with a finite loss; PyTorch's derivative of xlogy(y, y) is NaN at 0",
        "real/temperature-0.25/float32/target/none; https://github.com/google-deepmind/optax/pull/1786",
    ),
    Deviation(
        "zero-target-gradient-of-a-masked-class",
        _convention("oneflow", "limit"),
        ("target",),
        lambda e: among_probabilities(e, (e.y == 0) & np.isinf(e.x)),
        zero,
        "the loss is 0 there, and so is its gradient",
        "edge/grid/float32/target/none at y = 0, x = -inf",
    ),
    Deviation(
        "nan-input-gradient-at-zero-target",
        _convention("oneflow"),
        ("target",),
        lambda e: among_probabilities(e, (e.y == 0) & np.isnan(e.x)),
        zero,
        "the loss is 0 there, and so is its gradient",
        "edge/grid/float32/target/none at y = 0, x = nan",
    ),
    Deviation(
        "log-of-zero",
        _convention("limit"),
        ("loss", "target"),
        lambda e: e.log_target & (e.y == -np.inf) & ~np.isnan(e.x),
        zero,
        "a log target of -inf is a probability of 0, and gives 0; PyTorch computes 0 * inf = NaN",
        "real/temperature-0.25/float32/log-of-zeros/log_target/batchmean",
    ),
)

REFUSALS = (
    Refusal(
        "numbers-become-arrays",
        _jitted,
        lambda case, outcome: isinstance(case.input.values, float) and outcome.loss is not None,
        "jax.jit converts numbers to arrays before it calls the function",
        "refused/number/target/mean",
    ),
)
