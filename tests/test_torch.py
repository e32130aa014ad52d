"""PyTorch: autograd in all its modes, torch.func, torch.compile, autocast, and no look at a value."""

import itertools
import shutil
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad, hessian, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from kldiv_xp import KLDivLoss, kl_div, kl_div_value_and_grad
from kldiv_xp.backends.torch import Torch
from tests import exact
from tests.backends import CONVENTIONS, REDUCTIONS, numbers

EVERY_LOSS = [KLDivLoss(r, t, convention=c) for r, t, c in itertools.product(REDUCTIONS, [False, True], CONVENTIONS)]

every_loss = pytest.mark.parametrize("loss", EVERY_LOSS, ids=str)

# PyTorch compiles some of its formulas for forward mode with its own deprecated function.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def tensors(log_target: bool, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs, and targets that are no zeros."""
    x, y = torch.asarray(np.random.default_rng(2).normal(-1.0, 1.0, (2, 3, 4)), dtype=dtype).unbind()
    return x, y if log_target else y.exp()


def check_loss(loss: KLDivLoss, value: torch.Tensor, x: torch.Tensor, y: torch.Tensor, dtype: str) -> None:
    a, b = numbers(x), numbers(y)
    exactly = exact.losses(a, b, log_target=loss.log_target, convention=loss.convention)
    within = exact.tolerances(a, b, torch, dtype, log_target=loss.log_target)
    exact.assert_within(
        value, exact.reduced(exactly, a.shape, loss.reduction), exact.total(within, a.shape, loss.reduction), dtype
    )


@every_loss
def test_first_and_second_derivatives_are_those_of_finite_differences(loss: KLDivLoss) -> None:
    x, y = (a.requires_grad_() for a in tensors(loss.log_target))
    assert torch.autograd.gradcheck(loss, (x, y), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(loss, (x, y))


@every_loss
def test_a_gradient_is_computed_for_what_requires_it_and_nothing_else(loss: KLDivLoss) -> None:
    for wanted in itertools.product([False, True], repeat=2):
        x, y = tensors(loss.log_target)
        x.requires_grad_(wanted[0])
        y.requires_grad_(wanted[1])
        value = loss(x, y)
        assert value.requires_grad is any(wanted)
        if any(wanted):
            value.sum().backward()  # type: ignore[no-untyped-call]
        assert [a.grad is not None for a in (x, y)] == list(wanted)
    with torch.no_grad():
        assert not loss(x, y).requires_grad
    with torch.inference_mode():
        assert loss(x, y).is_inference()


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16, torch.float32])
def test_a_gradient_has_the_dtype_of_its_argument(narrow: torch.dtype) -> None:
    x, y = tensors(False)
    x = x.to(narrow).requires_grad_()
    value = kl_div(x, y.requires_grad_())
    assert value.dtype == torch.float64
    value.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert y.grad is not None
    assert (x.grad.dtype, y.grad.dtype) == (narrow, torch.float64)


