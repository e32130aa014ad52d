"""Divergences from logits in PyTorch: autograd in all its modes, torch.func, torch.compile, torch.export, autocast."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.export import Dim, export

from kldiv_xp import (
    js_div_with_logits,
    js_div_with_logits_value_and_grad,
    kl_div_with_logits,
    kl_div_with_logits_value_and_grad,
)
from kldiv_xp.torch import JSDivWithLogitsLoss, KLDivWithLogitsLoss
from tests import exact_from_logits as exact
from tests.backends import REDUCTIONS, numbers
from tests.test_from_logits import BETAS, IMPOSSIBLE, close, each_formula, logits

pytestmark = [  # of what PyTorch does itself, on its way to gradients and in its compiler
    pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

every_beta = pytest.mark.parametrize("beta", BETAS)


def tensors(
    shape: tuple[int, ...] = (3, 5), dtype: torch.dtype = torch.float64, noise: float = 1.0, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = (torch.tensor(z, dtype=dtype, **options) for z in logits(shape, noise))
    return x, y


def every_size(monkeypatch: pytest.MonkeyPatch, few: bool) -> None:
    """Without the way for few elements, small tensors go through blocks."""
    if not few:
        monkeypatch.setattr("kldiv_xp.backends.torch.Torch.few", 0)


@each_formula
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("few", [True, False])
def test_derivatives_of_both_orders_and_modes_are_those_of_finite_differences(
    beta: float, reduction: Any, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_size(monkeypatch, few)
    x, y = tensors(requires_grad=True)
    where = torch.tensor([True, False, True])

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return js_div_with_logits(x, y, beta, reduction, temperature=1.5, where=where)

    assert gradcheck(loss, (x, y), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(loss, (x, y), check_fwd_over_rev=True, check_rev_over_rev=True)
    for given in ((x.detach(), y), (x, y.detach())):
        assert gradcheck(loss, given)


@every_beta
@pytest.mark.parametrize("wanted", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("weight", [1.0, -2.5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradients_are_exact_to_the_rounding_of_their_dtype(
    beta: float, wanted: tuple[bool, bool], weight: float, dtype: torch.dtype
) -> None:
    x, y = (z.requires_grad_(needs) for z, needs in zip(tensors((4, 300), dtype), wanted, strict=True))
    loss = js_div_with_logits(x, y, beta, "sum", temperature=2.0)
    (loss.double() * weight).backward()  # type: ignore[no-untyped-call]
    for tensor, gradient in zip((x, y), exact.gradients(numbers(x), numbers(y), beta, 2.0), strict=True):
        if not tensor.requires_grad:
            assert tensor.grad is None
            continue
        assert tensor.grad is not None
        assert tensor.grad.dtype == dtype
        limits = torch.finfo(dtype)
        # In float64, all roundings of the computation show.
        roundings = 0.501 if dtype.itemsize == 2 else 1.01 if dtype == torch.float32 else 1000
        smallest = limits.smallest_normal * limits.eps if dtype != torch.float64 else 1e-17
        close(tensor.grad, weight * gradient, rtol=roundings * limits.eps, atol=smallest)


def test_a_gradient_of_16_bits_survives_the_scale_of_a_loss() -> None:
    x, y = tensors((4, 300), torch.float16, noise=1e-3)
    x.requires_grad_()
    scaled = kl_div_with_logits(x, y, "mean") * 2.0**14
    scaled.backward()  # type: ignore[no-untyped-call]
    wanted = 2.0**14 * exact.gradients(numbers(x), numbers(y), 0.0, 1.0)[0] / 4
    close(x.grad, wanted, rtol=2.0**-11 * 1.01, atol=2.0**-25)


def test_a_graph_may_be_used_twice_and_gradients_accumulate() -> None:
    x, y = tensors((4, 3000), torch.float32)
    x.requires_grad_()
    loss = kl_div_with_logits(x, y)
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    assert x.grad is not None
    first = x.grad.clone()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(x.grad, 2 * first)


def test_writing_to_an_argument_before_the_backward_pass_is_an_error() -> None:
    x, y = tensors((4, 3000))
    x.requires_grad_()
    loss = kl_div_with_logits(x, y)
    y.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


@every_beta
def test_functional_transformations_compose(beta: float) -> None:
    x, y = tensors((4, 3, 5))
    func = torch.func

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return js_div_with_logits(x, y, beta, "sum", temperature=1.5)

    each = torch.stack([loss(a, b) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(func.vmap(loss)(x, y), each)
    torch.testing.assert_close(func.vmap(loss, (2, 2))(x.movedim(0, 2), y.movedim(0, 2)), each)
    by_x, by_y = exact.gradients(x.numpy(), y.numpy(), beta, 1.5)
    for argnum, wanted in enumerate((by_x, by_y)):
        close(func.vmap(func.grad(loss, argnum))(x, y), wanted, rtol=1e-9)
        close(func.jacfwd(loss, argnum)(x, y), wanted, rtol=1e-9)
    first = x[0], y[0]
    forward = func.jacfwd(func.jacrev(loss))(*first)
    torch.testing.assert_close(forward, func.hessian(loss)(*first))
    torch.testing.assert_close(forward, func.jacrev(func.jacrev(loss))(*first))


@every_beta
@pytest.mark.parametrize("case", [name for name in IMPOSSIBLE if name not in ("all", "all of the student")])
@pytest.mark.parametrize("few", [True, False])
def test_no_derivative_is_nan_wherever_the_loss_is_finite(
    beta: float, case: str, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_size(monkeypatch, few)
    x, y = (torch.tensor([row], dtype=torch.float64, requires_grad=True) for row in IMPOSSIBLE[case])
    loss = js_div_with_logits(x, y, beta)
    if not torch.isfinite(loss):
        pytest.skip("the loss is not finite")
    with torch.autograd.set_detect_anomaly(True):
        gradients = torch.autograd.grad(loss, (x, y), create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in gradients), (x, y))  # type: ignore[arg-type]
    assert all(torch.isfinite(g).all() for g in (*gradients, *second))


class TestCompile:
    @pytest.fixture(autouse=True)
    def _afresh(self) -> Iterator[None]:
        torch.compiler.reset()
        yield
        torch.compiler.reset()

    @pytest.mark.parametrize("beta", [0.0, 0.3])
    @pytest.mark.parametrize("dynamic", [pytest.param(False, marks=pytest.mark.long), True])
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_the_loss_is_one_graph_with_the_same_result_and_gradients(
        self, beta: float, dynamic: bool, reduction: Any
    ) -> None:
        loss = JSDivWithLogitsLoss(beta, reduction, temperature=1.5)
        compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        where = torch.tensor([True, False, True])
        for noise in (1.0, 1e-2):
            results = []
            for function in (loss, compiled):
                x, y = tensors(noise=noise, requires_grad=True)
                value = function(x, y, where)
                value.sum().backward()
                results.append((value.detach(), x.grad, y.grad))
            torch.testing.assert_close(*results, rtol=1e-9, atol=1e-13)

    @pytest.mark.parametrize("case", [name for name in IMPOSSIBLE if name.startswith(("in", "but", "almost"))])
    @each_formula
    def test_impossible_classes_are_those_without_compiling(self, case: str, beta: float) -> None:
        loss = JSDivWithLogitsLoss(beta)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        results = []
        for function in (loss, compiled):
            x, y = (torch.tensor([row], dtype=torch.float64, requires_grad=True) for row in IMPOSSIBLE[case])
            value = function(x, y)
            value.backward()
            # Where the loss is infinite, one gradient is finite all the same.
            gradients = (x.grad, y.grad) if torch.isfinite(value) else (y.grad if beta else x.grad,)
            results.append((value.detach(), *gradients))
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-13, equal_nan=True)

    def test_the_default_compiler_gives_the_same_loss_and_gradient(self) -> None:
        loss = KLDivWithLogitsLoss(temperature=2.0)
        x, y = tensors((4, 300), torch.float32)
        x.requires_grad_()
        value = torch.compile(loss, fullgraph=True)(x, y)
        value.backward()
        close(value, exact.rows(numbers(x), numbers(y), 0.0, 2.0).mean(), rtol=1e-5)
        close(x.grad, exact.gradients(numbers(x), numbers(y), 0.0, 2.0)[0] / 4, rtol=1e-4, atol=1e-8)

    @pytest.mark.parametrize("strict", [False, True])
    def test_a_module_is_exported_once_for_batches_of_every_size(self, strict: bool) -> None:
        loss, batch = KLDivWithLogitsLoss("mean", temperature=2.0), Dim("batch")
        program = export(loss, tensors((4, 5)), dynamic_shapes=({0: batch}, {0: batch}, None)[:2], strict=strict)
        for rows in (2, 4, 9):
            x, y = tensors((rows, 5))
            close(program.module()(x, y), exact.rows(x.numpy(), y.numpy(), 0.0, 2.0).mean())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_gives_float32_as_for_the_losses_of_pytorch(dtype: torch.dtype) -> None:
    x, y = tensors(dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        loss = kl_div_with_logits(x, y)
    assert loss.dtype == torch.float32
    close(loss, exact.rows(numbers(x), numbers(y), 0.0, 1.0).mean(), rtol=1e-6)


def test_no_value_is_looked_at_on_the_meta_device() -> None:
    x = torch.zeros(3, 5, device="meta", requires_grad=True)
    loss = kl_div_with_logits(x, x.detach())
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.shape == ()
    assert x.grad is not None
    assert x.grad.shape == x.shape


def test_a_subclass_of_a_tensor_takes_the_plain_formulas() -> None:
    class Mine(torch.Tensor):
        """Tensor of another class."""

    x, y = (z.as_subclass(Mine) for z in tensors())
    loss = kl_div_with_logits(x, y)
    assert type(loss) is Mine
    close(loss.as_subclass(torch.Tensor), exact.rows(numbers(x), numbers(y), 0.0, 1.0).mean())


def test_an_argument_given_twice_has_a_gradient_of_zero() -> None:
    x, _ = tensors((4, 50))
    x.requires_grad_()
    kl_div_with_logits(x, x).backward()  # type: ignore[no-untyped-call]
    close(x.grad, np.zeros((4, 50)), atol=1e-15)


def test_value_and_grad_of_tensors_that_require_gradients_can_be_differentiated() -> None:
    x, y = tensors(requires_grad=True)
    result: Any = js_div_with_logits_value_and_grad(x, y, 0.3, "sum")
    loss, gradient = result
    (by_x,) = torch.autograd.grad(loss, x, create_graph=True)
    torch.testing.assert_close(by_x, gradient)
    torch.testing.assert_close(*(torch.autograd.grad((g**2).sum(), x, retain_graph=True) for g in (by_x, gradient)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_gradient_is_in_the_memory_order_of_its_argument(axis: int) -> None:
    x, y = torch.randn(2, 3, 4, 5)
    gradient = kl_div_with_logits_value_and_grad(x, y, axis=axis)[1]
    assert gradient.stride() == x.stride()


@pytest.mark.parametrize(("likely", "dtype"), [(12.0, torch.float32), (20.0, torch.float32), (40.0, torch.float64)])
def test_second_derivatives_are_exact_for_a_class_that_the_student_finds_improbable(
    likely: float, dtype: torch.dtype
) -> None:
    x, y = torch.tensor([0.0, 0.5, likely], dtype=dtype), torch.tensor([likely, 0.3, 0.0], dtype=dtype)
    found = torch.autograd.functional.hessian(lambda x: kl_div_with_logits(x, y), x)  # type: ignore[no-untyped-call]
    q = torch.softmax(x.double(), 0)
    wanted = torch.diag(q) - q.outer(q)
    torch.testing.assert_close(found[:2, :2].double(), wanted[:2, :2], rtol=2e-5, atol=0.0)
