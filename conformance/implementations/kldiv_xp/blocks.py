"""``kldiv_xp`` on a library whose arrays are lazy, and made of blocks."""

from abc import abstractmethod
from typing import Any

from conformance.implementations.kldiv_xp.closed_form import ClosedForm
from conformance.record import Case, Outcome, Result, as_result
from kldiv_xp import kl_div, kl_div_value_and_grad


class LazyBlocks(ClosedForm):
    """Base of the adapters: all that a case asks for is described first, and computed at once."""

    lazy = True

    @abstractmethod
    def computed(self, arrays: list[Any]) -> list[Any]:
        """NumPy arrays with the values of lazy ones."""

    def result(self, array: Any) -> Result:
        """Result of a NumPy array or a scalar."""
        return as_result(array, array.dtype)

    def compute(self, case: Case) -> Outcome:
        """Loss from ``kl_div``, gradients from the closed form, in one computation."""
        arguments: tuple[Any, ...] = self.given(case.input), self.given(case.target), case.reduction, case.log_target
        lazy = [kl_div(*arguments, convention=self.convention)]  # type: ignore[arg-type]
        if case.gradients:
            cotangent = self.namespace().ones_like(lazy[0])
            options: dict[str, Any] = {"convention": self.convention, "argnums": (0, 1), "cotangent": cotangent}
            lazy += kl_div_value_and_grad(*arguments, **options)[1]
        loss, *gradients = map(self.result, self.computed(lazy))
        return Outcome(loss, dict(zip(("input", "target"), gradients, strict=False)))


def in_two(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Chunks: each axis in two parts, which are not alike where that is possible."""
    return tuple((n // 3, n - n // 3) if n >= 3 else (1,) * n or (0,) for n in shape)
