"""PyTorch: the loss exported, compiled ahead of time, and as a pure function."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.export import Dim, export, load, save
from torch.func import functional_call, jacrev, vjp

from kldiv_xp import kl_div, kl_div_value_and_grad
from kldiv_xp.torch import KLDivLoss
from tests import exact
from tests.backends import CONVENTIONS, REDUCTIONS, numbers

every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def tensors(rows: int, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs, and targets with zeros among them."""
    rng = np.random.default_rng(rows)
    x, y = rng.normal(-1.0, 1.0, (2, rows, 6)).astype(np.float32)
    y = np.where(rng.random(y.shape) < 0.2, np.float32(0), np.exp(y))
    return torch.asarray(x, **options), torch.asarray(y, **options)


def check_loss(value: torch.Tensor, reduction: Any, x: torch.Tensor, y: torch.Tensor) -> None:
    a, b = numbers(x), numbers(y)
    within = exact.total(exact.tolerances(a, b, torch, "float32"), a.shape, reduction)
    exact.assert_within(value, exact.reduced(exact.losses(a, b), a.shape, reduction), within, "float32")


def saved_and_loaded(program: Any) -> Any:
    file = io.BytesIO()
    save(program, file)
    file.seek(0)
    return load(file).module()


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
@every_reduction
def test_a_module_is_exported_once_for_batches_of_every_size(reduction: Any, strict: bool) -> None:
    loss, batch = KLDivLoss(reduction=reduction), Dim("batch")
    program = export(loss, tensors(4), dynamic_shapes=({0: batch}, {0: batch}), strict=strict)
    restored = saved_and_loaded(program)
    for rows in (2, 4, 9):
        x, y = tensors(rows)
        check_loss(restored(x, y), reduction, x, y)


@pytest.mark.parametrize("convention", CONVENTIONS)
@every_reduction
def test_an_exported_program_has_the_gradients_of_the_loss(reduction: Any, convention: Any) -> None:
    loss, (x, y) = KLDivLoss(reduction=reduction, convention=convention), tensors(4)
    results = []
    for function in (loss, saved_and_loaded(export(loss, (x, y)))):
        arguments = [a.clone().requires_grad_() for a in (x, y)]
        function(*arguments).sum().backward()
        results.append([a.grad for a in arguments])
    for argnum, (one, other) in enumerate(zip(*results, strict=True)):
        exact.gradients_agree(one, other, x, y, argnum, loss.log_target, "float32")


def test_what_does_not_fit_is_refused_while_exporting() -> None:
    x, y = tensors(4)
    with pytest.raises(ValueError, match=r"same shape, got \(4, 6\) and \(6,\)"):
        export(KLDivLoss(), (x, y[0]))
    with pytest.raises(TypeError, match="int32"):
        export(KLDivLoss(), (x, y.int()))


def test_an_exported_program_takes_no_other_shapes_than_it_was_exported_for() -> None:
    x, y = tensors(4)
    batch = Dim("batch")
    program = export(KLDivLoss(), (x, y), dynamic_shapes=({0: batch}, {0: batch})).module()
    with pytest.raises(AssertionError, match="Guard failed"):
        program(x, y[:1])


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
# What Inductor imports at its first use, and how it writes a package, call deprecated functions of PyTorch's own.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_a_program_compiled_ahead_of_time_gives_the_same_loss(tmp_path: Path) -> None:
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    batch = Dim("batch", min=2, max=1024)
    program = export(KLDivLoss(reduction="batchmean"), tensors(4), dynamic_shapes=({0: batch}, {0: batch}))
    package = aoti_compile_and_package(program, package_path=str(tmp_path / "loss.pt2"))
    compiled = aoti_load_package(package)
    for rows in (2, 9):
        x, y = tensors(rows)
        check_loss(compiled(x, y), "batchmean", x, y)


@every_reduction
def test_a_function_of_a_module_without_parameters_is_the_module(reduction: Any) -> None:
    loss, (x, y) = KLDivLoss(reduction=reduction), tensors(4)
    assert torch.equal(functional_call(loss, {}, (x, y)), loss(x, y))


@every_reduction
def test_reverse_mode_of_functions_is_the_closed_form(reduction: Any) -> None:
    x, y = tensors(4)
    cotangent = torch.ones_like(x) if reduction == "none" else None
    _, closed = kl_div_value_and_grad(x, y, reduction, argnums=(0, 1), cotangent=cotangent)
    value, pullback, *_ = vjp(KLDivLoss(reduction=reduction), x, y)
    check_loss(value, reduction, x, y)
    jacobians = jacrev(KLDivLoss(reduction=reduction), argnums=(0, 1))(x, y)
    over = {"mean": x.numel(), "batchmean": len(x)}.get(reduction, 1)
    for argnum, gradient in enumerate(pullback(torch.ones_like(value))):
        bounds = exact.derivative_tolerances(numbers(x), numbers(y), argnum, torch, "float32")
        within = 2 / over * np.asarray([float(bound) for bound in bounds]).reshape(x.shape)
        assert np.all(np.abs(numbers(gradient) - numbers(closed[argnum])) <= within)
        jacobian = jacobians[argnum].reshape(-1, x.numel())
        assert torch.equal(jacobian.sum(0).reshape(x.shape), gradient)
        assert reduction != "none" or jacobian.count_nonzero() <= x.numel()  # an element depends on its own alone


@pytest.fixture
def graph() -> Any:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.cuda.CUDAGraph()


@every_reduction
def test_a_cuda_graph_is_captured_once_and_replayed_with_other_numbers(reduction: Any, graph: Any) -> None:
    x, y = tensors(4, device="cuda")
    x.requires_grad_()
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):  # what is allocated lazily must not be so in the graph
        kl_div(x, y, reduction).sum().backward()  # type: ignore[no-untyped-call]
    torch.cuda.current_stream().wait_stream(side)
    x.grad = None
    with torch.cuda.graph(graph):
        loss = kl_div(x, y, reduction)
        loss.sum().backward()  # type: ignore[no-untyped-call]
    a, b = (t + 0.25 for t in tensors(4))
    with torch.no_grad():
        x.copy_(a)
        y.copy_(b)
    graph.replay()
    check_loss(loss, reduction, a, b)
    assert x.grad is not None
    over = {"mean": x.numel(), "batchmean": len(x)}.get(reduction, 1)
    torch.testing.assert_close(x.grad.cpu(), -b / over, rtol=torch.finfo(torch.float32).eps, atol=0.0)
