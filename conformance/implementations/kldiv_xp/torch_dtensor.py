"""``kldiv_xp`` on PyTorch's DTensor, distributed over two processes."""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.implementations.kldiv_xp.sample import left_out_of_sample
from conformance.implementations.kldiv_xp.torch import KLDivXP
from conformance.record import Case, Implementation, Operand, Outcome

PROCESSES = 2
PATIENCE = timedelta(seconds=60)


class TorchDTensor(KLDivXP):
    """Tensors sharded along their longest axis, the batch or the classes."""

    distributed = f"{PROCESSES} processes"
    slow_to_start = True

    def __init__(self, convention: str) -> None:
        super().__init__(convention, compiled=False, device="cpu")
        self.name = "kldiv_xp torch DTensor"

    def not_run(self) -> str | None:
        """Reason if this PyTorch has no process groups on the CPU."""
        return None if dist.is_available() and dist.is_gloo_available() else "PyTorch was built without gloo"

    def left_out(self, case: Case) -> str | None:
        """Leave out most cases: in each, two processes exchange messages."""
        return left_out_of_sample(case, 8, self.convention)

    def compute(self, case: Case) -> Outcome:
        """Outcome of a case that both processes compute."""
        if not (dist.is_initialized() and dist.get_rank()):  # which the other process is the other of
            _other_process().send((self, case))
        return super().compute(case)

    def loss(self, case: Case) -> Callable[[Any, Any], torch.Tensor]:
        """The module; each process has a shard of its arguments."""
        module = super().loss(case)

        def of_parts(x: Any, y: Any) -> torch.Tensor:
            result: torch.Tensor = module(_spread(x), _spread(y)).full_tensor()  # type: ignore[attr-defined]
            return result

        return of_parts

    def mask(self, where: Operand) -> torch.Tensor:
        """Mask that both processes have."""
        from torch.distributed.tensor import DTensor, Replicate

        return DTensor.from_local(super().mask(where), _mesh(), [Replicate()])


def _spread(x: Any) -> Any:
    """Tensor that both processes have, along its longest axis in parts; Python objects unchanged."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    if not isinstance(x, torch.Tensor):
        return x
    whole = DTensor.from_local(x, _mesh(), [Replicate()])
    return whole.redistribute(placements=[Shard(x.shape.index(max(x.shape)))]) if x.ndim else whole


@cache
def _mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (PROCESSES,))


@cache
def _other_process() -> Connection:
    """Connection to the second process, which computes each case with this one, and ends with it."""
    listener = socket.create_server(("127.0.0.1", 0))  # the store itself would listen on all interfaces
    port = listener.getsockname()[1]
    store = _store(port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    here, there = get_context("spawn").Pipe()
    get_context("spawn").Process(target=_take_part, args=(there, port), daemon=True).start()
    there.close()  # so that the other process notices when this one ends
    _join(0, store)
    return here


def _take_part(way: Connection, port: int) -> None:
    _join(1, _store(port, is_master=False))
    while True:
        try:
            implementation, case = way.recv()
        except EOFError:
            return
        implementation.run(case)


def _store(port: int, **options: Any) -> Any:
    return dist.TCPStore("127.0.0.1", port, PROCESSES, timeout=PATIENCE, **options)  # type: ignore[attr-defined]


def _join(rank: int, store: Any) -> None:
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the processes are on one machine
    dist.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES, timeout=PATIENCE)


def implementations() -> Iterator[Implementation]:
    """Two processes of one machine."""
    for convention in CONVENTIONS:
        yield TorchDTensor(convention)
