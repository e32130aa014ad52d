"""JAX: every transformation, with 64 bits and without, and nothing that only a concrete array could answer."""

import itertools
import os
import re
import subprocess
import sys
from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from conformance.tolerance import K
from kldiv_xp import KLDivLoss, kl_div, kl_div_value_and_grad
from tests import exact
from tests.backends import CONVENTIONS, REDUCTIONS, Array, Exact, numbers

EVERY_LOSS = [KLDivLoss(r, t, convention=c) for r, t, c in itertools.product(REDUCTIONS, [False, True], CONVENTIONS)]
REDUCING = [loss for loss in EVERY_LOSS if loss.reduction != "none"]

every_loss = pytest.mark.parametrize("loss", EVERY_LOSS, ids=str)
every_reducing_loss = pytest.mark.parametrize("loss", REDUCING, ids=str)


@pytest.fixture(params=[False, True], ids=["x32", "x64"])
def dtype(request: pytest.FixtureRequest) -> Any:
    with jax.enable_x64(request.param):
        yield "float64" if request.param else "float32"


def arrays(log_target: bool = False) -> tuple[Array, Array]:
    rng = np.random.default_rng(11)
    x, y = rng.normal(-1.0, 1.0, (2, 3, 4))
    y = y if log_target else np.where(rng.random((3, 4)) < 0.2, 0.0, np.exp(y))
    return jnp.asarray(x), jnp.asarray(y)  # of the widest dtype that JAX is set to


def check_loss(loss: KLDivLoss, value: Array, x: Array, y: Array, dtype: str) -> None:
    a, b = numbers(x), numbers(y)
    exactly = exact.losses(a, b, log_target=loss.log_target, convention=loss.convention)
    within = exact.tolerances(a, b, jnp, dtype, log_target=loss.log_target)
    exact.assert_within(
        value, exact.reduced(exactly, a.shape, loss.reduction), exact.total(within, a.shape, loss.reduction), dtype
    )


def agree(one: Any, other: Any, loss: KLDivLoss, x: Array, y: Array, dtype: str, argnum: int = 0) -> None:
    """Fail unless two gradients are the same within twice the tolerance of each."""
    values = exact.derivative_tolerances(numbers(x), numbers(y), argnum, jnp, dtype, log_target=loss.log_target)
    within: Exact = np.asarray([float(value) for value in values]).reshape(x.shape)
    assert np.all(np.abs(numbers(one) - numbers(other)) <= 2 * within)


@every_loss
def test_a_loss_is_a_static_argument_of_jit(loss: KLDivLoss, dtype: str) -> None:
    x, y = arrays(loss.log_target)
    check_loss(loss, jax.jit(lambda which, a, b: which(a, b), static_argnums=0)(loss, x, y), x, y, dtype)


@every_loss
def test_a_loss_is_what_jit_transforms(loss: KLDivLoss, dtype: str) -> None:
    x, y = arrays(loss.log_target)
    check_loss(loss, jax.jit(loss)(x, y), x, y, dtype)
    check_loss(loss, jax.jit(lambda a, b: loss(a, b))(x, y), x, y, dtype)


@every_loss
def test_it_needs_no_jit(loss: KLDivLoss, dtype: str) -> None:
    x, y = arrays(loss.log_target)
    check_loss(loss, loss(x, y), x, y, dtype)
    with jax.disable_jit():
        check_loss(loss, loss(x, y), x, y, dtype)
        check_loss(loss, jax.jit(loss)(x, y), x, y, dtype)


def test_equal_losses_are_traced_once() -> None:
    traced = []

    @partial(jax.jit, static_argnums=0)
    def step(loss: KLDivLoss, x: Array, y: Array) -> Array:
        traced.append(loss)
        return loss(x, y)

    x, y = arrays()
    for _ in range(3):
        step(KLDivLoss("sum"), x, y)
    assert len(traced) == 1
    step(KLDivLoss("sum", convention="limit"), x, y)
    assert len(traced) == 2


@every_loss
def test_tracing_asks_for_no_value(loss: KLDivLoss, dtype: str) -> None:
    # There are no values: only shapes and dtypes.
    abstract = jax.ShapeDtypeStruct((1024, 32_000), dtype)  # type: ignore[no-untyped-call]
    result = jax.eval_shape(loss, abstract, abstract)
    assert result.shape == (abstract.shape if loss.reduction == "none" else ())
    assert result.dtype == dtype


