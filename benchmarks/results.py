"""What a run found out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.contender import Role
from benchmarks.statistics import Ratio, ratio
from benchmarks.timing import Times
from benchmarks.workload import Workload

FLOOR = "floor"
TIME_WAS_UP = "the time was up"


@dataclass(frozen=True)
class Measured:
    """The contenders of one group over one workload."""

    group: str
    workload: Workload
    roles: Mapping[str, Role]
    times: Times

    @property
    def ours(self) -> list[str]:
        """Our loss and the variants of it that were measured."""
        return self._measured(Role.OURS)

    @property
    def peers(self) -> list[str]:
        """The peers that were measured."""
        return self._measured(Role.PEER)

    def seconds(self, name: str) -> Sequence[float]:
        """Seconds per call in each round; of the floor the sum of its parts."""
        if name != FLOOR:
            return self.times.seconds[name]
        parts = (self.times.seconds[part] for part in self._measured(Role.PART))
        return [sum(together) for together in zip(*parts, strict=True)]

    def has(self, name: str) -> bool:
        """Whether ``name`` was measured; the floor, whether all of it was."""
        parts = [n for n, role in self.roles.items() if role == Role.PART]
        return (
            all(n in self.times.seconds for n in parts) and bool(parts) if name == FLOOR else name in self.times.seconds
        )

    def ratio(self, ours: str, theirs: str) -> Ratio | None:
        """Our time divided by theirs; None where one of them was not measured."""
        return ratio(self.seconds(ours), self.seconds(theirs)) if self.has(ours) and self.has(theirs) else None

    def _measured(self, role: Role) -> list[str]:
        return [name for name, has in self.roles.items() if has == role and name in self.times.seconds]


@dataclass(frozen=True)
class Entry:
    """A figure of ours against one of a peer's that is not a time per call, such as the memory that it takes."""

    group: str
    name: str
    against: str
    unit: str
    ours: Sequence[float] = ()
    """One figure for each repetition."""
    theirs: Sequence[float] = ()
    not_run: str | None = None

    @property
    def ratio(self) -> Ratio | None:
        """Ours divided by theirs, repetition by repetition."""
        return ratio(self.ours, self.theirs) if self.ours and self.theirs else None


@dataclass
class Results:
    """Everything that was measured, and what was not, with the reason."""

    machine: Mapping[str, Any]
    options: Mapping[str, Any]
    threads: dict[str, str] = field(default_factory=dict)
    others: float | None = None
    """Share of the processors that other programs took meanwhile."""
    not_run: dict[str, str] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    flatness: list[Entry] = field(default_factory=list)
    memory: list[Entry] = field(default_factory=list)
    imports: list[Entry] = field(default_factory=list)
    first_calls: list[Entry] = field(default_factory=list)

    def find(self, group: str, **wanted: Any) -> list[Measured]:
        """Measurements of a group whose workloads have these attributes."""
        return [
            m
            for m in self.measured
            if m.group == group and all(getattr(m.workload, name) == value for name, value in wanted.items())
        ]
