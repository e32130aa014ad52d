"""HIPS Autograd: NumPy's loss with the gradient of the closed form, of any order, in both modes."""

import itertools
from typing import Any

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad, hessian, make_jvp, value_and_grad

from kldiv_xp import kl_div, kl_div_value_and_grad
from tests.backends import CONVENTIONS, REDUCTIONS, Exact

every_choice = pytest.mark.parametrize(
    ("reduction", "log_target", "convention"), list(itertools.product(REDUCTIONS, [False, True], CONVENTIONS))
)


def arrays(log_target: bool, dtype: str = "float64") -> tuple[Exact, Exact]:
    """Log-probabilities, and probabilities of which some are zero."""
    rng = np.random.default_rng(3)
    x, y = np.log(rng.dirichlet(np.ones(5), 4)), rng.dirichlet(np.ones(5), 4)
    y[0, :2] = 0
    return x.astype(dtype), (np.log(y + 0.1) if log_target else y).astype(dtype)


@every_choice
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("argnum", [0, 1], ids=["input", "target"])
def test_the_gradient_is_the_closed_form(
    argnum: int, dtype: str, reduction: Any, log_target: bool, convention: Any
) -> None:
    x, y = arrays(log_target, dtype)
    cotangent = np.linspace(-2, 2, x.size).reshape(x.shape).astype(dtype) if reduction == "none" else None

    def loss(x: Any, y: Any) -> Any:
        value = kl_div(x, y, reduction, log_target, convention=convention)
        return value if cotangent is None else anp.sum(value * cotangent)

    both: Any = kl_div_value_and_grad(
        x, y, reduction, log_target, convention=convention, argnums=argnum, cotangent=cotangent
    )
    gradient: Any = grad(loss, argnum)(x, y)
    assert gradient.dtype == x.dtype
    eps = float(np.finfo(dtype).eps)
    # Autograd's loss is computed in float64 where it is reduced, and log y + 1 - x cancels in float32.
    np.testing.assert_allclose(gradient, both[1], rtol=4 * eps, atol=16 * eps)


@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_gradients_at_special_values_do_not_warn(convention: Any, log_target: bool) -> None:
    special = np.asarray([0.0, -1.0, 0.5, np.inf, -np.inf, np.nan])
    x, y = (values.copy() for values in np.meshgrid(special, special))
    both: Any = kl_div_value_and_grad(x, y, "sum", log_target, convention=convention, argnums=(0, 1))
    for argnum in (0, 1):
        gradient: Any = grad(lambda x, y: kl_div(x, y, "sum", log_target, convention=convention), argnum)(x, y)
        np.testing.assert_array_equal(gradient, both[1][argnum])


def test_the_second_derivative_by_a_zero_target_is_no_nan() -> None:
    x, y = arrays(log_target=False)
    second = hessian(lambda y: kl_div(x, y, "sum"))(y)
    assert np.isfinite(second).all()
    np.testing.assert_allclose(second[1, 1, 1, 1], 1 / y[1, 1])


def test_forward_mode_gives_the_directional_derivative() -> None:
    x, y = arrays(log_target=False)
    value, tangent = make_jvp(lambda x: kl_div(x, y, "sum"))(x)(np.ones_like(x))
    np.testing.assert_allclose([value, tangent], [kl_div(x, y, "sum"), -y.sum()])


def test_the_gradient_goes_through_other_operations() -> None:
    logits, y = np.linspace(-1, 1, 20).reshape(4, 5), arrays(log_target=False)[1]

    def loss(logits: Any) -> Any:
        return kl_div(logits - anp.log(anp.sum(anp.exp(logits), axis=1, keepdims=True)), y, "batchmean")

    value, gradient = value_and_grad(loss)(logits)
    q = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(value, kl_div(np.log(q), y, "batchmean"))
    np.testing.assert_allclose(gradient, (q * y.sum(axis=1, keepdims=True) - y) / 4)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (np.ones(5), ValueError, "same shape"),
        (np.ones((4, 5), int), TypeError, "real floating-point dtype"),
        (np.ma.masked_array(np.ones((4, 5))), TypeError, "subclass of numpy.ndarray"),
        ([1.0], TypeError, "must be an array"),
    ],
    ids=["shape", "integers", "masked", "list"],
)
def test_a_call_that_numpy_refuses_is_refused(target: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"target.*{message}"):
        grad(lambda x: kl_div(x, target, "sum"))(np.zeros((4, 5)))
