"""``kldiv_xp`` on a library without autodiff: the gradients come from ``kl_div_value_and_grad``."""

from abc import abstractmethod
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import ml_dtypes

from conformance.record import Case, Implementation, Operand, Outcome, Result, UnsupportedError
from kldiv_xp import kl_div, kl_div_value_and_grad


class ClosedForm(Implementation):
    """Base of the adapters: they say how an operand becomes an array of the library, and back."""

    gradients_by = "closed form"
    needs: tuple[str, ...] = ()
    """Packages that have to be installed."""
    missing_dtypes: tuple[str, ...] = ("bfloat16",)

    def __init__(self, name: str, library: str, convention: str, *, device: str = "cpu") -> None:
        super().__init__(name, library, convention=convention, device=device)

    def version(self) -> str:
        """Version of the library's package."""
        return version(self.library)

    def not_run(self) -> str | None:
        """Reason if a package is missing."""
        missing = [package for package in self.needs if find_spec(package) is None]
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed" if missing else None

    @abstractmethod
    def namespace(self) -> Any:
        """Array namespace of the library."""

    @abstractmethod
    def result(self, array: Any) -> Result:
        """Result of an array of the library."""

    def given(self, operand: Operand) -> Any:
        """Operand as an array of the library."""
        if not operand.is_array:
            return operand.values
        if operand.dtype in self.missing_dtypes:
            raise UnsupportedError(f"the library has no {operand.dtype}")
        values = operand.values
        if operand.dtype == "bfloat16":  # which the corpus holds as float32
            values = values.astype(ml_dtypes.bfloat16)
        return self.namespace().asarray(values)

    def compute(self, case: Case) -> Outcome:
        """Loss from ``kl_div``, gradients from the closed form."""
        arguments: tuple[Any, ...] = self.given(case.input), self.given(case.target), case.reduction, case.log_target
        loss = kl_div(*arguments, convention=self.convention)  # type: ignore[arg-type]
        gradients: dict[str, Result] = {}
        if case.gradients:
            _, both = kl_div_value_and_grad(
                *arguments,
                convention=self.convention,  # type: ignore[arg-type]
                argnums=(0, 1),
                cotangent=self.namespace().ones_like(loss),
            )
            gradients = {name: self.result(both[i]) for i, name in enumerate(("input", "target"))}
        return Outcome(self.result(loss), gradients)