@pytest.mark.usefixtures("dtype")
def test_float32_is_never_widened() -> None:
    x = jax.ShapeDtypeStruct((3, 4), jnp.float32)  # type: ignore[no-untyped-call]
    for loss in EVERY_LOSS:
        # A 0-d one may stand in the trace: it is how JAX writes a number of Python, of no dtype yet.
        assert not re.search(r"f64\[\d", str(jax.make_jaxpr(loss)(x, x)))


@every_reducing_loss
def test_value_and_grad_agrees_with_the_closed_form(loss: KLDivLoss, dtype: str) -> None:
    x, y = arrays(loss.log_target)
    options: Any = {"convention": loss.convention, "argnums": (0, 1)}
    closed: Any = kl_div_value_and_grad(x, y, loss.reduction, loss.log_target, **options)
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, y)
    check_loss(loss, value, x, y, dtype)
    for argnum in (0, 1):
        assert gradients[argnum].dtype == dtype
        agree(gradients[argnum], closed[1][argnum], loss, x, y, dtype, argnum)
        agree(jax.grad(loss, argnums=argnum)(x, y), closed[1][argnum], loss, x, y, dtype, argnum)


@every_loss
def test_forward_mode_agrees_with_the_closed_form(loss: KLDivLoss, dtype: str) -> None:
    x, y = arrays(loss.log_target)
    for argnum in (0, 1):
        tangents = [jnp.full_like(x, float(i == argnum)) for i in (0, 1)]
        value, tangent = jax.jvp(loss, (x, y), tuple(tangents))
        check_loss(loss, value, x, y, dtype)
        ones = jnp.ones_like(x) if loss.reduction == "none" else None
        _, gradient = kl_div_value_and_grad(
            x, y, loss.reduction, loss.log_target, convention=loss.convention, argnums=argnum, cotangent=ones
        )
        if loss.reduction == "none":
            agree(tangent, gradient, loss, x, y, dtype, argnum)
        else:  # a sum of derivatives, as near as the sum of their tolerances
            bounds = exact.derivative_tolerances(numbers(x), numbers(y), argnum, jnp, dtype, log_target=loss.log_target)
            assert abs(float(tangent) - float(numbers(gradient).sum())) <= 2 * float(sum(bounds))


@every_loss
def test_vmap_is_a_loop_over_the_batch(loss: KLDivLoss, dtype: str) -> None:
    x, y = arrays(loss.log_target)
    batched = jax.vmap(loss)(x, y)
    assert batched.dtype == dtype
    for row, (a, b) in zip(batched, zip(x, y, strict=True), strict=True):
        check_loss(loss, row, a, b, dtype)
    of_columns = jax.jit(jax.vmap(loss, in_axes=1))(x, y)
    for column, (a, b) in zip(of_columns, zip(x.T, y.T, strict=True), strict=True):
        check_loss(loss, column, a, b, dtype)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.usefixtures("dtype")
