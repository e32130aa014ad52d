"""Train on two processes with the loss in a ``DistributedDataParallel`` step, and print the loss of every tenth step.

Each process has its share of the batch. DDP averages their gradients, which is right for ``"batchmean"`` and ``"mean"``
as long as the shares are of one size; with ``"sum"`` the gradient would be that of the sum, divided by the processes.

    python examples/torch_ddp.py
"""

import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from kldiv_xp.torch import KLDivLoss

PROCESSES = 2


def train(rank: int, store: str) -> None:
    """Fit a student to a teacher, both of one layer, as one of the processes."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    torch.manual_seed(0)  # the same in every process
    teacher, features = torch.nn.Linear(8, 4), torch.randn(64, 8)
    student = DistributedDataParallel(torch.nn.Linear(8, 4))
    share = features.chunk(PROCESSES)[rank]
    target = teacher(share).softmax(-1).detach()
    criterion = KLDivLoss(reduction="batchmean")
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    for step in range(51):
        optimizer.zero_grad()
        loss = criterion(student(share).log_softmax(-1), target)
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            mean = loss.detach()
            dist.all_reduce(mean)  # what DDP does to the gradients, for the number that is shown
            if rank == 0:
                print(f"step {step:2d}: loss {mean.item() / PROCESSES:.5f}", flush=True)
    # The module refers to the group, whose threads would outlive its end: pytorch/pytorch issue 190489.
    del student, optimizer, loss
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(train, (str(Path(folder) / "store"),), nprocs=PROCESSES)
