"""The gradient in closed form: against exact differences, and against the autodiff of JAX and PyTorch."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from kldiv_xp import kl_div, kl_div_value_and_grad
from tests import exact
from tests.backends import (
    CONVENTIONS,
    REDUCTIONS,
    Exact,
    array,
    divisor,
    dtype_name,
    numbers,
)

SHAPE = (3, 4)

every_option = pytest.mark.parametrize(
    ("reduction", "log_target", "convention"), list(itertools.product(REDUCTIONS, [False, True], CONVENTIONS))
)


def arrays(log_target: bool) -> tuple[Exact, Exact, Exact]:
    """Inputs, targets with zeros among them, and a cotangent for each element."""
    rng = np.random.default_rng(7)
    x, cotangent = rng.normal(-1.0, 2.0, SHAPE), rng.normal(0.0, 1.0, SHAPE)
    y = rng.normal(-1.0, 1.0, SHAPE) if log_target else rng.random(SHAPE)
    if not log_target:
        y[0, 0] = 0.0
    return x, y, cotangent


@every_option
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loss_and_gradients_are_exact_within_the_tolerance(
    xp: Any, reduction: Any, log_target: bool, convention: Any, dtype: str
) -> None:
    given = [array(xp, a, dtype) for a in arrays(log_target)]
    x, y, cotangent = (numbers(a) for a in given)
    weights = cotangent if reduction == "none" else np.full(SHAPE, 1.0)
    loss, gradients = kl_div_value_and_grad(
        given[0],
        given[1],
        reduction,
        log_target,
        convention=convention,
        argnums=(0, 1),
        cotangent=given[2] if reduction == "none" else None,
    )
    exact.assert_within(
        loss,
        exact.reduced(exact.losses(x, y, log_target=log_target, convention=convention), SHAPE, reduction),
        exact.total(exact.tolerances(x, y, xp, dtype, log_target=log_target), SHAPE, reduction),
        dtype,
    )
    for argnum, gradient in enumerate(gradients):
        assert tuple(gradient.shape) == SHAPE
        derivatives = exact.derivatives(x, y, argnum, log_target=log_target, convention=convention)
        within = exact.derivative_tolerances(x, y, argnum, xp, dtype, log_target=log_target)
        exact.assert_within(
            gradient,
            scaled(derivatives, weights, reduction),
            scaled(within, np.abs(weights), reduction),
            dtype,
        )


@every_option
def test_it_is_the_gradient_that_jax_derives(reduction: Any, log_target: bool, convention: Any) -> None:
    with jax.enable_x64(True):
        x, y, cotangent = (jax.numpy.asarray(a) for a in arrays(log_target))
        value, pull_back = jax.vjp(lambda a, b: kl_div(a, b, reduction, log_target, convention=convention), x, y)
        weight = cotangent if reduction == "none" else jax.numpy.asarray(1.5)
        derived = [np.asarray(a) for a in pull_back(weight)]
        loss, closed = kl_div_value_and_grad(
            x, y, reduction, log_target, convention=convention, argnums=(0, 1), cotangent=weight
        )
        np.testing.assert_array_max_ulp(np.asarray(loss), np.asarray(value), 4)  # XLA fuses one of them
    assert_close_gradients(closed, derived, reduction, log_target, numbers(weight))


@every_option
def test_it_is_the_gradient_that_pytorch_derives(reduction: Any, log_target: bool, convention: Any) -> None:
    x, y, cotangent = (torch.asarray(a) for a in arrays(log_target))
    weight = cotangent if reduction == "none" else torch.asarray(1.5, dtype=torch.float64)
    value = kl_div(x.requires_grad_(), y.requires_grad_(), reduction, log_target, convention=convention)
    derived = torch.autograd.grad(value, (x, y), weight)
    loss, closed = kl_div_value_and_grad(
        x.detach(), y.detach(), reduction, log_target, convention=convention, argnums=(0, 1), cotangent=weight
    )
    assert torch.equal(loss, value)
    assert_close_gradients(closed, derived, reduction, log_target, numbers(weight))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_the_derivative_by_a_zero_target_is_zero(xp: Any, zero: float, convention: Any) -> None:
    x = [-2.0, 0.0, 3.0, -1e300]
    _, gradient = kl_div_value_and_grad(
        array(xp, x), array(xp, np.full(4, zero)), "sum", convention=convention, argnums=(0, 1)
    )
    for by_argument in gradient:
        np.testing.assert_array_equal(numbers(by_argument), 0.0)


@pytest.mark.parametrize(
    ("convention", "log_target", "x", "y"),
    [
        *(("oneflow", False, x, y) for x in (-np.inf, np.inf, np.nan, 1.0) for y in (0.0, -1.0, -np.inf)),
        *(("limit", False, x, 0.0) for x in (-np.inf, np.inf)),
        *(("limit", True, x, -np.inf) for x in (-np.inf, np.inf, 0.0)),
    ],
)
def test_what_counts_as_zero_has_no_gradient(xp: Any, convention: Any, log_target: bool, x: float, y: float) -> None:
    loss, gradients = kl_div_value_and_grad(
        array(xp, [x]), array(xp, [y]), "sum", log_target, convention=convention, argnums=(0, 1)
    )
    assert float(loss) == 0.0
    assert [float(gradient[0]) for gradient in gradients] == [0.0, 0.0]


@pytest.mark.parametrize("argnums", [0, 1, (0,), (1,), (0, 1), (1, 0)])
def test_argnums_choose_the_gradients_as_in_jax(xp: Any, argnums: Any) -> None:
    x, y = array(xp, [[-1.0, -2.0]], "float32"), array(xp, [[0.5, 0.25]], "float64")
    _, both = kl_div_value_and_grad(x, y, argnums=(0, 1))
    _, gradient = kl_div_value_and_grad(x, y, argnums=argnums)
    assert isinstance(gradient, tuple) is isinstance(argnums, tuple)
    chosen = gradient if isinstance(argnums, tuple) else (gradient,)
    for index, by_argument in zip(argnums if isinstance(argnums, tuple) else (argnums,), chosen, strict=True):
        assert dtype_name(by_argument) == ("float32", "float64")[index]
        np.testing.assert_array_equal(numbers(by_argument), numbers(both[index]))


def test_the_gradient_by_the_input_is_the_default(xp: Any) -> None:
    _, gradient = kl_div_value_and_grad(array(xp, [-1.0, -2.0]), array(xp, [0.5, 0.25]), "sum")
    np.testing.assert_array_equal(numbers(gradient), [-0.5, -0.25])


@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean"])
@pytest.mark.parametrize("form", [2, 2.0, np.float64(2.0), "0-d array", "0-d array of another dtype"])
def test_the_cotangent_of_a_reduced_loss_is_a_number_or_a_0d_array(xp: Any, form: Any, reduction: Any) -> None:
    x, y = array(xp, [[-1.0, -2.0]]), array(xp, [[0.5, 0.25]])
    _, once = kl_div_value_and_grad(x, y, reduction, argnums=1)
    forms = {"0-d array": array(xp, 2.0), "0-d array of another dtype": array(xp, 2.0, "float32")}
    _, twice = kl_div_value_and_grad(x, y, reduction, argnums=1, cotangent=forms.get(form, form))
    assert dtype_name(twice) == "float64"
    np.testing.assert_array_equal(numbers(twice), 2.0 * numbers(once))


def test_a_number_is_the_cotangent_of_an_unreduced_0d_loss(xp: Any) -> None:
    _, gradient = kl_div_value_and_grad(array(xp, -1.0), array(xp, 0.5), "none", cotangent=3.0)
    np.testing.assert_array_equal(numbers(gradient), -1.5)


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (5, 0)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_gradient_has_the_shape_of_its_argument(xp: Any, reduction: Any, shape: tuple[int, ...]) -> None:
    x = array(xp, np.ones(shape), "float32")
    _, gradients = kl_div_value_and_grad(x, x, reduction, argnums=(0, 1), cotangent=x if reduction == "none" else None)
    for gradient in gradients:
        assert tuple(gradient.shape) == shape
        assert gradient.dtype == x.dtype


def test_numpy_may_be_given_a_cotangent_of_jax_and_the_other_way_round() -> None:
    with jax.enable_x64(True):
        of_numpy = [np.asarray([-1.0, -2.0]), np.asarray([0.5, 0.25]), np.asarray([2.0, 3.0])]
        of_jax = [jax.numpy.asarray(a) for a in of_numpy]
        for first, second, cotangent in itertools.product(*zip(of_numpy, of_jax, strict=True)):
            given: Any = {"input": first, "target": second, "cotangent": cotangent}
            loss, gradient = kl_div_value_and_grad(**given, reduction="none")
            assert type(loss) is type(gradient)
            np.testing.assert_array_equal(gradient, [-1.0, -0.75])


EXTREME = {
    "float32": [
        (1.8e-4, 88.0, 1 / 75),
        (-1e30, -92.0, 1e-4),
        (-3.0, -3.4e38, 65536.0),
        (3.0, 88.0, -1e-3),
        (0.0, 20.0, 0.0),
    ],
    "float64": [(1.8e-4, 705.0, 1 / 75), (-1e300, -740.0, 1e-4), (-3.0, -1.7e308, 65536.0), (3.0, 705.0, -1e-3)],
}
"""Inputs and log targets with a weight: a product of two of the three factors overflows, or has no digits left."""


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("dtype", list(EXTREME))
def test_a_finite_gradient_by_a_log_target_is_finite_on_the_way(xp: Any, dtype: str, reduction: Any) -> None:
    for case in EXTREME[dtype]:
        x, y, weight = (array(xp, [value], dtype) for value in case)
        _, gradient = kl_div_value_and_grad(
            x, y, reduction, True, argnums=1, cotangent=weight if reduction == "none" else weight[0]
        )
        exact_by_target(gradient, x, y, numbers(weight)[0], xp, dtype)


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
@pytest.mark.parametrize(("dtype", "y"), [("float32", 88.0), ("float64", 705.0)])
@pytest.mark.parametrize("size", [75, 5000, 200_000])
def test_the_gradient_of_a_mean_by_a_huge_log_target_is_finite(size: int, dtype: str, y: float, reduction: Any) -> None:
    given = [np.full(size, value, dtype) for value in (1.8e-4, y)]

    def loss(x: Any, y: Any) -> Any:
        return kl_div(x, y, reduction, True)

    def closed(x: Any, y: Any) -> Any:
        return kl_div_value_and_grad(x, y, reduction, True, argnums=1)[1]

    gradients: list[Any] = [closed(*given)]
    a, b = (torch.tensor(array) for array in given)
    leaf = b.clone().requires_grad_()
    gradients += [closed(a, b), torch.func.grad(loss, 1)(a, b)]
    gradients += [torch.autograd.grad(loss(a, leaf), leaf, create_graph=again)[0] for again in (False, True)]
    with jax.enable_x64(True):
        pair = tuple(map(jax.numpy.asarray, given))
        gradients += [f(*pair) for f in (closed, jax.grad(loss, 1), jax.jit(jax.grad(loss, 1)))]
    for gradient in gradients:
        assert np.all(numbers(gradient) == numbers(gradient)[0])
        exact_by_target(gradient[:1], given[0][:1], given[1][:1], mpf(1) / size, np, dtype)


def exact_by_target(gradient: Any, x: Any, y: Any, weight: Any, xp: Any, dtype: str) -> None:
    """Fail unless the gradient by one log target is the exact one times its weight, within its tolerance."""
    a, b = numbers(x), numbers(y)
    (derivative,) = exact.derivatives(a, b, 1, log_target=True)
    (within,) = exact.derivative_tolerances(a, b, 1, xp, dtype, log_target=True)
    exact.assert_within(gradient, [derivative * weight], [within * abs(weight)], dtype)


finite = st.floats(-100.0, 100.0, width=16)  # no product of these underflows


@given(
    cotangents=st.tuples(*(st.lists(finite, min_size=12, max_size=12) for _ in range(2))),
    factors=st.tuples(finite, finite),
    argnum=st.sampled_from([0, 1]),
    log_target=st.booleans(),
    convention=st.sampled_from(CONVENTIONS),
)
def test_the_gradient_is_linear_in_the_cotangent(
    xp: Any, cotangents: Any, factors: tuple[float, float], argnum: int, log_target: bool, convention: Any
) -> None:
    x, y, _ = arrays(log_target)

    def gradient(cotangent: Exact) -> Exact:
        weight = array(xp, cotangent)
        _, by_argument = kl_div_value_and_grad(
            array(xp, x), array(xp, y), "none", log_target, convention=convention, argnums=argnum, cotangent=weight
        )
        return numbers(by_argument)

    u, v = (np.reshape(c, SHAPE) for c in cotangents)
    together, apart = gradient(factors[0] * u + factors[1] * v), (gradient(u), gradient(v))
    sizes = np.abs(factors[0] * u) + np.abs(factors[1] * v)
    tolerance = exact.derivative_tolerances(x, y, argnum, xp, "float64", log_target=log_target)
    within = np.asarray([float(value) for value in tolerance]).reshape(SHAPE) * sizes
    assert np.all(np.abs(together - factors[0] * apart[0] - factors[1] * apart[1]) <= within)


def scaled(values: list[mpf], weights: Exact, reduction: str) -> list[mpf]:
    over = divisor(SHAPE, reduction)
    return [value * weight / over for value, weight in zip(values, weights.ravel().tolist(), strict=True)]


def assert_close_gradients(closed: Any, derived: Any, reduction: str, log_target: bool, weight: Exact) -> None:
    x, y, _ = arrays(log_target)
    weights = np.broadcast_to(np.abs(weight), SHAPE)
    for argnum, (one, other) in enumerate(zip(closed, derived, strict=True)):
        tolerance = exact.derivative_tolerances(x, y, argnum, np, "float64", log_target=log_target)
        within = np.asarray([float(value) for value in scaled(tolerance, weights, reduction)]).reshape(SHAPE)
        assert np.all(np.abs(numbers(one) - numbers(other)) <= within)
