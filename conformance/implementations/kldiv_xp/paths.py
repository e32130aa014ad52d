"""``kldiv_xp`` by other code paths than usual: by the plain formulas, and in blocks of a few elements."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest.mock import patch

import array_api_compat.torch
import jax

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.implementations.kldiv_xp import numpy as on_numpy
from conformance.implementations.kldiv_xp import torch as on_torch
from conformance.implementations.kldiv_xp.closed_form import ClosedForm
from conformance.implementations.kldiv_xp.jax import KLDivXP as OnJAX
from conformance.implementations.kldiv_xp.sample import DIVERGENCES, left_out_of_sample, left_out_off_the_edges
from conformance.record import Case, Implementation, Operand, Outcome, Result
from kldiv_xp.backends import _torch_on_device, numpy, torch

BACKENDS = (numpy.NumPy, torch.Torch)
FEW = 3
"""Elements of a block, so that nearly every case has more than one."""
MOST = 1000
"""Elements of an array in such blocks."""

Path = Callable[[], AbstractContextManager[Any]]


def plain() -> AbstractContextManager[Any]:
    """Context in which no array is ordinary, so that all take the plain formulas."""
    stack = ExitStack()
    for backend in BACKENDS:
        stack.enter_context(patch.object(backend, "is_ordinary", lambda *_: False))
    return stack


def in_few_elements() -> AbstractContextManager[Any]:
    """Context in which the blocks have a few elements."""
    stack = ExitStack()
    for backend in BACKENDS:
        stack.enter_context(patch.object(backend, "few", FEW))
        stack.enter_context(patch.object(backend, "block_size", lambda _: FEW))
    return stack


class _ByPath(Implementation):
    path: Path

    def compute(self, case: Case) -> Outcome:
        """Outcome on this code path."""
        with self.path():
            return super().compute(case)

    def left_out(self, case: Case) -> str | None:
        """Skip cases with thousands of blocks; of the divergences on PyTorch, run a sample."""
        if self.path is in_few_elements and case.input.is_array and case.input.values.size > MOST:
            return f"blocks of {FEW} elements: an array of more than {MOST}"
        if self.path is in_few_elements and case.logits is not None and self.library == "torch":
            return left_out_of_sample(case, DIVERGENCES, self.convention)
        return super().left_out(case) or left_out_off_the_edges(case, self.convention)


class NumPy(_ByPath, on_numpy.KLDivXP):
    """NumPy arrays, by another path."""

    def __init__(self, convention: str, name: str, path: Path) -> None:
        super().__init__(convention)
        self.name, self.path = f"kldiv_xp numpy, {name}", path


class Torch(_ByPath, on_torch.KLDivXP):
    """PyTorch tensors, by another path."""

    def __init__(self, convention: str, name: str, path: Path) -> None:
        super().__init__(convention, compiled=False, device="cpu")
        self.name, self.path = f"kldiv_xp torch, {name}", path


def as_on_a_gpu() -> AbstractContextManager[Any]:
    """Context in which divergences from logits are evaluated as on a GPU, a few rows at a time."""
    stack = ExitStack()
    stack.enter_context(patch.object(_torch_on_device, "ROWS", 100))
    stack.enter_context(patch.object(torch.Torch, "divergence_in_blocks", _on_device))
    return stack


def _on_device(
    backend: Any, x: Any, y: Any, options: Any, where: Any = None, wanted: Any = (), weight: Any = 1.0
) -> tuple[Any, list[Any]]:
    return _torch_on_device.divergence_on_device(x, y, options, where, wanted, weight, backend)


class TorchAsOnGPU(Torch):
    """Divergences from logits of tensors on the CPU by the code for GPUs."""

    losses = False

    def __init__(self, convention: str) -> None:
        super().__init__(convention, "as on a GPU", as_on_a_gpu)


class TorchWithoutGrad(ClosedForm):
    """PyTorch tensors of which none requires a gradient."""

    missing_dtypes = ()
    layouts = on_torch.KLDivXP.layouts

    def __init__(self, convention: str) -> None:
        super().__init__("kldiv_xp torch, closed form", "torch", convention)
        self._tensors = on_torch.KLDivXP(convention, compiled=False, device="cpu")

    def version(self) -> str:
        """Version of PyTorch, whatever it was built for."""
        return super().version().partition("+")[0]

    def namespace(self) -> Any:
        """PyTorch's namespace."""
        return array_api_compat.torch

    def left_out(self, case: Case) -> str | None:
        """Run each convention at the edges, and one everywhere."""
        return left_out_off_the_edges(case, self.convention)

    def given(self, operand: Operand) -> Any:
        """Operand as a tensor; Python objects unchanged."""
        return self._tensors.given(operand)

    def result(self, array: Any) -> Result:
        """Values of a tensor."""
        return self._tensors.result(array)


class JAXWithoutJit(OnJAX):
    """JAX arrays, one operation at a time."""

    contracts = False

    def __init__(self, convention: str) -> None:
        super().__init__(convention, jit=False, platform="cpu")
        self.name = "kldiv_xp jax, disable_jit"

    def left_out(self, case: Case) -> str | None:
        """Run a sample: JAX compiles each operation for each shape."""
        return left_out_of_sample(case, 24, self.convention)

    def compute(self, case: Case) -> Outcome:
        """Loss and its gradients under ``jax.disable_jit``."""
        with jax.disable_jit():
            return super().compute(case)


def implementations() -> Iterator[Implementation]:
    """Each library with its own code path."""
    for convention in CONVENTIONS:
        for library in (NumPy, Torch):
            yield library(convention, "plain", plain)
            yield library(convention, "small blocks", in_few_elements)
        yield TorchWithoutGrad(convention)
        if convention == CONVENTIONS[0]:  # the divergences have none
            yield TorchAsOnGPU(convention)
        yield JAXWithoutJit(convention)
