"""PyTorch, on the CPU and on CUDA."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from benchmarks.contender import Call, Contender, ours, part, peer, reason
from benchmarks.plain import plain
from benchmarks.workload import LARGEST, SMALLEST, Workload, operands
from kldiv_xp import kl_div

BUFFERS = (16384, 65536, 262144)
"""Elements of buffers that stay in a cache. PyTorch uses a second thread from 32768 elements for each."""

Function = Callable[[Any, Any], Any]

# Else Inductor leaves a pool of processes that wait for more to compile, beside what is measured.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


class Torch:
    """Tensors, forward where no gradient is asked for, and with ``backward``."""

    def __init__(self, device: str = "cpu", *, compiled: bool = True) -> None:
        self.name = "PyTorch" if device == "cpu" else "PyTorch CUDA"
        self.device = device
        self.compiled = compiled

    def not_run(self) -> str | None:
        """Why nothing of this group can be run here."""
        try:
            import torch
        except ImportError as error:
            return reason(error)
        return "no CUDA device" if self.device == "cuda" and not torch.cuda.is_available() else None

    def threads(self) -> str:
        """Threads that this group computes in, in words."""
        import torch

        return f"{torch.get_num_threads()} threads" if self.device == "cpu" else torch.cuda.get_device_name(0)

    def takes(self, _workload: Workload) -> bool:
        """Whether this group computes such a workload."""
        return True

    def context(self, _workload: Workload) -> AbstractContextManager[object]:
        """Switched on while the group computes."""
        return nullcontext()

    def contenders(self, workload: Workload) -> Iterator[Contender]:
        """Ours and the peers, on the same memory."""
        import torch

        x, y = self._place(workload)
        usual = workload == Workload(workload.shape, gradient=workload.gradient)
        theirs = functional(workload)

        def prepare(function: Function) -> Callable[[], Call]:
            return lambda: self._done(forward_or_both(function, workload, x, y))

        def compiled(function: Function) -> Callable[[], Call]:
            return lambda: self._done(forward_or_both(compile(function), workload, x, y))

        yield ours(prepare(our(workload)))
        yield ours(prepare(plain(workload)), "plain")
        if usual and workload.shape in (SMALLEST, LARGEST):
            yield ours(prepare(our(workload, convention="torch")), 'convention="torch"')
        yield peer("torch.nn.functional.kl_div", prepare(theirs))
        if usual and self.compiled:
            torch._dynamo.reset()  # else the functions of all workloads share one cache of 8 entries
            yield ours(compiled(our(workload)), "compiled")
            yield peer("torch.nn.functional.kl_div compiled", compiled(theirs))

    def floor(self, workload: Workload) -> Iterator[Contender]:
        """The least that any formula has to do."""
        import torch

        x, y = self._place(workload)
        if self.device == "cuda":
            out = torch.empty_like(x)  # a copy reads and writes as much as is read of both arrays
            yield part("copy", lambda: [self._done(lambda: out.copy_(x))])
        else:
            name = "exp" if workload.log_target else "log"
            yield part(name, lambda: [over_buffer(getattr(torch, name), y, size) for size in BUFFERS])
            yield part("read", lambda: [lambda: (x.sum(), y.sum()), lambda: (x.amax(), y.amax())])
        if workload.gradient or workload.reduction == "none":
            written = torch.empty_like(x)
            yield part("write", lambda: [self._done(lambda: written.zero_())])

    def value(self, result: Any) -> float:
        """The loss that a contender returned, as a number."""
        return float(result.detach().sum())

    def _place(self, workload: Workload) -> tuple[Any, Any]:
        import torch

        x, y = (torch.from_numpy(a).to(self.device, dtype=getattr(torch, workload.dtype)) for a in operands(workload))
        return x, y

    def _done(self, call: Call) -> Call:
        """``call``, and waiting for the device if there is one."""
        if self.device == "cpu":
            return call
        import torch

        def waited() -> Any:
            result = call()
            torch.cuda.synchronize()
            return result

        return waited


def our(workload: Workload, **options: Any) -> Function:
    """Our loss of a workload."""
    given: Any = {"reduction": workload.reduction, "log_target": workload.log_target, **options}
    return lambda x, y: kl_div(x, y, **given)


def functional(workload: Workload) -> Function:
    """PyTorch's own loss of a workload."""
    import torch

    reduction, log_target = workload.reduction, workload.log_target
    return lambda x, y: torch.nn.functional.kl_div(x, y, reduction=reduction, log_target=log_target)


def compile(function: Function) -> Function:
    """``function`` compiled for this very shape."""
    import torch
    import torch._inductor.compile_fx  # else the first call imports it

    compiled: Function = torch.compile(function, fullgraph=True, dynamic=False)
    return compiled


def forward_or_both(function: Function, workload: Workload, x: Any, y: Any) -> Call:
    """Call of ``function``, with ``backward`` if the workload asks for the gradient by the input."""
    if not workload.gradient:
        return lambda: function(x, y)
    leaf = x.detach().requires_grad_()

    def both() -> Any:
        leaf.grad = None
        loss = function(leaf, y)
        loss.backward()
        return loss

    return both


def over_buffer(function: Any, y: Any, size: int) -> Call:
    """``function`` of as many elements as ``y`` has, over a buffer of ``size`` of them, in float32 at least."""
    import torch

    buffer = y.reshape(-1)[:size].to(torch.promote_types(y.dtype, torch.float32)).clone()
    out = torch.empty_like(buffer)
    times = range(-(-y.numel() // buffer.numel()))

    def call() -> None:
        for _ in times:
            function(buffer, out=out)

    return call
