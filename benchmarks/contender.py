"""Contenders of a measurement, in groups that share a library, a device and a way of calling it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from benchmarks.workload import Workload

OURS = "ours"
"""Name of our loss; the names of variants begin with it."""
FLOOR = "floor"
TORCH = "torch.nn.functional.kl_div"

Call = Callable[[], Any]
"""What is timed. It returns the loss, computed: it has waited for the device."""
Function = Callable[[Any, Any], Any]
"""Loss of an input and a target."""


class Contender(NamedTuple):
    """One way to compute a workload. ``prepare`` imports what it needs, which may be missing."""

    name: str
    prepare: Callable[[], Call]


class NotRunError(Exception):
    """Something cannot run here; the message says why."""


class Group(ABC):
    """Contenders that compute the same on the same device."""

    name: str
    threads: str
    """Threads or device that the group computes on, in words."""

    def takes(self, workload: Workload) -> bool:
        """Whether this group computes a workload."""
        return True

    def context(self, workload: Workload) -> AbstractContextManager[object]:
        """Entered while the group computes."""
        return nullcontext()

    def contenders(self, workload: Workload) -> Iterator[Contender]:
        """Ours, the peers and the floor, on the same memory."""
        x, y = self.place(workload)
        yield from self.losses(workload, x, y)
        parts = list(self.floor(workload, x, y))
        yield Contender(FLOOR, lambda: lambda: [part() for part in parts])

    @abstractmethod
    def place(self, workload: Workload) -> tuple[Any, Any]:
        """Input and target as arrays of the library, on the device."""

    @abstractmethod
    def losses(self, workload: Workload, x: Any, y: Any) -> Iterator[Contender]:
        """Ours first, and the peers."""

    @abstractmethod
    def floor(self, workload: Workload, x: Any, y: Any) -> Iterator[Call]:
        """What every formula has to do, in parts."""

    @abstractmethod
    def value(self, result: Any) -> float:
        """Loss that a contender returned, as a number; of ``"none"`` the sum."""


def repeated(call: Call, times: int) -> Call:
    """So many calls."""

    def calls() -> None:
        for _ in range(times):
            call()

    return calls


def reason(error: Exception) -> str:
    """Why something did not run, in a line."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error.name.partition('.')[0]} is not installed"
    text = str(error) if isinstance(error, NotRunError) else f"{type(error).__name__}: {error}"
    return text.partition("\n")[0]
