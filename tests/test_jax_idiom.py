"""Under JAX the losses keep to JAX's own habits: static arguments, names of scopes, weak types, strict promotion."""

import copy
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from kldiv_xp import (
    JSDivWithLogitsLoss,
    KLDivLoss,
    KLDivWithLogitsLoss,
    js_div_with_logits,
    kl_div,
    kl_div_with_logits,
)

Array = Any

X = np.asarray([[-0.5, -1.5, -3.0], [-2.0, -0.25, -1.0]], np.float32)
Y = np.asarray([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]], np.float32)
FUNCTIONS: dict[str, Callable[..., Array]] = {
    function.__name__: function for function in (kl_div, kl_div_with_logits, js_div_with_logits)
}
VALUES: dict[str, Callable[..., Array]] = {
    str(loss): loss
    for loss in (
        KLDivLoss("none", convention="torch"),
        KLDivLoss("mean", log_target=True, convention="limit"),
        KLDivWithLogitsLoss(temperature=2.0),
        KLDivWithLogitsLoss("none", temperature=2, axis=0),
        JSDivWithLogitsLoss(0.25, "mean", temperature=0.5),
    )
}
each_function_and_value = pytest.mark.parametrize(
    "loss", [*FUNCTIONS.values(), *VALUES.values()], ids=FUNCTIONS | VALUES
)
each_loss = pytest.mark.parametrize("loss", VALUES.values(), ids=VALUES)


def arrays(dtype: Any = "float32") -> tuple[Array, Array]:
    return jnp.asarray(X, dtype), jnp.asarray(Y, dtype)


def mask_for(loss: Callable[..., Array]) -> Array:
    """A mask that broadcasts: of elements, or of rows, of which there are two, or three along the first axis."""
    if loss is kl_div or isinstance(loss, KLDivLoss):
        return jnp.asarray([True, True, False])
    return jnp.asarray([True])


def gradients(loss: Callable[..., Array], x: Array, y: Array, where: Array = None) -> tuple[Array, Array]:
    by_x, by_y = jax.grad(lambda *given: loss(*given, where=where).sum(), (0, 1))(x, y)
    return by_x, by_y