def test_the_hessian_is_that_of_the_formula(convention: Any) -> None:
    x, y = jnp.asarray([-1.0, -2.0, -3.0]), jnp.asarray([0.5, 0.0, 0.25])
    loss = KLDivLoss("sum", convention=convention)
    ((xx, xy), (yx, yy)) = jax.hessian(loss, argnums=(0, 1))(x, y)
    np.testing.assert_array_equal(xx, np.zeros((3, 3)))
    np.testing.assert_array_equal(xy, -np.diag([1.0, 0.0, 1.0]))  # no slope where the target counts as zero
    np.testing.assert_array_equal(yx, -np.diag([1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(yy, np.diag([2.0, 0.0, 4.0]))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_hessian_of_a_log_target_is_that_of_the_formula(convention: Any, dtype: str) -> None:
    x, y = jnp.asarray(-1.0), jnp.asarray(-0.5)
    loss = KLDivLoss("sum", True, convention=convention)
    hessian = numbers(jnp.asarray(jax.jit(jax.hessian(loss, argnums=(0, 1)))(x, y)))
    p = np.exp(-0.5)
    expected = [[0.0, -p], [-p, p * (-0.5 + 1.0 + 2.0)]]
    np.testing.assert_allclose(hessian, expected, rtol=K * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("wide", ["input", "target"])
@pytest.mark.usefixtures("dtype")
def test_a_gradient_has_the_dtype_of_its_argument(wide: str) -> None:
    x, y = (
        a.astype(jnp.float32 if name == wide else jnp.bfloat16)
        for name, a in zip(("input", "target"), arrays(), strict=True)
    )
    by_x, by_y = jax.grad(KLDivLoss(), argnums=(0, 1))(x, y)
    assert (by_x.dtype, by_y.dtype) == (x.dtype, y.dtype)
    assert kl_div(x, y).dtype == jnp.float32


def test_numpy_arrays_beside_traced_ones_are_taken(dtype: str) -> None:
    x, y = arrays()
    of_numpy = np.asarray(y)
    value = jax.jit(lambda a: kl_div(a, of_numpy, "sum"))(x)
    check_loss(KLDivLoss("sum"), value, x, y, dtype)
    by_x = jax.grad(lambda a: kl_div(a, of_numpy, "sum"))(x)
    np.testing.assert_array_equal(by_x, -of_numpy)


@pytest.mark.parametrize("jit", [False, True])
def test_the_closed_form_is_traced_like_any_function(jit: bool) -> None:
    def f(a: Array, b: Array, cotangent: Array) -> Any:
        return kl_div_value_and_grad(a, b, "none", argnums=(0, 1), cotangent=cotangent)

    x, y = arrays()
    loss, (by_x, by_y) = (jax.jit(f) if jit else f)(x, y, x)
    assert loss.shape == by_x.shape == by_y.shape == x.shape
    np.testing.assert_array_equal(by_x, -y * x)


def test_errors_come_while_tracing() -> None:
    x, y = arrays()
    with pytest.raises(ValueError, match=r"same shape, got \(3, 4\) and \(4,\)"):
        jax.jit(kl_div)(x, y[0])
    with pytest.raises(TypeError, match="int32"):
        jax.jit(kl_div)(x, y.astype(jnp.int32))


def test_arrays_on_two_devices_are_refused_unless_jax_may_move_them() -> None:
    program = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from kldiv_xp import kl_div, kl_div_value_and_grad

one, other = jax.devices()
free = jnp.ones((4, 2))  # not committed to a device: JAX moves it
here, there = jax.device_put(free, one), jax.device_put(free, other)
for x, y in ((here, there), (there, here)):
    for call in (kl_div, kl_div_value_and_grad):
        try:
            call(x, y)
        except ValueError as e:
            assert "must be on one device" in str(e), e
            assert "TFRT_CPU_0" in str(e) or "CpuDevice(id=0)" in str(e), e
        else:
            raise SystemExit("arrays on two devices were taken")
try:
    kl_div_value_and_grad(here, here, "none", cotangent=there)
except ValueError as e:
    assert "input, target and cotangent must be on one device" in str(e), e
else:
    raise SystemExit("a cotangent on another device was taken")
assert kl_div(there, there).devices() == {other}
assert kl_div(free, there).devices() == kl_div(there, free).devices() == {other}
assert kl_div(np.ones((4, 2), np.float32), there).devices() == {other}

sharding = NamedSharding(Mesh(np.asarray([one, other]), ("rows",)), PartitionSpec("rows"))
spread = jax.device_put(free, sharding)
assert kl_div(spread, spread, "none").sharding.is_equivalent_to(sharding, 2)
assert float(jax.jit(kl_div)(spread, spread)) == -1.0
print("fine")
"""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize("loss", [KLDivLoss(reduction) for reduction in REDUCTIONS], ids=str)
def test_a_program_is_exported_for_every_shape(loss: KLDivLoss) -> None:
    x, y = arrays()
    struct: Any = jax.ShapeDtypeStruct
    of_any_shape = struct(jax.export.symbolic_shape("n, m"), x.dtype)
    exported: Any = jax.export.export(jax.jit(loss))(of_any_shape, of_any_shape)
    for rows in (1, 3):
        a, b = x[:rows], y[:rows]
        each = exact.tolerances(numbers(a), numbers(b), jnp, "float32")
        np.testing.assert_allclose(exported.call(a, b), loss(a, b), rtol=0, atol=2 * float(sum(each)))


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_more_elements_are_averaged_over_than_an_int32_can_count(reduction: Any) -> None:
    x: Any = jax.ShapeDtypeStruct((2**31, 2**3), jnp.float32)  # type: ignore[no-untyped-call]
    assert jax.eval_shape(partial(kl_div, reduction=reduction), x, x).shape == ()
