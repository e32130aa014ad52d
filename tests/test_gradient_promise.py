"""The gradient is finite wherever the loss is finite and the target not negative, and no second derivative is NaN.

Checked on every pair of edge values, in every mode of differentiation of JAX and PyTorch. No framework's own loss keeps
this promise.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.autograd import forward_ad

from kldiv_xp import kl_div
from tests.backends import CONVENTIONS

# PyTorch compiles some of its formulas for forward mode with its own deprecated function.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

Numbers = NDArray[Any]
Derivatives = Iterator[tuple[str, int, Numbers]]
"""What it is, the last argument that it is taken by, and the values over the grid."""


def grid(dtype: str) -> tuple[Numbers, Numbers]:
    limits = np.finfo(dtype)
    edges = [
        *(0.0, -0.0, limits.smallest_subnormal, limits.tiny / 4, limits.tiny, 1e-30, 1e-10, 0.3, 1.0, 1e4),
        *(limits.max / 16, np.inf, -np.inf, np.nan, -0.3, -1.0, -1e4),
    ]
    x, y = np.asarray(list(itertools.product(edges, edges)), dtype).T.copy()
    return x, y


def promised(loss: Numbers, y: Numbers, log_target: bool) -> Numbers:
    """Mask of the elements for which the promise is made."""
    result: Numbers = np.isfinite(loss) & (~np.isnan(y) if log_target else y >= 0.0)
    assert 0 < result.sum() < result.size
    return result


def overflows(y: Numbers) -> Numbers:
    """Mask of the targets, all of them subnormal, whose reciprocal is more than their dtype can hold."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        result: Numbers = (y > 0.0) & np.isinf(1.0 / y)
    assert result.any()
    return result


def jax_first(f: Callable[..., Any], x: Numbers, y: Numbers) -> Derivatives:
    for argnum, values in enumerate(jax.vmap(jax.grad(f, (0, 1)))(x, y)):
        yield "reverse", argnum, np.asarray(values)
    for argnum in (0, 1):
        direction = (1.0 - argnum, float(argnum))

        def along(a: Any, b: Any, direction: tuple[float, float] = direction) -> Any:
            tangents = tuple(jax.numpy.full_like(a, d) for d in direction)
            return jax.jvp(f, (a, b), tangents)[1]

        yield "forward", argnum, np.asarray(jax.vmap(along)(x, y))


def jax_second(f: Callable[..., Any], x: Numbers, y: Numbers) -> Derivatives:
    both = (0, 1)
    for name, outer in (("forward over reverse", jax.jacfwd), ("reverse over reverse", jax.jacrev)):
        hessian = jax.vmap(outer(jax.jacrev(f, both), both))(x, y)
        for first, last in itertools.product(both, both):
            yield f"{name}, by {first} and {last}", last, np.asarray(hessian[first][last])


def torch_first(f: Callable[..., Any], x: Numbers, y: Numbers) -> Derivatives:
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, y)]
    loss = f(*tensors)
    for argnum, gradient in enumerate(torch.autograd.grad(loss, tensors, torch.ones_like(loss))):
        yield "backward", argnum, gradient.numpy()
    for argnum, gradient in enumerate(torch.func.vmap(torch.func.grad(f, (0, 1)))(*map(torch.tensor, (x, y)))):
        yield "torch.func.grad", argnum, gradient.numpy()
    for argnum, values in torch_forward(f, x, y):
        yield "forward", argnum, values


def torch_forward(f: Callable[..., Any], x: Numbers, y: Numbers) -> Iterator[tuple[int, Numbers]]:
    for argnum in (0, 1):
        with forward_ad.dual_level():
            tensors = [torch.tensor(a) for a in (x, y)]
            duals = [
                forward_ad.make_dual(a, torch.full_like(a, float(i == argnum)))  # type: ignore[no-untyped-call]
                for i, a in enumerate(tensors)
            ]
            yield argnum, forward_ad.unpack_dual(f(*duals)).tangent.numpy()  # type: ignore[no-untyped-call]


def torch_second(f: Callable[..., Any], x: Numbers, y: Numbers) -> Derivatives:
    both = (0, 1)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, y)]
    loss = f(*tensors)
    ones = torch.ones_like(loss)
    for first, gradient in enumerate(torch.autograd.grad(loss, tensors, ones, create_graph=True)):
        second = torch.autograd.grad(gradient, tensors, ones, retain_graph=True, materialize_grads=True)
        for last, values in enumerate(second):
            yield f"double backward, by {first} and {last}", last, values.numpy()
    for name, outer in (("forward over reverse", torch.func.jacfwd), ("reverse over reverse", torch.func.jacrev)):
        hessian = torch.func.vmap(outer(torch.func.jacrev(f, both), both))(*map(torch.tensor, (x, y)))
        for first, last in itertools.product(both, both):
            yield f"{name}, by {first} and {last}", last, hessian[first][last].numpy()


every_case = pytest.mark.parametrize(
    ("convention", "log_target", "dtype"), list(itertools.product(CONVENTIONS, [False, True], ["float32", "float64"]))
)


@every_case
@pytest.mark.parametrize("jit", [True, False], ids=["jitted", "eager"])
def test_jax_keeps_it(jit: bool, convention: Any, log_target: bool, dtype: str) -> None:
    def f(a: Any, b: Any) -> Any:
        return kl_div(a, b, "sum", log_target, convention=convention)

    with jax.enable_x64(True), jax.disable_jit(not jit):
        x, y = grid(dtype)
        where = promised(np.asarray(jax.vmap(f)(x, y)), y, log_target)
        for name, argnum, values in jax_first(f, x, y):
            assert values.dtype == dtype
            holds(f"{name} by {argnum}", np.isfinite(values), where, x, y)
            at_zero_targets_is_zero(values, argnum, log_target, x, y)
        for name, _, values in jax_second(f, x, y):
            holds(name, ~np.isnan(values), where, x, y)


@every_case
def test_pytorch_keeps_it(convention: Any, log_target: bool, dtype: str) -> None:
    def f(a: Any, b: Any) -> Any:
        return kl_div(a, b, "none", log_target, convention=convention)

    x, y = grid(dtype)
    where = promised(f(torch.tensor(x), torch.tensor(y)).numpy(), y, log_target)
    for name, argnum, values in torch_first(f, x, y):
        assert values.dtype == dtype
        holds(f"{name} by {argnum}", np.isfinite(values), where, x, y)
        at_zero_targets_is_zero(values, argnum, log_target, x, y)
    for name, _, values in torch_second(f, x, y):
        holds(name, ~np.isnan(values), where, x, y)


def holds(name: str, kept: Numbers, where: Numbers, x: Numbers, y: Numbers) -> None:
    broken = [(float(a), float(b)) for a, b in zip(x[where & ~kept], y[where & ~kept], strict=True)]
    assert not broken, f"{name}: the promise is broken at these inputs and targets"


def at_zero_targets_is_zero(values: Numbers, argnum: int, log_target: bool, x: Numbers, y: Numbers) -> None:
    if argnum == 1 and not log_target:
        np.testing.assert_array_equal(values[(y == 0.0) & np.isfinite(x)], 0.0)
