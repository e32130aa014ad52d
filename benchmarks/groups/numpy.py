"""NumPy, and CuPy, which has the same functions."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.contender import OURS, TORCH, Call, Contender, Function, Group, NotRunError, repeated
from benchmarks.formula import by_hand, plain
from benchmarks.workload import Workload, operands
from kldiv_xp import kl_div, kl_div_value_and_grad
from kldiv_xp.backends.numpy import threads

BUFFER = 16384
"""Elements of a buffer that stays in a cache."""


class NumPy(Group):
    """Arrays of NumPy, or of CuPy on its first device, forward and with the gradient in closed form."""

    def __init__(self, name: str, library: str = "numpy") -> None:
        self.xp = import_module(library)
        self.cuda = library == "cupy"
        if self.cuda and not self.xp.is_available():
            raise NotRunError("no CUDA device")
        self.name = name
        self.threads = "the first CUDA device" if self.cuda else f"1 thread, ours in {threads()}"

    def takes(self, workload: Workload) -> bool:
        return workload.dtype != "bfloat16"

    def context(self, workload: Workload) -> AbstractContextManager[object]:
        return np.errstate(all="ignore")  # the formulas warn of a zero target, which users silence

    def place(self, workload: Workload) -> tuple[Any, Any]:
        x, y = operands(workload)
        return self.xp.asarray(x), self.xp.asarray(y)

    def losses(self, workload: Workload, x: Any, y: Any) -> Iterator[Contender]:
        def prepare(function: Function) -> Callable[[], Call]:
            return lambda: self._waiting(lambda: function(x, y))

        def torch() -> Call:
            import torch

            from benchmarks.groups.torch import prepared

            share: Any = torch.utils.dlpack.from_dlpack if self.cuda else torch.from_numpy
            theirs = partial(torch.nn.functional.kl_div, **workload.options)
            return prepared(theirs, workload, share(x), share(y))

        def scipy() -> Call:
            rel_entr = import_module("cupyx.scipy.special" if self.cuda else "scipy.special").rel_entr

            def relative_entropy(x: Any, y: Any) -> Any:
                elements = rel_entr(self.xp.exp(y) if workload.log_target else y, self.xp.exp(x))
                return elements if workload.reduction == "none" else elements.sum() / len(x)

            return prepare(relative_entropy)()

        ours: Any = kl_div_value_and_grad if workload.gradient else kl_div
        yield Contender(OURS, prepare(partial(ours, **workload.options)))
        yield Contender(TORCH, torch)
        yield Contender(f"{self.name} formula", prepare(by_hand(workload, self.xp, gradient=workload.gradient)))
        if not workload.gradient:
            yield Contender(f"{OURS} plain", prepare(plain(workload)))
            yield Contender("scipy.special.rel_entr", scipy)

    def floor(self, workload: Workload, x: Any, y: Any) -> Iterator[Call]:
        out = self.xp.empty_like(x)
        if self.cuda:
            yield self._waiting(lambda: self.xp.copyto(out, x))
        else:
            function = np.exp if workload.log_target else np.log
            buffer = np.ascontiguousarray(y.reshape(-1)[:BUFFER], dtype=np.result_type(y.dtype, np.float32))
            yield repeated(partial(function, buffer, out=buffer.copy()), -(-y.size // buffer.size))
            bits = [a.view(f"i{a.itemsize}") for a in (x, y)]
            yield lambda: [np.bitwise_or.reduce(a, None) for a in bits]
        if workload.writes:
            yield self._waiting(lambda: out.fill(0))

    def value(self, result: Any) -> float:
        loss = result[0] if isinstance(result, tuple) else result
        return float(loss.sum().item())

    def _waiting(self, call: Call) -> Call:
        """``call``, and waiting for the device if there is one."""
        if not self.cuda:
            return call
        wait = self.xp.cuda.get_current_stream().synchronize
        return lambda: (call(), wait())[0]
