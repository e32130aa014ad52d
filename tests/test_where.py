"""``where``: an element that it leaves out counts for nothing, whatever it holds, on every library and path."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from kldiv_xp import KLDivLoss, kl_div, kl_div_value_and_grad
from kldiv_xp.torch import KLDivLoss as Module
from tests.backends import CONVENTIONS, REDUCTIONS, Exact, array, numbers

every_choice = pytest.mark.parametrize(
    ("reduction", "log_target", "convention"), list(itertools.product(REDUCTIONS, [False, True], CONVENTIONS))
)
MASKS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Any]] = {
    "elements": lambda rng, shape: rng.random(shape) < 0.6,
    "rows": lambda _, shape: np.arange(shape[0])[:, None] % 3 > 0,
    "columns": lambda _, shape: np.arange(shape[1]) % 3 > 0,
    "all": lambda _, __: np.asarray(True),
    "none": lambda _, shape: np.zeros(shape, bool),
}
every_mask = pytest.mark.parametrize("mask", MASKS)


def problem(mask: str, log_target: bool, shape: tuple[int, int] = (5, 7)) -> tuple[Exact, Exact, Any]:
    """Input and target, with NaN and infinity where the mask is false."""
    rng = np.random.default_rng(5)
    x, y = np.log(rng.dirichlet(np.ones(shape[1]), shape[0])), rng.dirichlet(np.ones(shape[1]), shape[0])
    y = np.log(y) if log_target else y
    where = MASKS[mask](rng, shape)
    out = ~np.broadcast_to(where, shape)
    x[out], y[out] = np.resize([np.nan, np.inf, -np.inf], out.sum()), np.resize([np.nan, -1.0, np.inf, 0.0], out.sum())
    return x, y, where


def expected(
    x: Exact, y: Exact, where: Any, reduction: Any, log_target: bool, convention: Any
) -> tuple[Exact, Exact, Exact]:
    """Loss and gradients of the elements that count, computed without a mask and put in their places."""
    chosen = np.broadcast_to(where, x.shape)
    cotangent = np.linspace(-1.0, 2.0, x.size).reshape(x.shape)
    result: Any = kl_div_value_and_grad(
        x[chosen],
        y[chosen],
        "none",
        log_target,
        convention=convention,
        argnums=(0, 1),
        cotangent=cotangent[chosen] if reduction == "none" else np.ones(int(chosen.sum())),
    )
    loss, by_x, by_y = np.zeros((3, *x.shape))
    loss[chosen], (by_x[chosen], by_y[chosen]) = result
    with np.errstate(all="ignore"):
        count = {"mean": np.float64(chosen.sum()), "batchmean": np.float64(len(x))}.get(reduction, np.float64(1))
        value = loss if reduction == "none" else loss.sum() / count
    divisor = max(count, 1.0)
    return value, by_x / divisor, by_y / divisor


def close(actual: Any, wanted: Any) -> None:
    np.testing.assert_allclose(numbers(actual), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("mask", "reduction", "log_target", "convention"),
    [
        *itertools.product(["elements"], REDUCTIONS, [False, True], CONVENTIONS),
        *itertools.product(["rows", "columns", "all", "none"], REDUCTIONS, [False], ["limit"]),
    ],
)
def test_the_loss_and_gradients_are_those_of_the_elements_that_count(
    xp: Any, mask: str, reduction: Any, log_target: bool, convention: Any
) -> None:
    with jax.enable_x64(True):
        x, y, where = problem(mask, log_target)
        value, *gradients = expected(x, y, where, reduction, log_target, convention)
        a, b, w = array(xp, x), array(xp, y), xp.asarray(where)
        close(kl_div(a, b, reduction, log_target, where=w, convention=convention), value)
        close(KLDivLoss(reduction, log_target, convention=convention)(a, b, w), value)
        cotangent = array(xp, np.linspace(-1.0, 2.0, x.size).reshape(x.shape)) if reduction == "none" else None
        both: Any = kl_div_value_and_grad(
            a, b, reduction, log_target, where=w, convention=convention, argnums=(0, 1), cotangent=cotangent
        )
        close(both[0], value)
        for gradient, wanted in zip(both[1], gradients, strict=True):
            close(gradient, wanted)


@every_mask
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_blocks_of_many_elements_take_their_part_of_the_mask(library: str, reduction: Any, mask: str) -> None:
    xp: Any = {"numpy": np, "torch": torch}[library]
    x, y, where = problem(mask, log_target=False, shape=(700, 1000))
    value, *gradients = expected(x, y, where, reduction, False, "oneflow")
    a, b, w = xp.asarray(x), xp.asarray(y), xp.asarray(where)
    close(kl_div(a, b, reduction, where=w), value)
    cotangent = xp.asarray(np.linspace(-1.0, 2.0, x.size).reshape(x.shape)) if reduction == "none" else None
    both: Any = kl_div_value_and_grad(a, b, reduction, where=w, argnums=(0, 1), cotangent=cotangent)
    for gradient, wanted in zip(both[1], gradients, strict=True):
        close(gradient, wanted)


class TestTorch:
    @every_choice
    @pytest.mark.parametrize("size", [5, 90], ids=["few", "many"])
    @pytest.mark.parametrize("create_graph", [False, True])
    def test_autograd_gives_the_closed_form(
        self, create_graph: bool, size: int, reduction: Any, log_target: bool, convention: Any
    ) -> None:
        x, y, where = problem("elements", log_target, (size, size))
        _, *wanted = expected(x, y, where, reduction, log_target, convention)
        a, b = (torch.tensor(values, requires_grad=True) for values in (x, y))
        loss = Module(reduction=reduction, log_target=log_target, convention=convention)(a, b, torch.tensor(where))
        cotangent = torch.linspace(-1.0, 2.0, x.size, dtype=torch.float64).reshape(x.shape)
        weight = cotangent if reduction == "none" else None
        gradients = torch.autograd.grad(loss, (a, b), weight, create_graph=create_graph)
        for gradient, of in zip(gradients, wanted, strict=True):
            close(gradient.detach(), of)

    def test_a_compiled_loss_is_one_graph(self) -> None:
        x, y, where = (torch.tensor(values) for values in problem("rows", log_target=False))
        compiled = torch.compile(Module(reduction="mean"), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, y, where), Module(reduction="mean")(x, y, where))

    def test_a_batch_of_masks_is_mapped(self) -> None:
        x, y, where = (torch.tensor(values) for values in problem("elements", log_target=False))
        rows = torch.func.vmap(Module(reduction="sum"))(x, y, where)
        torch.testing.assert_close(
            rows, torch.stack([Module(reduction="sum")(*row) for row in zip(x, y, where, strict=True)])
        )


class TestJax:
    @every_choice
    @pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jitted"])
    def test_autodiff_gives_the_closed_form(self, wrap: Any, reduction: Any, log_target: bool, convention: Any) -> None:
        with jax.enable_x64(True):
            x, y, where = problem("elements", log_target)
            _, *wanted = expected(x, y, where, reduction, log_target, convention)
            cotangent = jnp.linspace(-1.0, 2.0, x.size).reshape(x.shape) if reduction == "none" else 1.0

            def loss(x: Any, y: Any, where: Any) -> Any:
                value = kl_div(x, y, reduction, log_target, where=where, convention=convention)
                return (value * cotangent).sum()

            gradients = wrap(jax.grad(loss, (0, 1)))(jnp.asarray(x), jnp.asarray(y), jnp.asarray(where))
            for gradient, of in zip(gradients, wanted, strict=True):
                close(gradient, of)

    def test_a_numpy_mask_is_taken(self) -> None:
        x, y, where = problem("rows", log_target=False)
        with jax.enable_x64(True):
            close(kl_div(jnp.asarray(x), jnp.asarray(y), where=where), kl_div(x, y, where=where))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_other_libraries_take_a_mask(reduction: Any) -> None:
    x, y, where = problem("rows", log_target=False)
    wanted, *_ = expected(x, y, where, reduction, False, "oneflow")
    ndx = pytest.importorskip("ndonnx")
    close(kl_div(ndx.asarray(x), ndx.asarray(y), reduction, where=ndx.asarray(where)).unwrap_numpy(), wanted)
    cubed = pytest.importorskip("cubed.array_api")
    a, b, w = (cubed.asarray(values, chunks=3) for values in (x, y, where))
    lazy = kl_div(a, b, reduction, where=w)
    close(lazy.compute(), wanted)
    autograd = pytest.importorskip("autograd")
    _, gradient, _ = expected(x, y, where, reduction, False, "oneflow")
    if reduction != "none":
        close(autograd.grad(lambda x: kl_div(x, y, reduction, where=where))(x), gradient)
    mx = pytest.importorskip("mlx.core")
    with mx.stream(mx.cpu):
        a, b, w = (mx.array(values) for values in (x.astype(np.float32), y.astype(np.float32), where))
        np.testing.assert_allclose(np.asarray(kl_div(a, b, reduction, where=w)), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", [kl_div, kl_div_value_and_grad], ids=lambda form: form.__name__)
@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (np.ones((2, 3), int), TypeError, "where must be a boolean array, got int64"),
        (np.ones(2, bool), ValueError, r"where must broadcast against the input's shape \(2, 3\), got \(2,\)"),
        (np.ones((1, 2, 3), bool), ValueError, r"got \(1, 2, 3\)"),
        (np.ones((2, 2), bool), ValueError, r"got \(2, 2\)"),
        ([True], TypeError, "where must be an array"),
        (True, TypeError, "where must be an array"),
        (torch.ones(3, dtype=torch.bool), TypeError, "input, target and where must come from one array library"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(form: Any, where: Any, error: type[Exception], message: str) -> None:
    for like in (np.asarray, torch.tensor) if isinstance(where, np.ndarray) else (np.asarray,):
        given: Any = like(where) if isinstance(where, np.ndarray) else where
        with pytest.raises(error, match=message.replace("int64", r"(torch\.)?int64")):
            form(like(np.zeros((2, 3))), like(np.ones((2, 3))), where=given)
