"""NumPy, and CuPy, which has the same functions."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.contender import OURS, TORCH, Call, Contender, Group, Unavailable
from benchmarks.formula import by_hand, gradient_by_hand, plain
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
            raise Unavailable("no CUDA device")
        super().__init__(name, "the first CUDA device" if self.cuda else f"1 thread, ours in {threads()}")

    def takes(self, workload: Workload) -> bool:
        """NumPy has no bfloat16."""
        return workload.dtype != "bfloat16"

    def context(self, workload: Workload) -> AbstractContextManager[object]:
        """The formulas warn of a zero target, which users silence."""
        return np.errstate(all="ignore")

    def place(self, workload: Workload) -> tuple[Any, Any]:
        """Without a copy on NumPy."""
        x, y = operands(workload)
        return self.xp.asarray(x), self.xp.asarray(y)

    def losses(self, workload: Workload, x: Any, y: Any) -> Iterator[Contender]:
        """PyTorch on the same memory, the formula by hand, and SciPy, which has no gradient."""
        options: Any = {"reduction": workload.reduction, "log_target": workload.log_target}
        formula = by_hand(workload, self.xp)

        def scipy() -> Call:
            rel_entr = import_module("cupyx.scipy.special" if self.cuda else "scipy.special").rel_entr

            def call() -> Any:
                elements = rel_entr(self.xp.exp(y) if workload.log_target else y, self.xp.exp(x))
                return elements if workload.reduction == "none" else elements.sum() / len(x)

            return self._waiting(call)

        if workload.gradient:
            gradient = gradient_by_hand(workload, self.xp)
            yield Contender(OURS, lambda: self._waiting(lambda: kl_div_value_and_grad(x, y, **options)))
            yield Contender(TORCH, lambda: self._torch(workload, x, y))
            yield Contender(f"{self.name} formula", lambda: self._waiting(lambda: (formula(x, y), gradient(x, y))))
        else:
            without_path = plain(workload)
            yield Contender(OURS, lambda: self._waiting(lambda: kl_div(x, y, **options)))
            yield Contender(f"{OURS} plain", lambda: self._waiting(lambda: without_path(x, y)))
            yield Contender(TORCH, lambda: self._torch(workload, x, y))
            yield Contender(f"{self.name} formula", lambda: self._waiting(lambda: formula(x, y)))
            yield Contender("scipy.special.rel_entr", scipy)

    def floor(self, workload: Workload, x: Any, y: Any) -> Iterator[Call]:
        """On CUDA a copy of one array, which moves as many bytes as reading both."""
        if self.cuda:
            out = self.xp.empty_like(x)
            yield self._waiting(lambda: self.xp.copyto(out, x))
        else:
            yield over_buffer(np.exp if workload.log_target else np.log, y)
            bits = [a.view(f"i{a.itemsize}") for a in (x, y)]
            yield lambda: [np.bitwise_or.reduce(a, None) for a in bits]
        if workload.writes:
            written = self.xp.empty_like(x)
            yield self._waiting(lambda: written.fill(0))

    def value(self, result: Any) -> float:
        """Of a loss, or of a loss and its gradient."""
        loss = result[0] if isinstance(result, tuple) else result
        return float(loss.sum().item())

    def _waiting(self, call: Call) -> Call:
        """``call``, and waiting for the device if there is one."""
        if not self.cuda:
            return call
        wait = self.xp.cuda.get_current_stream().synchronize
        return lambda: (call(), wait())[0]

    def _torch(self, workload: Workload, x: Any, y: Any) -> Call:
        from benchmarks.groups.torch import prepared, theirs, torch

        share = torch.from_dlpack if self.cuda else torch.from_numpy
        return prepared(theirs(workload), workload, share(x), share(y))


def over_buffer(function: Any, y: Any) -> Call:
    """``function`` of as many elements as ``y`` has, over a buffer of some of them, in float32 at least."""
    buffer = np.ascontiguousarray(y.reshape(-1)[:BUFFER], dtype=np.result_type(y.dtype, np.float32))
    out = np.empty_like(buffer)
    times = range(-(-y.size // buffer.size))

    def call() -> None:
        for _ in times:
            function(buffer, out=out)

    return call
