"""Groups of contenders: one for each library and way of calling it. A device is a parameter of the same code."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from benchmarks.contender import Contender
from benchmarks.groups.jax import JAX
from benchmarks.groups.numpy import NumPy
from benchmarks.groups.torch import Torch
from benchmarks.workload import Workload


class Group(Protocol):
    """Contenders that are measured against each other."""

    name: str

    def not_run(self) -> str | None:
        """Why nothing of this group can be run here."""

    def threads(self) -> str:
        """Threads that this group computes in, in words."""

    def takes(self, workload: Workload, /) -> bool:
        """Whether this group computes such a workload."""

    def context(self, workload: Workload, /) -> AbstractContextManager[object]:
        """Switched on while the group computes."""

    def contenders(self, workload: Workload) -> Iterator[Contender]:
        """Ours and the peers, on the same memory."""

    def floor(self, workload: Workload) -> Iterator[Contender]:
        """The least that any formula has to do."""

    def value(self, result: Any) -> float:
        """The loss that a contender returned, as a number."""


def all_groups(*, compiled: bool = True) -> list[Group]:
    """Every group; without ``compiled`` nothing goes through ``torch.compile``, which takes seconds each time."""
    return [
        NumPy(),
        Torch(compiled=compiled),
        JAX(jitted=False),
        JAX(jitted=True),
        NumPy("cupy"),
        Torch("cuda", compiled=compiled),
        JAX("cuda", jitted=False),
        JAX("cuda", jitted=True),
    ]


def group_named(name: str) -> Group:
    """The group of this name."""
    return next(group for group in all_groups() if group.name == name)
