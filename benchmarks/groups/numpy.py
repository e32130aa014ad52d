"""NumPy, and CuPy, which speaks the same language."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks import formula
from benchmarks.contender import Call, Contender, ours, part, peer, reason
from benchmarks.plain import plain
from benchmarks.workload import Workload, operands
from kldiv_xp import kl_div, kl_div_value_and_grad
from kldiv_xp.backends.numpy import threads

BUFFERS = (4096, 16384, 65536)
"""Elements of buffers that stay in a cache."""


class NumPy:
    """Arrays of NumPy, or of CuPy on its first device, forward and with the gradient in closed form."""

    def __init__(self, library: str = "numpy") -> None:
        self.name = {"numpy": "NumPy", "cupy": "CuPy"}[library]
        self.library = library

    def not_run(self) -> str | None:
        """Why nothing of this group can be run here."""
        try:
            xp = import_module(self.library)
        except ImportError as error:
            return reason(error)
        return "no CUDA device" if self.library == "cupy" and not xp.is_available() else None

    def threads(self) -> str:
        """Threads that this group computes in, in words."""
        return f"1 thread, ours in {threads()}" if self.library == "numpy" else "the first CUDA device"

    def takes(self, workload: Workload) -> bool:
        """Whether this group computes such a workload."""
        return workload.dtype != "bfloat16"

    def context(self, _workload: Workload) -> AbstractContextManager[object]:
        """Switched on while the group computes: a user silences what a zero target makes the formula warn of."""
        return np.errstate(all="ignore")

    def contenders(self, workload: Workload) -> Iterator[Contender]:
        """Ours and the peers, on the same memory."""
        xp, x, y = self._place(workload)
        options: Any = {"reduction": workload.reduction, "log_target": workload.log_target}
        function = kl_div_value_and_grad if workload.gradient else kl_div
        yield ours(lambda: self._done(lambda: function(x, y, **options)))
        if not workload.gradient:
            yield ours(lambda: self._done(lambda: plain(workload)(x, y)), "plain")
        yield peer("torch.nn.functional.kl_div", lambda: self._torch(workload, x, y))
        yield peer(f"{self.name} formula", lambda: self._done(self._formula(workload, x, y, xp)))
        if not workload.gradient:
            yield peer("scipy.special.rel_entr", lambda: self._done(self._scipy(workload, x, y, xp)))

    def floor(self, workload: Workload) -> Iterator[Contender]:
        """The least that any formula has to do."""
        xp, x, y = self._place(workload)
        if self.library == "cupy":
            out = xp.empty_like(x)  # a copy reads and writes as much as is read of both arrays
            yield part("copy", lambda: [self._done(lambda: xp.copyto(out, x))])
        else:
            name = "exp" if workload.log_target else "log"
            yield part(name, lambda: [over_buffer(getattr(np, name), y, size) for size in BUFFERS])
            integers = f"i{x.itemsize}"
            yield part(
                "read",
                lambda: [
                    lambda: (
                        np.bitwise_or.reduce(x.view(integers), None),
                        np.bitwise_or.reduce(y.view(integers), None),
                    ),
                    lambda: (x.max(), y.max()),
                    lambda: (x.sum(), y.sum()),
                ],
            )
        if workload.gradient or workload.reduction == "none":
            written = xp.empty_like(x)
            yield part("write", lambda: [self._done(lambda: written.fill(0))])

    def value(self, result: Any) -> float:
        """The loss that a contender returned, as a number."""
        loss = result[0] if isinstance(result, tuple) else result
        return float(loss.sum().item())

    def _place(self, workload: Workload) -> tuple[Any, Any, Any]:
        xp = import_module(self.library)
        x, y = operands(workload)
        return xp, xp.asarray(x), xp.asarray(y)

    def _done(self, call: Call) -> Call:
        """``call``, and waiting for the device if there is one."""
        if self.library == "numpy":
            return call
        wait: Callable[[], None] = import_module("cupy").cuda.get_current_stream().synchronize

        def waited() -> Any:
            result = call()
            wait()
            return result

        return waited

    def _torch(self, workload: Workload, x: Any, y: Any) -> Call:
        import torch

        from benchmarks.groups.torch import forward_or_both, functional

        share = torch.from_numpy if self.library == "numpy" else torch.utils.dlpack.from_dlpack
        return forward_or_both(functional(workload), workload, share(x), share(y))

    def _formula(self, workload: Workload, x: Any, y: Any, xp: Any) -> Call:
        if workload.gradient:
            return lambda: (formula.loss(x, y, workload, xp), formula.gradient(x, y, workload, xp))
        return lambda: formula.loss(x, y, workload, xp)

    def _scipy(self, workload: Workload, x: Any, y: Any, xp: Any) -> Call:
        rel_entr = import_module("scipy.special" if self.library == "numpy" else "cupyx.scipy.special").rel_entr

        def call() -> Any:
            elements = rel_entr(xp.exp(y) if workload.log_target else y, xp.exp(x))
            return elements if workload.reduction == "none" else elements.sum() / len(x)

        return call


def over_buffer(function: Any, y: Any, size: int) -> Call:
    """``function`` of as many elements as ``y`` has, over a buffer of ``size`` of them, in float32 at least."""
    buffer = np.ascontiguousarray(y.reshape(-1)[:size], dtype=np.result_type(y.dtype, np.float32))
    out = np.empty_like(buffer)
    times = range(-(-y.size // buffer.size))

    def call() -> None:
        for _ in times:
            function(buffer, out=out)

    return call
