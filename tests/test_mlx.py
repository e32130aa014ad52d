"""MLX: lazy, under every transformation, with the accuracy and the promises that the other libraries have."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from kldiv_xp import KLDivLoss, kl_div, kl_div_value_and_grad
from kldiv_xp.backends import find, mlx
from tests import exact
from tests.backends import CONVENTIONS, REDUCTIONS, Array, Exact
from tests.test_gradient_promise import Numbers, at_zero_targets_is_zero, grid, holds, promised
from tests.test_values import DTYPES, EMPTY, SHAPES, distributions

mx: Any = pytest.importorskip("mlx.core")

EVERY_LOSS = [KLDivLoss(r, t, convention=c) for r, t, c in itertools.product(REDUCTIONS, [False, True], CONVENTIONS)]
every_loss = pytest.mark.parametrize("loss", EVERY_LOSS, ids=str)


@pytest.fixture(autouse=True)
def on_the_cpu() -> Iterator[None]:
    with mx.stream(mx.cpu):
        yield


def array(values: Any, dtype: str = "float64") -> Array:
    return mx.array(np.asarray(values, np.float64), dtype=getattr(mx, dtype))


def numbers(x: Array) -> Exact:
    return np.asarray(x.astype(mx.float64))


def check(loss: KLDivLoss, value: Array, x: Array, y: Array, dtype: str) -> None:
    """Fail unless the value is the exact one within the tolerance."""
    assert str(value.dtype) == f"mlx.core.{dtype}"
    a, b = numbers(x), numbers(y)
    exactly = exact.losses(a, b, log_target=loss.log_target, convention=loss.convention)
    within = exact.tolerances(a, b, np, dtype, log_target=loss.log_target)
    values = numbers(value).astype(np.float32 if dtype == "bfloat16" else dtype)
    if dtype == "bfloat16":  # which NumPy has not
        spacing = [abs(e) * 2.0**-8 for e in exact.reduced(exactly, x.shape, loss.reduction)]
        bounds = exact.total(within, x.shape, loss.reduction)
        bounds = [bound + more for bound, more in zip(bounds, spacing, strict=True)]
        exact.assert_within(values, exact.reduced(exactly, x.shape, loss.reduction), bounds, "float32")
        return
    exact.assert_within(
        values,
        exact.reduced(exactly, x.shape, loss.reduction),
        exact.total(within, x.shape, loss.reduction),
        dtype,
    )


def arrays(log_target: bool = False, dtype: str = "float32", shape: tuple[int, ...] = (3, 4)) -> tuple[Array, Array]:
    x, y = distributions(shape, log_target)
    return array(x, dtype), array(y, dtype)


@pytest.mark.parametrize("dtypes", DTYPES, ids="-".join)
@every_loss
def test_the_loss_is_exact_within_the_tolerance_and_of_the_promoted_dtype(
    loss: KLDivLoss, dtypes: tuple[str, str, str]
) -> None:
    x, y = (array(a, dtype) for a, dtype in zip(distributions((4, 5), loss.log_target), dtypes, strict=False))
    check(loss, loss(x, y), x, y, dtypes[2])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_loss_is_exact_in_any_number_of_dimensions(reduction: Any, shape: tuple[int, ...]) -> None:
    x, y = arrays(dtype="float64", shape=shape)
    value = kl_div(x, y, reduction)
    assert value.shape == (shape if reduction == "none" else ())
    check(KLDivLoss(reduction), value, x, y, "float64")


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_no_elements_have_no_mean_but_a_sum(shape: tuple[int, ...]) -> None:
    x = mx.zeros(shape)
    expected = {"none": np.empty(shape), "sum": 0.0, "mean": np.nan, "batchmean": 0.0 if shape[0] else np.nan}
    for reduction in REDUCTIONS:
        np.testing.assert_array_equal(numbers(kl_div(x, x, reduction)), expected[reduction], strict=True)


@pytest.mark.parametrize("shape", [(2**20,), (2**10, 2**10)], ids=str)
def test_a_long_sum_does_not_drift(shape: tuple[int, ...]) -> None:
    # MLX's own sum of so many float32 is off by 7e-5.
    x, y = mx.full(shape, -0.1), mx.ones(shape)
    term, within = numbers(x).ravel()[:1], 2.0**20
    wanted = [value * within for value in exact.losses(term, np.ones(1))]
    bounds = [value * within for value in exact.tolerances(term, np.ones(1), np, "float32")]
    exact.assert_within(np.asarray(kl_div(x, y, "sum")), wanted, bounds, "float32")


def test_a_large_element_does_not_swallow_small_ones() -> None:
    x, y = np.zeros(300), np.full(300, 1e-3)  # -7e-3 each; a unit of the large one is 8e-3
    y[0] = 2.0**42
    total = np.sum(y * np.log(y), dtype=np.longdouble)
    with mx.stream(mx.cpu):
        loss = kl_div(mx.array(x, mx.float64), mx.array(y, mx.float64), "sum")
    assert abs(float(loss.item()) - total) <= 8 * np.finfo(np.float64).eps * total


@pytest.mark.parametrize("size", [75, 10_000])
def test_a_mean_is_finite_where_its_sum_is_not(size: int) -> None:
    x, y = mx.full(size, -1e37), mx.ones(size)
    (wanted,), (within,) = (
        exact.losses(numbers(x)[:1], np.ones(1)),
        exact.tolerances(numbers(x)[:1], np.ones(1), np, "float32"),
    )
    exact.assert_within(np.asarray(kl_div(x, y)), [wanted], [within], "float32")
    assert kl_div(x, y, "sum") == mx.inf


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_exponential_has_the_precision_and_the_range_of_its_dtype(dtype: str) -> None:
    # MLX's own is off by 32 float32 roundings at -87 and infinite above 88, in float64, too.
    limits = np.finfo(dtype)
    y = np.linspace(np.log(float(limits.tiny)) - 5, np.log(float(limits.max)) - 10, 1001)
    x = array(np.zeros(1001), dtype)
    _, by_x = kl_div_value_and_grad(x, array(y, dtype), "sum", log_target=True)
    y = numbers(array(y, dtype))
    exact.assert_within(
        np.asarray(by_x),
        exact.derivatives(np.zeros(1001), y, 0, log_target=True),
        exact.derivative_tolerances(np.zeros(1001), y, 0, np, dtype, log_target=True),
        dtype,
    )


@every_loss
def test_nothing_is_computed_before_the_caller_asks(loss: KLDivLoss) -> None:
    # What MLX evaluates while it traces is an error of its own.
    x, y = arrays(loss.log_target)
    value, gradient = mx.compile(lambda a, b: (loss(a, b), mx.grad(lambda c: mx.sum(loss(c, b)))(a)))(x, y)
    check(loss, value, x, y, "float32")
    assert gradient.shape == x.shape


def test_a_value_that_is_forced_while_tracing_is_an_error() -> None:
    with pytest.raises(ValueError, match="eval"):  # what the test above relies on
        mx.compile(lambda a: a * float(mx.sum(a)))(mx.ones(3))


@every_loss
def test_it_is_not_compiled_for_any_shape(loss: KLDivLoss) -> None:
    # Else it would divide by the size that it was traced with. MLX says so of all that has a derivative of its own.
    with pytest.raises(ValueError, match="cannot infer output shapes"):
        mx.compile(loss, shapeless=True)(*arrays(loss.log_target))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nor_is_the_closed_form(reduction: Any) -> None:
    # Else (1, 4) would be broadcast against (6, 4), and the gradient divided by the size that it was traced with.
    def gradient(x: Array, y: Array) -> Array:
        return kl_div_value_and_grad(x, y, reduction, cotangent=mx.ones_like(x) if reduction == "none" else None)[1]

    with pytest.raises(ValueError, match="cannot infer output shapes"):
        mx.compile(gradient, shapeless=True)(*arrays())


@every_loss
def test_vmap_is_a_loop_over_the_batch(loss: KLDivLoss) -> None:
    x, y = arrays(loss.log_target)
    for row, a, b in zip(mx.vmap(loss)(x, y), x, y, strict=True):
        check(loss, row, a, b, "float32")
    for row, a in zip(mx.vmap(loss, in_axes=(0, None))(x, y[0]), x, strict=True):
        check(loss, row, a, y[0], "float32")


def check_gradients(loss: KLDivLoss, gradients: Any, x: Array, y: Array, dtype: str) -> None:
    over = {"mean": x.size, "batchmean": x.shape[0] if x.ndim else 1}.get(loss.reduction, 1)
    a, b, options = numbers(x), numbers(y), {"log_target": loss.log_target}
    for argnum, gradient in enumerate(gradients):
        wanted = exact.derivatives(a, b, argnum, convention=loss.convention, **options)
        bounds = exact.derivative_tolerances(a, b, argnum, np, dtype, **options)
        # The bounds leave room for one division more.
        exact.assert_within(np.asarray(gradient), [v / over for v in wanted], [v / over for v in bounds], dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_loss
def test_gradients_are_those_of_the_formula(loss: KLDivLoss, dtype: str) -> None:
    x, y = arrays(loss.log_target, dtype)
    ones = mx.ones_like(loss(x, y))
    check_gradients(loss, mx.vjp(loss, (x, y), (ones,))[1], x, y, dtype)
    more = {"cotangent": ones} if loss.reduction == "none" else {}
    options: dict[str, Any] = {"convention": loss.convention, "argnums": (0, 1), **more}
    closed = kl_div_value_and_grad(x, y, loss.reduction, loss.log_target, **options)[1]
    check_gradients(loss, closed, x, y, dtype)
    if loss.reduction != "none":
        check_gradients(loss, mx.value_and_grad(loss, argnums=(0, 1))(x, y)[1], x, y, dtype)


def test_a_direction_by_one_argument_alone_is_differentiated_along() -> None:
    x, y = arrays(dtype="float64")
    _, (slope,) = mx.jvp(lambda a: kl_div(a, y, "sum"), [x], [mx.ones_like(x)])
    bound = y.size * float(np.finfo(np.float64).eps)  # one rounding for each element that is added
    np.testing.assert_allclose(float(slope), -numbers(y).sum(), rtol=bound)


def first_derivatives(f: Callable[..., Any], x: Array, y: Array) -> Iterator[tuple[str, int, Numbers]]:
    for argnum, values in enumerate(mx.grad(lambda a, b: mx.sum(f(a, b)), (0, 1))(x, y)):
        yield "reverse", argnum, np.asarray(values)
    for argnum, values in enumerate(mx.vmap(mx.grad(f, (0, 1)))(x, y)):
        yield "reverse under vmap", argnum, np.asarray(values)
    for argnum in (0, 1):
        yield "forward", argnum, np.asarray(mx.jvp(f, [x, y], _direction(x, argnum))[1][0])


def second_derivatives(f: Callable[..., Any], x: Array, y: Array) -> Iterator[tuple[str, Numbers]]:
    for first, last in itertools.product((0, 1), (0, 1)):

        def gradient(a: Array, b: Array, first: int = first) -> Array:
            return mx.grad(lambda a, b: mx.sum(f(a, b)), first)(a, b)

        second = mx.grad(lambda a, b, gradient=gradient: mx.sum(gradient(a, b)), last)(x, y)
        yield f"reverse over reverse, by {first} and {last}", np.asarray(second)
        yield (
            f"forward over reverse, by {first} and {last}",
            np.asarray(mx.jvp(gradient, [x, y], _direction(x, last))[1][0]),
        )


def _direction(x: Array, argnum: int) -> list[Array]:
    return [mx.full(x.shape, float(i == argnum), dtype=x.dtype) for i in (0, 1)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_gradient_is_finite_wherever_the_loss_is(convention: Any, log_target: bool, dtype: str) -> None:
    def f(a: Array, b: Array) -> Array:
        return kl_div(a, b, "none", log_target, convention=convention)

    x, y = grid(dtype)
    a, b = (mx.array(values, dtype=getattr(mx, dtype)) for values in (x, y))
    where = promised(np.asarray(f(a, b)), y, log_target)
    for name, argnum, values in first_derivatives(f, a, b):
        holds(f"{name} by {argnum}", np.isfinite(values), where, x, y)
        at_zero_targets_is_zero(values, argnum, log_target, x, y)
    for name, values in second_derivatives(f, a, b):
        holds(name, ~np.isnan(values), where, x, y)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        ((2, 3), (3,), ValueError, r"same shape, got \(2, 3\) and \(3,\)"),
        ((3, 1), (1, 3), ValueError, "same shape"),
        (
            (2,),
            "int32",
            TypeError,
            "target must have a real floating-point dtype of 16 bits or more, got mlx.core.int32",
        ),
        ((2,), "complex64", TypeError, "complex64"),
        ((2,), "bool_", TypeError, "bool"),
        ((2,), np.ones(2), TypeError, "one array library, got mlx.core.array and numpy.ndarray"),
        ((2,), [0.5, 0.5], TypeError, "target must be an array.*got list"),
    ],
)
def test_what_does_not_fit_is_refused(x: Any, y: Any, error: type[Exception], message: str) -> None:
    if isinstance(y, tuple):
        y = mx.ones(y)
    elif isinstance(y, str):
        y = mx.ones(2, dtype=getattr(mx, y))
    for call in (kl_div, kl_div_value_and_grad):
        with pytest.raises(error, match=message):
            call(mx.zeros(x), y)


def test_on_a_gpu_the_functions_are_those_of_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    # There is none here: this says that MLX's are called, and nothing of what a GPU makes of them.
    monkeypatch.setattr(mlx, "_on_cpu", lambda: False)
    x = mx.random.normal((3, 5))
    backend = find(x, x)
    assert mx.array_equal(backend.sum(x), mx.sum(x))
    assert mx.array_equal(backend.xp.exp(x), mx.exp(x))
