"""Sharded JAX: what lies on eight devices stays there, and nothing but sums crosses between them."""

import itertools
import re
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from conformance.implementations.kldiv_xp.jax_sharded import mesh  # makes the CPU pass for eight devices
from kldiv_xp import KLDivLoss, kl_div, kl_div_value_and_grad
from tests import exact
from tests.backends import CONVENTIONS, REDUCTIONS, Array

SHAPE = (4, 8)
SHARDINGS = {"batch": ("batch",), "class": (None, "class"), "batch-and-class": ("batch", "class")}
EVERY_LOSS = [KLDivLoss(r, t, convention=c) for r, t, c in itertools.product(REDUCTIONS, [False, True], CONVENTIONS)]

COLLECTIVE = re.compile(r"\b(?:all-(?:gather|reduce|to-all)|collective-\w+|reduce-scatter|ragged-all-to-all)\b")

every_loss = pytest.mark.parametrize("loss", EVERY_LOSS, ids=str)
every_sharding = pytest.mark.parametrize("axes", SHARDINGS.values(), ids=SHARDINGS)


@pytest.fixture(autouse=True)
def _eight_devices() -> None:
    assert jax.device_count() == 8, "JAX was started before this file was imported"


def spec(*axes: Any) -> PartitionSpec:
    return PartitionSpec(*axes)  # type: ignore[no-untyped-call]


