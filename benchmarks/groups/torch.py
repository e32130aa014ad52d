"""PyTorch, on the CPU and on CUDA."""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.contender import OURS, TORCH, Call, Contender, Function, Group, NotRunError, repeated
from benchmarks.formula import plain
from benchmarks.workload import LARGEST, SMALLEST, Workload, operands
from kldiv_xp import kl_div

BUFFER = 65536
"""Elements of a buffer that stays in a cache. PyTorch uses a second thread from 32768 elements for each."""

# Otherwise Inductor leaves a pool of idle compiler processes beside what is measured.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


class Torch(Group):
    """Tensors, forward without gradients, and with ``backward``."""

    def __init__(self, name: str, device: str = "cpu") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise NotRunError("no CUDA device")
        self.name, self.device = name, device
        self.threads = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"

    def place(self, workload: Workload) -> tuple[Any, Any]:
        dtype = getattr(torch, workload.dtype)
        x, y = (torch.from_numpy(a).to(self.device, dtype=dtype) for a in operands(workload))
        return x, y

    def losses(self, workload: Workload, x: Any, y: Any) -> Iterator[Contender]:
        ours = partial(kl_div, **workload.options)
        losses: dict[str, Function] = {OURS: ours, f"{OURS} plain": plain(workload)}
        if workload.usual and workload.shape in (SMALLEST, LARGEST):
            losses[f'{OURS} convention="torch"'] = partial(ours, convention="torch")
        losses[TORCH] = partial(torch.nn.functional.kl_div, **workload.options)
        for name, loss in losses.items():
            yield Contender(name, partial(prepared, loss, workload, x, y))
        if workload.usual:
            for name in (OURS, TORCH):
                yield Contender(f"{name} compiled", partial(prepared, losses[name], workload, x, y, compiled=True))

    def floor(self, workload: Workload, x: Any, y: Any) -> Iterator[Call]:
        out = torch.empty_like(x)
        if self.device == "cuda":
            yield waiting(lambda: out.copy_(x), x)
        else:
            function: Any = torch.exp if workload.log_target else torch.log
            buffer = y.reshape(-1)[:BUFFER].to(torch.promote_types(y.dtype, torch.float32))
            yield repeated(partial(function, buffer, out=torch.empty_like(buffer)), -(-y.numel() // buffer.numel()))
            yield lambda: (x.sum(), y.sum())
        if workload.writes:
            yield waiting(out.zero_, x)

    def value(self, result: Any) -> float:
        return float(result.detach().sum())


def prepared(loss: Function, workload: Workload, x: Any, y: Any, *, compiled: bool = False) -> Call:
    """Call of ``loss``, with ``backward`` if the workload asks for the gradient by the input."""
    if compiled:
        import torch._inductor.compile_fx  # otherwise the first call imports it

        torch.compiler.config.recompile_limit = 64  # by default a function is compiled for eight shapes
        loss = torch.compile(loss, fullgraph=True, dynamic=False)
    if not workload.gradient:
        return waiting(lambda: loss(x, y), x)
    leaf = x.detach().requires_grad_()

    def both() -> Any:
        leaf.grad = None
        result = loss(leaf, y)
        result.backward()
        return result

    return waiting(both, x)


def waiting(call: Call, x: Any) -> Call:
    """``call``, and waiting for the device of ``x`` if it has one."""
    wait: Any = torch.cuda.synchronize
    return (lambda: (call(), wait())[0]) if x.is_cuda else call
