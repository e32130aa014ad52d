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
