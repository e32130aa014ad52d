"""``kldiv_xp`` on libraries whose arrays are lazy and chunked."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from conformance.implementations.kldiv_xp.closed_form import ClosedForm
from conformance.record import Case


class LazyBlocks(ClosedForm):
    """Base of the adapters: they compute all results of a case in one computation."""

    lazy = True
    slow_to_start = True
    mutable = False

    @abstractmethod
    def computed(self, arrays: list[Any]) -> list[Any]:
        """NumPy arrays with the values of lazy ones."""

    def called(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and gradients, in one computation."""
        loss, gradients = super().called(case, input, target, cotangent)
        loss, *values = self.computed([loss, *gradients.values()])
        return loss, dict(zip(gradients, values, strict=True))


def in_two(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Chunks: each axis in two parts, of unequal size where possible."""
    return tuple((n // 3, n - n // 3) if n >= 3 else (1,) * n or (0,) for n in shape)
