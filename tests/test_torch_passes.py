"""How often the loss goes through its tensors where it is not evaluated in blocks: on a GPU, time goes with this.

Kernels are counted on the device ``meta``, which computes nothing. A pass is a tensor of the input's size that a kernel
reads or writes.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kldiv_xp import kl_div
from kldiv_xp._formulas import loss_derivative, loss_elements
from kldiv_xp._options import checked
from kldiv_xp.backends._torch_in_few_passes import derivative_in_few_passes, loss_in_few_passes

SHAPE = (8, 1000)
BEYOND = {("oneflow", False): (2, 1), ("limit", False): (7, 4), ("limit", True): (8, 7)}
"""Passes beyond those of PyTorch, forward, and forward and backward, by convention and ``log_target``: for masks."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Passes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = (z for z in tree_leaves((args, kwargs, out)) if isinstance(z, torch.Tensor))
            self.count += sum(z.shape == SHAPE for z in tensors)
        return out


def passes_of(loss: Loss, *, backward: bool) -> int:
    input, target = torch.empty((2, *SHAPE), device="meta").unbind()
    input.requires_grad_(backward)
    passes = Passes()
    with passes:
        value = loss(input, target)
        if backward:
            value.backward()  # type: ignore[no-untyped-call]
    return passes.count


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("convention", ["oneflow", "torch", "limit"])
def test_the_loss_takes_no_more_passes_than_that_of_pytorch_but_for_masks(
    convention: Any, log_target: bool, backward: bool
) -> None:
    ours = passes_of(
        lambda x, y: kl_div(x, y, "batchmean", log_target=log_target, convention=convention), backward=backward
    )
    theirs = passes_of(
        lambda x, y: torch.nn.functional.kl_div(x, y, reduction="batchmean", log_target=log_target), backward=backward
    )
    assert theirs >= 9
    assert ours <= theirs + BEYOND.get((convention, log_target), (0, 0))[backward]


SPECIAL = [-torch.inf, -1.0, -0.0, 0.0, 5e-324, 1e-45, 1e-38, 0.5, 1.0, 700.0, torch.inf, torch.nan]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("convention", ["oneflow", "torch", "limit"])
@pytest.mark.parametrize("device", ["one pass", "two passes"])
def test_it_has_the_special_values_of_the_formulas(
    convention: Any, log_target: bool, dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "two passes":
        monkeypatch.setattr("kldiv_xp.backends._torch_in_few_passes.ONE_PASS", ())
    options = checked("sum", log_target, convention)
    x, y = torch.meshgrid(*(torch.tensor(SPECIAL, dtype=dtype),) * 2, indexing="ij")
    torch.testing.assert_close(loss_in_few_passes(x, y, options), loss_elements(x, y, options, torch), equal_nan=True)
    for weight in (torch.tensor(2.0, dtype=dtype).expand(x.shape), torch.full_like(x, -3.0)):
        found = derivative_in_few_passes(y, weight, options)
        torch.testing.assert_close(found, loss_derivative(x, y, 0, weight, options, torch), equal_nan=True)


@pytest.mark.parametrize("reduction", ["sum", "mean", "batchmean"])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_the_gradient_of_no_elements_has_none(reduction: Any, shape: tuple[int, ...]) -> None:
    with torch.autograd.forward_ad.dual_level():
        for device in ("meta", "cpu"):
            x, y = (torch.empty(shape, device=device) for _ in range(2))
            kl_div(x.requires_grad_(), y, reduction).backward()  # type: ignore[no-untyped-call]
            assert x.grad is not None
            assert x.grad.shape == shape
