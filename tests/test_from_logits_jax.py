"""Divergences from logits under what JAX does to functions: jit, grad, jvp, hessian, vmap, scan, checkpoint."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from kldiv_xp import JSDivWithLogitsLoss, KLDivWithLogitsLoss, js_div_with_logits, kl_div_with_logits
from tests import exact_from_logits as exact
from tests.backends import numbers
from tests.test_from_logits import BETAS, IMPOSSIBLE, close, each_formula, logits


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def arrays(noise: float = 1.0, shape: tuple[int, ...] = (3, 5)) -> tuple[Any, Any]:
    x, y = logits(shape, noise)
    return jnp.asarray(x), jnp.asarray(y)


def losses() -> list[Any]:
    return [KLDivWithLogitsLoss(temperature=1.5), *(JSDivWithLogitsLoss(beta, temperature=1.5) for beta in BETAS[1:])]


every_loss = pytest.mark.parametrize("loss", losses(), ids=repr)
near_and_far = pytest.mark.parametrize("noise", [1.0, 1e-2])


def composition(loss: Any, x: Any, y: Any) -> Any:
    """The definition, differentiated by JAX."""
    beta = getattr(loss, "beta", 0.0)
    log_q, log_p = (jax.nn.log_softmax(z / loss.temperature, loss.axis) for z in (x, y))
    p, q = jnp.exp(log_p), jnp.exp(log_q)

    def kl(p: Any, log_p: Any, log_q: Any) -> Any:
        return jnp.sum(p * (log_p - log_q)) / x.shape[0]

    if beta in (0.0, 1.0):
        return kl(q, log_q, log_p) if beta else kl(p, log_p, log_q)
    log_m = jnp.log(beta * p + (1 - beta) * q)
    return beta * kl(p, log_p, log_m) + (1 - beta) * kl(q, log_q, log_m)


@every_loss
@near_and_far
@pytest.mark.parametrize("argnums", [0, 1, (0, 1)])
def test_derivatives_of_first_and_second_order_are_those_of_the_definition(
    loss: Any, noise: float, argnums: Any
) -> None:
    x, y = arrays(noise)

    def defined(x: Any, y: Any) -> Any:
        return composition(loss, x, y)

    for transform in (jax.grad, jax.jacfwd, jax.hessian):
        for one, other in zip(
            jax.tree.leaves(transform(loss, argnums)(x, y)),
            jax.tree.leaves(transform(defined, argnums)(x, y)),
            strict=True,
        ):
            close(one, np.asarray(other), rtol=1e-9, atol=1e-12)


@every_loss
@pytest.mark.parametrize("case", [name for name in IMPOSSIBLE if name not in ("all", "all of the student")])
def test_derivatives_of_first_and_second_order_are_finite_wherever_the_loss_is(loss: Any, case: str) -> None:
    x, y = (jnp.asarray([row]) for row in IMPOSSIBLE[case])
    if not np.isfinite(loss(x, y)):
        pytest.skip("the loss is not finite")
    for transform in (jax.grad, jax.jacfwd, jax.hessian):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(transform(loss, (0, 1))(x, y)))


@pytest.mark.parametrize("case", ["in the student alone", "in either, elsewhere"])
def test_the_gradient_by_the_student_is_finite_where_the_loss_is_infinite(case: str) -> None:
    x, y = (jnp.asarray([row]) for row in IMPOSSIBLE[case])
    value, gradient = jax.value_and_grad(kl_div_with_logits)(x, y)
    assert value == np.inf
    close(gradient, exact.gradients(np.asarray(x), np.asarray(y), 0.0, 1.0)[0])


@every_loss
def test_a_loss_is_a_static_argument_and_maps_over_batches(loss: Any) -> None:
    x, y = arrays(shape=(4, 3, 5))
    jitted = jax.jit(lambda loss, x, y: loss(x, y), static_argnums=0)
    each = [loss(a, b) for a, b in zip(x, y, strict=True)]
    close(jax.vmap(loss)(x, y), each)
    close(jax.vmap(loss, (1, 1))(x.swapaxes(0, 1), y.swapaxes(0, 1)), each)
    close(jax.vmap(lambda a: loss(a, y[0]))(x), [loss(a, y[0]) for a in x])
    close([jitted(loss, a, b) for a, b in zip(x, y, strict=True)], each)
    by_each = [jax.grad(loss)(a, b) for a, b in zip(x, y, strict=True)]
    close(jax.vmap(jax.grad(loss))(x, y), by_each)


def test_scan_and_checkpoint_take_it() -> None:
    x, y = arrays(shape=(4, 3, 5))

    def total(x: Any) -> Any:
        step = jax.checkpoint(lambda carry, pair: (carry + kl_div_with_logits(*pair), None))
        return jax.lax.scan(step, 0.0, (x, y))[0]

    close(jax.jit(jax.grad(total))(x), jax.vmap(jax.grad(kl_div_with_logits))(x, y))


def test_a_change_of_temperature_compiles_no_new_program() -> None:
    x, y = arrays(shape=(3, 11))
    kl_div_with_logits(x, y, temperature=1.25)
    with jax.log_compiles(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax._src.compiler, "compile_or_get_cached", None)
        close(kl_div_with_logits(x, y, temperature=1.5), exact.rows(np.asarray(x), np.asarray(y), 0.0, 1.5).mean())


def test_bad_calls_raise_the_same_errors_without_jit() -> None:
    x, y = arrays()
    with pytest.raises(ValueError, match=r"must have the same shape, got \(3, 5\) and \(2, 5\)"):
        kl_div_with_logits(x, y[:2])
    with pytest.raises(TypeError, match="where must be a boolean array"):
        kl_div_with_logits(x, y, where=jnp.ones(3))


@pytest.mark.parametrize("jit", [False, True])
@each_formula
def test_checkers_for_nan_find_none_where_the_result_has_none(beta: float, jit: bool) -> None:
    x, y = (jnp.asarray([row, row]) for row in IMPOSSIBLE["in both"])
    function = checkify.checkify(
        jax.value_and_grad(lambda x, y: js_div_with_logits(x, y, beta), (0, 1)), errors=checkify.float_checks
    )
    error, _ = (jax.jit(function) if jit else function)(x, y)
    assert error.get() is None
    with jax.debug_nans(True):
        jax.grad(lambda x, y: js_div_with_logits(x, y, beta), (0, 1))(x, y)


@pytest.mark.parametrize("beta", BETAS)
def test_with_the_classes_spread_over_devices_only_numbers_of_rows_cross(beta: float) -> None:
    devices = jax.devices()
    if len(devices) < 2:
        pytest.skip("one device")
    mesh = jax.sharding.Mesh(np.asarray(devices[:4]), ("classes",))
    partition: Any = jax.sharding.PartitionSpec
    spread = jax.sharding.NamedSharding(mesh, partition(None, "classes"))
    x, y = arrays(shape=(8, 64))
    a, b = (jax.device_put(z, spread) for z in (x, y))
    step = jax.jit(jax.value_and_grad(lambda x, y: js_div_with_logits(x, y, beta), (0, 1)), out_shardings=None)
    program = str(step.lower(a, b).compile().as_text())
    assert "all-reduce" in program
    assert not any(name in program for name in ("all-gather", "all-to-all", "collective-permute"))
    value, gradients = step(a, b)
    close(value, exact.rows(np.asarray(x), np.asarray(y), beta, 1.0).mean())
    for gradient, wanted in zip(gradients, exact.gradients(np.asarray(x), np.asarray(y), beta, 1.0), strict=True):
        assert gradient.sharding.spec == spread.spec
        close(gradient, wanted / 8)


@pytest.mark.parametrize(("noise", "beta"), list(itertools.product([1.0, 1e-1, 1e-2, 1e-3], [0.0, 0.5])))
def test_float32_is_more_accurate_than_the_definition_near_convergence(noise: float, beta: float) -> None:
    x, y = (jnp.asarray(z, dtype=jnp.float32) for z in logits((8, 1000), noise))
    wanted = exact.rows(numbers(x), numbers(y), beta, 1.5).mean()
    loss = JSDivWithLogitsLoss(beta, temperature=1.5)
    mine, defined = float(loss(x, y)), float(composition(loss, x, y))
    assert abs(mine / wanted - 1) <= max(2 * abs(defined / wanted - 1), 1e-6)


@pytest.mark.parametrize("likely", [12.0, 20.0])
def test_second_derivatives_are_exact_for_a_class_that_the_student_finds_improbable(likely: float) -> None:
    x, y = jnp.asarray([0.0, 0.5, likely]), jnp.asarray([likely, 0.3, 0.0])
    found = jax.hessian(lambda x: kl_div_with_logits(x, y))(x)
    q = np.exp(np.asarray(x, np.float64))
    q /= q.sum()
    np.testing.assert_allclose(found[:2, :2], (np.diag(q) - np.outer(q, q))[:2, :2], rtol=2e-5)


def test_a_numpy_array_beside_one_of_jax_is_taken() -> None:
    x, y = arrays()
    close(kl_div_with_logits(x, np.asarray(y)), kl_div_with_logits(x, y))