def same(one: Any, other: Any, rtol: float = 1e-5) -> None:
    """Fail unless results are equal up to some roundings, and of one dtype."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=rtol, atol=rtol)


@each_function_and_value
def test_functions_and_values_are_static_arguments_of_jit(loss: Callable[..., Array]) -> None:
    traced = []

    @partial(jax.jit, static_argnums=0)
    def step(which: Callable[..., Array], x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        traced.append(which)
        return which(x, y), gradients(which, x, y)

    x, y = arrays()
    for which in (loss, copy.deepcopy(loss)):
        same(step(which, x, y), (loss(x, y), gradients(loss, x, y)))
    assert len(traced) == 1  # equal losses are one


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "batchmean"])
def test_options_are_static_arguments_of_jit(name: str, reduction: str) -> None:
    others = {"log_target": True, "convention": "limit"} if name == "kl_div" else {"temperature": 2.0, "axis": 0}
    options = {"reduction": reduction, **others}
    loss, (x, y) = FUNCTIONS[name], arrays()
    same(jax.jit(loss, static_argnames=tuple(options))(x, y, **options), loss(x, y, **options))


@each_function_and_value
@pytest.mark.parametrize("differentiated", [False, True], ids=["value", "gradient"])
def test_the_name_of_a_scope_stands_in_the_path_of_every_operation(
    loss: Callable[..., Array], differentiated: bool
) -> None:
    def scoped(x: Array, y: Array) -> Array:
        with jax.named_scope("distillation"):
            return loss(x, y, where=mask_for(loss)).sum()

    traced = jax.jit(jax.grad(scoped, (0, 1)) if differentiated else scoped).trace(*arrays())
    scopes = [str(equation.source_info.name_stack) for equation in traced.jaxpr.jaxpr.eqns]
    lowered = traced.lower()
    located = re.findall(r'loc\("(jit\([^"]*/[^"]*)"', lowered.as_text(debug_info=True))
    compiled = re.findall(r'op_name="(jit\([^"]*/[^"]*)"', lowered.compile().as_text())
    for names in (scopes, located, compiled):
        assert names
        assert [name for name in names if "distillation" not in name] == []


def weak(shape: tuple[int, ...], number: float) -> Array:
    """An array as JAX makes it of a Python number, which takes the dtype of what it meets."""
    array = jnp.broadcast_to(jnp.asarray(number), shape)
    assert array.weak_type
    return array


@each_loss
@pytest.mark.parametrize("argument", [0, 1])
@pytest.mark.parametrize(
    ("dtype", "x64"),
    [
        ("float16", False),
        pytest.param("bfloat16", False, marks=pytest.mark.long),
        ("weak", False),
        pytest.param("float32", True, marks=pytest.mark.long),
        ("float64", True),
        ("weak", True),
    ],
)
def test_weak_types_are_promoted_as_in_arithmetic(
    loss: Callable[..., Array], argument: int, dtype: str, x64: bool
) -> None:
    with jax.enable_x64(x64):
        other = weak(X.shape, 0.5) if dtype == "weak" else jnp.asarray(X if argument else Y, dtype)
        given = [other, other]
        given[argument] = weak(X.shape, 0.25)
        x, y = given
        expected = (x * y).dtype
        assert expected == (("float64" if x64 else "float32") if dtype == "weak" else dtype)
        assert loss(x, y).dtype == jax.jit(loss)(x, y).dtype == expected
        assert [by.dtype for by in gradients(loss, x, y)] == [x.dtype, y.dtype]


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "batchmean"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_numbers_as_arrays_without_axes_are_promoted_as_in_arithmetic(dtype: str, reduction: Any) -> None:
    number, array = jnp.asarray(-1.0), jnp.asarray(0.5, dtype)
    assert number.weak_type
    for x, y in ((number, array), (array, number + 1.25), (number, number + 1.25)):
        assert kl_div(x, y, reduction).dtype == jax.jit(KLDivLoss(reduction))(x, y).dtype == (x * y).dtype
        np.testing.assert_allclose(float(kl_div(x, y, reduction)), float(y) * (np.log(float(y)) - float(x)), rtol=0.01)


@each_loss
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "dtype", ["float16", *(pytest.param(d, marks=pytest.mark.long) for d in ("bfloat16", "float32")), "float64"]
)
def test_equal_dtypes_pass_strict_promotion(loss: Callable[..., Array], dtype: str, masked: bool) -> None:
    with jax.enable_x64(dtype == "float64"):
        x, y = arrays(dtype)
        where = mask_for(loss) if masked else None
        expected = loss(x, y, where=where), gradients(loss, x, y, where)
        with jax.numpy_dtype_promotion("strict"):
            with pytest.raises(jax.dtypes.TypePromotionError):
                x + y.astype("float32" if dtype != "float32" else "float16")
            same((loss(x, y, where=where), gradients(loss, x, y, where)), expected)
            if dtype == "float16":
                jax.hessian(lambda x, y: loss(x, y, where=where).sum(), (0, 1))(x, y)
                with jax.disable_jit():
                    gradients(loss, x, y, where)


@each_loss
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("argument", [0, 1])
def test_bfloat16_of_numpy_stands_beside_arrays_of_jax(loss: Callable[..., Array], argument: int, dtype: str) -> None:
    x, y = arrays(dtype)
    given = [x, y]
    given[argument] = np.asarray((X, Y)[argument], ml_dtypes.bfloat16)
    converted = [jnp.asarray(array) for array in given]
    value = loss(*given)
    rtol = 0.01 if value.dtype == jnp.bfloat16 else 1e-6
    assert isinstance(value, jax.Array)
    assert value.dtype == jnp.promote_types(dtype, "bfloat16")
    same(value, loss(*converted), rtol=rtol)
    traced = jax.jit(lambda array: loss(*((given[0], array) if argument == 0 else (array, given[1]))))
    same(traced(given[1 - argument]), loss(*converted), rtol=rtol)
    if dtype == "bfloat16":
        with jax.numpy_dtype_promotion("strict"):
            assert loss(*given).dtype == jnp.bfloat16


@each_loss
@pytest.mark.parametrize("masked", [False, True])
def test_without_jit_the_loss_and_its_gradients_are_the_same(loss: Callable[..., Array], masked: bool) -> None:
    x, y = arrays()
    where = mask_for(loss) if masked else None
    expected = loss(x, y, where=where), gradients(loss, x, y, where)
    with jax.disable_jit():
        same((loss(x, y, where=where), gradients(loss, x, y, where)), expected)


POLICIES = {
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "everything": jax.checkpoint_policies.everything_saveable,
}


@each_loss
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_a_checkpoint_keeps_the_gradients(loss: Callable[..., Array], policy: Any, jitted: bool) -> None:
    kept = jax.checkpoint(lambda which, x, y: which(x, y), policy=policy, static_argnums=(0,))
    x, y = arrays()
    of = partial(gradients, lambda x, y, **_: kept(loss, x, y))
    same((jax.jit(of) if jitted else of)(x, y), gradients(loss, x, y))