@cache
def numbers(log_target: bool = False) -> tuple[Any, Any]:
    """Inputs and targets, zeros and, of the logarithms, none among them."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(-1.0, 1.0, (2, *SHAPE)).astype(np.float32)
    return x, y if log_target else np.where(rng.random(SHAPE) < 0.2, np.float32(0), np.exp(y))


def arrays(axes: Any, log_target: bool = False, dtype: Any = np.float32) -> tuple[Array, Array]:
    x, y = (jax.device_put(jnp.asarray(a, dtype), NamedSharding(mesh(), spec(*axes))) for a in numbers(log_target))
    return x, y


def loss_and_gradients(loss: Any, x: Array, y: Array) -> Any:
    value, pullback = jax.vjp(loss, x, y)
    return value, pullback(jnp.ones_like(value))


def collectives(compiled: Any) -> set[str]:
    """Operations of a compiled program by which devices exchange what they have."""
    return set(COLLECTIVE.findall(compiled.as_text()))


def compiled(function: Any, *arguments: Any, **options: Any) -> Any:
    return jax.jit(function, **options).lower(*arguments).compile()


@cache
def exact_derivatives(argnum: int, log_target: bool, convention: str) -> Any:
    x, y = numbers(log_target)
    return exact.derivatives(x, y, argnum, log_target=log_target, convention=convention)


def check_loss(loss: KLDivLoss, value: Array) -> None:
    x, y = numbers(loss.log_target)
    exactly = exact.losses(x, y, log_target=loss.log_target, convention=loss.convention)
    within = exact.tolerances(x, y, jnp, "float32", log_target=loss.log_target)
    exact.assert_within(
        value,
        exact.reduced(exactly, SHAPE, loss.reduction),
        exact.total(within, SHAPE, loss.reduction),
        "float32",
    )


def check_gradient(loss: KLDivLoss, gradient: Array, argnum: int) -> None:
    x, y = numbers(loss.log_target)
    over = {"mean": SHAPE[0] * SHAPE[1], "batchmean": SHAPE[0]}.get(loss.reduction, 1)
    within = exact.derivative_tolerances(x, y, argnum, jnp, "float32", log_target=loss.log_target)
    exactly = exact_derivatives(argnum, loss.log_target, loss.convention)
    exact.assert_within(gradient, [d / over for d in exactly], [t / over for t in within], "float32")


def test_a_program_that_gathers_is_seen_to_gather() -> None:
    x, _ = arrays(("batch", "class"))
    everywhere = NamedSharding(mesh(), spec())
    assert collectives(compiled(lambda a: a, x, out_shardings=everywhere)) == {"all-gather"}
    assert "all-gather" in collectives(compiled(jnp.sort, x))
    rows_to_columns = NamedSharding(mesh(), spec("class", "batch"))
    assert collectives(compiled(lambda a: a, x, out_shardings=rows_to_columns)) - {"all-reduce"}


@every_sharding
@every_loss
def test_nothing_but_sums_crosses_between_devices(loss: KLDivLoss, axes: Any) -> None:
    x, y = arrays(axes, loss.log_target)
    only_sums = set() if loss.reduction == "none" else {"all-reduce"}
    forward, backward = compiled(loss, x, y), compiled(partial(loss_and_gradients, loss), x, y)
    assert collectives(forward) == collectives(backward) == only_sums

    check_loss(loss, forward(x, y))
    value, gradients = backward(x, y)
    check_loss(loss, value)
    for argnum, gradient in enumerate(gradients):
        assert gradient.sharding.is_equivalent_to(x.sharding, 2)
        check_gradient(loss, gradient, argnum)


@every_sharding
@pytest.mark.parametrize("argnums", [0, 1])
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean", "batchmean"])
def test_a_gradient_alone_needs_no_exchange_at_all(reduction: Any, log_target: bool, argnums: int, axes: Any) -> None:
    x, y = arrays(axes, log_target)
    loss = KLDivLoss(reduction, log_target, convention="limit")
    gradient = compiled(jax.grad(loss, argnums), x, y)
    assert collectives(gradient) == set()
    check_gradient(loss, gradient(x, y), argnums)


@every_sharding
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_of_sixteen_bits_cross_in_float32(dtype: str, axes: Any) -> None:
    x, y = arrays(axes, dtype=dtype)
    program = compiled(partial(loss_and_gradients, KLDivLoss("batchmean")), x, y)
    sums = [line for line in program.as_text().splitlines() if "all-reduce(" in line]
    assert sums
    assert all("= f32[]" in line for line in sums)
    assert collectives(program) == {"all-reduce"}
    assert program(x, y)[0].dtype == dtype


@every_sharding
def test_a_mesh_of_explicit_axes_is_taken(axes: Any) -> None:
    sharding = NamedSharding(mesh(axis_types=(AxisType.Explicit,) * 2), spec(*axes))
    x, y = (jax.device_put(a, sharding) for a in numbers())
    for loss in map(KLDivLoss, REDUCTIONS):
        check_loss(loss, loss(x, y))
        value, (by_x, _) = jax.jit(partial(loss_and_gradients, loss))(x, y)
        check_loss(loss, value)
        assert by_x.sharding.is_equivalent_to(sharding, 2)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jitted"])
def test_arrays_spread_differently_over_the_same_devices_are_taken(jit: bool, reduction: Any) -> None:
    (x, _), (_, y) = arrays(("batch",)), arrays((None, "class"))
    loss = KLDivLoss(reduction)
    check_loss(loss, (jax.jit(loss) if jit else loss)(x, y))
    everywhere = jax.device_put(y, NamedSharding(mesh(), spec()))
    check_loss(loss, (jax.jit(loss) if jit else loss)(x, everywhere))


def test_arrays_on_other_devices_are_refused() -> None:
    (x, y) = arrays(("batch",))
    four = Mesh(np.asarray(jax.devices()[:4]), ("batch",))
    with pytest.raises(ValueError, match="must be on one device, got"):
        kl_div(x, jax.device_put(y, NamedSharding(four, spec("batch"))))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_closed_form_keeps_the_sharding(reduction: Any) -> None:
    x, y = arrays(("batch", "class"))
    ones = jnp.ones_like(x) if reduction == "none" else None

    def closed(a: Array, b: Array) -> Any:
        return kl_div_value_and_grad(a, b, reduction, argnums=(0, 1), cotangent=ones)

    program = compiled(closed, x, y)
    assert collectives(program) <= {"all-reduce"}
    _, gradients = program(x, y)
    for argnum, gradient in enumerate(gradients):
        assert gradient.sharding.is_equivalent_to(x.sharding, 2)
        check_gradient(KLDivLoss(reduction), gradient, argnum)


@every_sharding
def test_each_device_may_compute_its_part_by_itself(axes: Any) -> None:
    x, y = arrays(axes)
    names = tuple(name for name in axes if name)

    def of_all(a: Array, b: Array) -> Array:
        return jax.lax.psum(kl_div(a, b, "sum"), names)  # type: ignore[no-untyped-call]

    total = jax.shard_map(of_all, mesh=mesh(), in_specs=(spec(*axes),) * 2, out_specs=spec())
    each = jax.shard_map(
        lambda a, b: kl_div(a, b, "none"), mesh=mesh(), in_specs=(spec(*axes),) * 2, out_specs=spec(*axes)
    )
    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1)))(x, y)
    check_loss(KLDivLoss("sum"), value)
    check_loss(KLDivLoss("none"), jax.jit(each)(x, y))
    for argnum, gradient in enumerate(gradients):
        check_gradient(KLDivLoss("sum"), gradient, argnum)


@pytest.mark.skipif(not hasattr(jax, "pmap"), reason="this JAX has no pmap any more")
def test_pmap_maps_it_over_devices() -> None:
    x, y = (np.repeat(a.reshape(4, 8), 2, axis=0) for a in numbers())  # a row for each of eight devices
    rows = jax.pmap(lambda a, b: kl_div(a, b, "sum"))(x, y)
    total = jax.pmap(lambda a, b: jax.lax.psum(kl_div(a, b, "sum"), "rows"), "rows")(x, y)  # type: ignore[no-untyped-call]
    assert rows.shape == total.shape == (8,)
    check_loss(KLDivLoss("sum"), rows[::2].sum())
    check_loss(KLDivLoss("sum"), total[0] / 2)


def test_a_donated_buffer_is_used_for_the_gradient() -> None:
    # Warnings are errors: JAX warns of a donated buffer that it has no use for.
    x, y = arrays(("batch", "class"))
    step = jax.jit(jax.value_and_grad(KLDivLoss("batchmean")), donate_argnums=0)
    value, gradient = step(x, y)
    jax.block_until_ready(gradient)  # type: ignore[no-untyped-call]
    assert x.is_deleted()
    assert not y.is_deleted()
    check_loss(KLDivLoss("batchmean"), value)
    check_gradient(KLDivLoss("batchmean"), gradient, 0)


def test_a_training_loop_is_scanned() -> None:
    _, y = arrays(("batch",))
    y = y / y.sum(-1, keepdims=True)

    def step(logits: Array, _: None) -> tuple[Array, Array]:
        value, gradient = jax.value_and_grad(lambda a: kl_div(jax.nn.log_softmax(a), y, "batchmean"))(logits)
        return logits - 2.0 * gradient, value

    program = compiled(lambda a: jax.lax.scan(step, a, length=50), jnp.zeros_like(y))
    assert collectives(program) == {"all-reduce"}
    logits, losses = program(jnp.zeros_like(y))
    assert np.all(np.diff(losses) < 0)
    assert np.all(np.isfinite(logits))  # some targets are 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_checkpointed_loss_has_the_same_gradient(reduction: Any) -> None:
    loss = KLDivLoss(reduction)
    x, y = arrays(("batch", "class"))
    value, gradients = jax.jit(partial(loss_and_gradients, jax.checkpoint(loss)))(x, y)
    check_loss(loss, value)
    for argnum, gradient in enumerate(gradients):
        check_gradient(loss, gradient, argnum)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_loss_is_exported_once_for_every_shape(reduction: Any) -> None:
    loss = KLDivLoss(reduction, convention="limit")
    shape = export.symbolic_shape("batch, classes")
    abstract = jax.ShapeDtypeStruct(shape, np.float32)  # type: ignore[no-untyped-call]
    exported = export.export(jax.jit(loss))(abstract, abstract)
    stored = exported.serialize(vjp_order=1)
    restored = export.deserialize(stored)
    check_loss(loss, restored.call(*numbers()))  # type: ignore[no-untyped-call]
    gradients = jax.grad(lambda a, b: restored.call(a, b).sum(), (0, 1))(*map(jnp.asarray, numbers()))  # type: ignore[no-untyped-call]
    for argnum, gradient in enumerate(gradients):
        check_gradient(loss, gradient, argnum)
    with pytest.raises(ValueError, match="same shape"):
        export.export(jax.jit(loss))(abstract, jax.ShapeDtypeStruct((3, 4), np.float32))  # type: ignore[no-untyped-call]