@every_loss
def test_functional_transformations_compose(loss: KLDivLoss) -> None:
    x, y = tensors(loss.log_target)

    def total(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return loss(a, b).sum()

    ones = torch.ones_like(x) if loss.reduction == "none" else None
    _, closed = kl_div_value_and_grad(
        x, y, loss.reduction, loss.log_target, convention=loss.convention, argnums=(0, 1), cotangent=ones
    )
    by_x, by_y = grad(total, argnums=(0, 1))(x, y)
    for argnum, (one, other) in enumerate(zip((by_x, by_y), closed, strict=True)):
        exact.gradients_agree(one, other, x, y, argnum, loss.log_target, "float64")
    result: Any = jvp(total, (x, y), (torch.ones_like(x), torch.zeros_like(y)))
    value, tangent = result
    assert torch.equal(value, total(x, y))
    torch.testing.assert_close(tangent, by_x.sum())
    for row, a, b in zip(vmap(loss)(x, y), x, y, strict=True):
        check_loss(loss, row, a, b, "float64")
    per_sample = vmap(grad(total))(x, y)
    assert per_sample.shape == x.shape
    for row, a, b in zip(per_sample, x, y, strict=True):
        exact.gradients_agree(row, grad(total)(a, b), a, b, 0, loss.log_target, "float64")
    second = hessian(total, argnums=(0, 1))(x, y)
    assert second[0][1].shape == (*x.shape, *y.shape)
    assert not second[0][0].any()  # linear in the input


class TestCompile:
    def test_a_program_is_compiled_once_whatever_else_is_computed(self) -> None:
        x, y = torch.zeros(3, 4), torch.full((3, 4), 0.25)
        step = torch.compile(lambda x, y: kl_div(x, y, "sum") * 2, fullgraph=True, backend="eager")
        step(x, y)
        with patch.object(torch._dynamo.config, "error_on_recompile", True):
            for other in (np.zeros((2, 3)), torch.nn.Parameter(torch.zeros(2, 3))):
                kl_div(other, other)
                step(x, y)

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_the_closed_form_is_one_graph(self, reduction: Any) -> None:
        x, y = torch.zeros(3, 4), torch.full((3, 4), 0.25)
        cotangent = torch.ones(3, 4) if reduction == "none" else None

        def both(x: torch.Tensor, y: torch.Tensor) -> Any:
            return kl_div_value_and_grad(x, y, reduction, argnums=(0, 1), cotangent=cotangent)

        torch.testing.assert_close(torch.compile(both, fullgraph=True, backend="eager")(x, y), both(x, y))

    # Warnings are errors, so these also check that the compiler has no doubts about what it finds in the library.

    @pytest.fixture(autouse=True)
    def _afresh(self) -> Any:
        torch.compiler.reset()
        yield
        torch.compiler.reset()

    @pytest.mark.parametrize(
        "loss", [KLDivLoss(), KLDivLoss("none", convention="torch"), KLDivLoss("batchmean", True, convention="limit")]
    )
    @pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
    def test_the_whole_loss_is_one_graph_with_the_same_result(self, dynamic: bool, loss: KLDivLoss) -> None:
        compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for shape in ((3, 4), (5, 6)) if dynamic else ((3, 4),):
            x, y = torch.asarray(np.random.default_rng(2).normal(-1.0, 1.0, (2, *shape)), dtype=torch.float32).unbind()
            y = y if loss.log_target else y.exp()
            results = []
            for f in (loss, compiled):
                a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
                value = f(a, b)
                check_loss(loss, value, x, y, "float32")
                value.sum().backward()  # type: ignore[no-untyped-call]
                results.append((a.grad, b.grad))
            for argnum, (one, other) in enumerate(zip(*results, strict=True)):
                exact.gradients_agree(one, other, x, y, argnum, loss.log_target, "float32")

    @pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
    # What Inductor imports at its first use calls this deprecated function of PyTorch's own.
    @pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
    def test_the_default_compiler_gives_the_same_loss_and_gradient(self) -> None:
        loss = KLDivLoss("batchmean")
        x, y = (a[:2] for a in tensors(False, torch.float32))  # two rows, so that dividing by them is exact
        compiled = torch.compile(loss, fullgraph=True)
        a = x.clone().requires_grad_()
        value = compiled(a, y)
        check_loss(loss, value, x, y, "float32")
        value.backward()  # type: ignore[no-untyped-call]
        assert a.grad is not None
        _, closed = kl_div_value_and_grad(x, y, "batchmean")
        np.testing.assert_array_equal(numbers(a.grad), numbers(closed))

    @pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning")
    @pytest.mark.parametrize("given", [(None, "target"), ("input", None), ([0.0], "target"), ("input", [0.0])])
    def test_what_is_no_tensor_is_refused_as_without_compiling(self, given: tuple[Any, Any]) -> None:
        arguments: list[Any] = [torch.ones(3) if isinstance(x, str) else x for x in given]
        with pytest.raises(TypeError, match="must be an array"):
            torch.compile(kl_div, backend="eager")(*arguments)

    def test_a_change_of_shape_does_not_compile_again_with_dynamic_shapes(self) -> None:
        graphs = []

        def count(graph: Any, _: Any) -> Any:
            graphs.append(graph)
            return graph

        compiled = torch.compile(KLDivLoss("batchmean"), fullgraph=True, dynamic=True, backend=count)
        for n in range(3, 8):
            compiled(torch.zeros(n, n + 1), torch.ones(n, n + 1))
        assert len(graphs) == 1


class TestAutocast:
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("dtypes", list(itertools.product([torch.bfloat16, torch.float32], repeat=2)))
    def test_the_result_is_float32_as_that_of_pytorch(self, dtypes: Any, reduction: Any) -> None:
        x, y = (a.to(dtype) for a, dtype in zip(tensors(False), dtypes, strict=True))
        with torch.autocast("cpu", torch.bfloat16):
            loss = kl_div(x, y, reduction)
            assert loss.dtype == torch.float32
            assert torch.nn.functional.kl_div(x, y, reduction="none").dtype == torch.float32
        check_loss(KLDivLoss(reduction), loss, x, y, "float32")
        assert kl_div(x, y, reduction).dtype == torch.promote_types(*dtypes)

    def test_float64_stays_float64(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            assert kl_div(*tensors(False)).dtype == torch.float64

    def test_the_gradient_keeps_the_dtype_of_the_input(self) -> None:
        x, y = tensors(False, torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            kl_div(x.requires_grad_(), y, "sum").backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert x.grad.dtype == torch.bfloat16
        assert torch.equal(x.grad, -y)


@every_loss
def test_the_arguments_are_not_written_to(loss: KLDivLoss) -> None:
    x, y = tensors(loss.log_target)
    before = x.clone(), y.clone(), x._version, y._version
    loss(x, y)
    ones = torch.ones_like(x) if loss.reduction == "none" else None
    kl_div_value_and_grad(
        x, y, loss.reduction, loss.log_target, convention=loss.convention, argnums=(0, 1), cotangent=ones
    )
    assert (x._version, y._version) == before[2:]
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@every_loss
def test_no_value_is_looked_at_on_fake_tensors(loss: KLDivLoss) -> None:
    with FakeTensorMode():
        x, y = torch.empty(3, 4, requires_grad=True), torch.empty(3, 4, requires_grad=True)
        value = loss(x, y)
        assert value.shape == ((3, 4) if loss.reduction == "none" else ())
        value.sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert x.grad.shape == (3, 4)


@every_loss
def test_no_value_is_looked_at_on_the_meta_device(loss: KLDivLoss) -> None:
    x = torch.empty(3, 4, device="meta")
    value = loss(x, x)
    assert value.device.type == "meta"
    assert value.shape == (x.shape if loss.reduction == "none" else ())


def eagerly(loss: KLDivLoss, *tensors: torch.Tensor) -> torch.Tensor:
    return loss(*tensors)


def by_the_plain_formulas(loss: KLDivLoss, *tensors: torch.Tensor) -> torch.Tensor:
    with patch.object(Torch, "is_ordinary", lambda *_: False):
        return loss(*tensors)


def in_a_dispatch_mode(loss: KLDivLoss, *tensors: torch.Tensor) -> torch.Tensor:
    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            return operation(*args, **(kwargs or {}))

    with Watch():  # type: ignore[no-untyped-call]
        return loss(*tensors)


class TestWritingInPlace:
    @every_loss
    @pytest.mark.parametrize("zeros", [False, True], ids=["no zeros", "zeros"])
    @pytest.mark.parametrize("size", [64, 5000, 200_000])
    @pytest.mark.parametrize("call", [eagerly, by_the_plain_formulas, in_a_dispatch_mode])
    def test_the_input_may_be_written_to_and_the_target_not(
        self, call: Any, size: int, zeros: bool, loss: KLDivLoss
    ) -> None:
        x, y = torch.rand((2, size // 8, 8), generator=torch.Generator().manual_seed(1))
        if zeros:
            y[::2] = 0.0
        p = y.clone()
        y = y.log() if loss.log_target else y
        leaf = x.requires_grad_()
        hidden = leaf - 3.0
        value = call(loss, hidden, y).sum()
        hidden.mul_(2.0)
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
        count = {"mean": size, "batchmean": size // 8}.get(loss.reduction, 1)
        torch.testing.assert_close(gradient, -p / count)
        y.mul_(2.0)
        try:
            (gradient,) = torch.autograd.grad(value, leaf)
        except RuntimeError as e:
            assert "modified by an inplace operation" in str(e)  # noqa: PT017
        else:  # few elements may keep the exponential of a log target
            assert loss.log_target
            torch.testing.assert_close(gradient, -p / count)

    @every_loss
    def test_what_the_derivative_by_the_target_needs_may_not(self, loss: KLDivLoss) -> None:
        x, y = tensors(loss.log_target)
        hidden = x - 3.0
        value = loss(hidden, y.requires_grad_()).sum()
        hidden.mul_(2.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.backward()  # type: ignore[no-untyped-call]

    @every_loss
    @pytest.mark.parametrize("mapped", [False, True])
    def test_functional_transformations_let_the_input_be_written_to(self, mapped: bool, loss: KLDivLoss) -> None:
        x, y = tensors(loss.log_target)
        hidden = x.clone()
        value, pull_back, *_ = vjp(lambda a: vmap(loss)(a, y) if mapped else loss(a, y), hidden)
        hidden.mul_(2.0)
        (gradient,) = pull_back(torch.ones_like(value))
        p = y.exp() if loss.log_target else y
        row = x[0] if mapped else x
        count = {"mean": row.numel(), "batchmean": len(row)}.get(loss.reduction, 1)
        torch.testing.assert_close(gradient, -p / count)


@every_loss
@pytest.mark.parametrize("in_dims", [(0, 0), (1, 0), (0, 2), (0, None), (None, 1), (-1, 0)], ids=str)
def test_batches_may_lie_along_any_axis(in_dims: Any, loss: KLDivLoss) -> None:
    rows = tensors(loss.log_target)
    size = 3  # of the batch, and of each axis of a row
    x, y = (a.flatten()[: size**2].reshape(size, size) for a in rows)
    x, y = (torch.stack([a, 2 * a, 3 * a]) for a in (x, y))
    given = [a[0] if dim is None else a.movedim(0, dim) for a, dim in zip((x, y), in_dims, strict=True)]
    of_rows = [
        (x[0] if in_dims[0] is None else a, y[0] if in_dims[1] is None else b) for a, b in zip(x, y, strict=True)
    ]
    for f in (loss, grad(lambda a, b: loss(a, b).sum()), grad(lambda a, b: loss(a, b).sum(), argnums=1)):
        torch.testing.assert_close(vmap(f, in_dims)(*given), torch.stack([f(*row) for row in of_rows]))
    # Of a batch, the gradient by what all of its rows share is the sum of theirs.
    both = grad(lambda a, b: vmap(loss, in_dims)(a, b).sum(), argnums=(0, 1))(*given)
    for argnum, (gradient, dim) in enumerate(zip(both, in_dims, strict=True)):
        of_each = torch.stack([grad(lambda a, b: loss(a, b).sum(), argnums=argnum)(*row) for row in of_rows])
        torch.testing.assert_close(gradient, of_each.sum(0) if dim is None else of_each.movedim(0, dim))


def test_a_parameter_is_a_tensor() -> None:
    x, y = torch.nn.Parameter(torch.zeros(3)), torch.ones(3)
    kl_div(x, y, "sum").backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, -y)


def edge_grid(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    limits = torch.finfo(dtype)
    edges = [
        *(0.0, -0.0, limits.smallest_normal / 8, limits.tiny, 1e-30, 1e-10, 0.3, 1.0, 7.0, 1e4, limits.max),
        *(np.inf, -np.inf, np.nan, -0.3, -1.0, -1e4, -limits.max),
    ]
    x, y = torch.asarray(list(itertools.product(edges, edges)), dtype=dtype).T.contiguous()
    return x, y


def random(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(9)
    x, y = rng.normal(-3.0, 3.0, (2, 500, 400))
    return torch.asarray(x, dtype=dtype), torch.asarray(np.exp(y) - 0.05, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("make", [edge_grid, random])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_convention_of_pytorch_is_that_of_pytorch_to_the_bit(
    transposed: bool, make: Any, log_target: bool, dtype: torch.dtype
) -> None:
    x, y = make(dtype)
    if transposed:
        x, y = (a.reshape(a.shape[0] if a.ndim > 1 else 18, -1).T for a in (x, y))
        assert not x.is_contiguous()
    loss = kl_div(x, y, "none", log_target, convention="torch")
    theirs = torch.nn.functional.kl_div(x, y, reduction="none", log_target=log_target)
    assert loss.dtype == theirs.dtype
    nan = loss.isnan()
    assert torch.equal(nan, theirs.isnan())
    bits = {torch.float32: torch.int32, torch.float64: torch.int64}[dtype]  # bits, for the sign of zero
    assert torch.equal(loss[~nan].view(bits), theirs[~nan].view(bits))
