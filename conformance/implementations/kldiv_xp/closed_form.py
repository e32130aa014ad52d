"""``kldiv_xp`` on a library without autodiff: the gradients come from ``kl_div_value_and_grad``."""

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import ml_dtypes

from conformance.implementations.kldiv_xp import divergence_of
from conformance.record import Case, Implementation, Operand, Result, UnsupportedError, as_result
from kldiv_xp import js_div_with_logits, js_div_with_logits_value_and_grad, kl_div, kl_div_value_and_grad

_version = cache(version)
ARGNUMS = {"input": 0, "target": 1}


class ClosedForm(Implementation):
    """Base of the adapters, which convert operands to arrays of the library and back."""

    gradients_by = "closed form"
    divergences = True
    needs: tuple[str, ...] = ()
    """Packages that have to be installed."""
    missing_dtypes: tuple[str, ...] = ("bfloat16",)

    def __init__(self, name: str, library: str, convention: str, *, device: str = "cpu") -> None:
        super().__init__(name, library, convention=convention, device=device)

    def version(self) -> str:
        """Version of the library's package."""
        return _version(self.library)

    def not_run(self) -> str | None:
        """Reason if a package is missing."""
        missing = [package for package in self.needs if find_spec(package) is None]
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed" if missing else None

    @abstractmethod
    def namespace(self) -> Any:
        """Array namespace of the library."""

    def given(self, operand: Operand) -> Any:
        """Operand as an array of the library; one that wraps NumPy's has the same layout."""
        if not operand.is_array:
            return operand.values
        if operand.dtype in self.missing_dtypes:
            raise UnsupportedError(f"the library has no {operand.dtype}")
        if operand.dtype == "bfloat16":  # the corpus stores it as float32
            operand = dataclasses.replace(operand, values=operand.values.astype(ml_dtypes.bfloat16))
        return self.namespace().asarray(operand.laid_out())

    def result(self, array: Any) -> Result:
        """Values of an array that NumPy can read."""
        return as_result(array, array.dtype)

    def evaluate(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss from ``kl_div``, gradients from the closed form."""
        if case.logits is not None:
            return self._divergence(case, input, target)
        arguments: tuple[Any, ...] = input, target, case.reduction, case.log_target
        convention: Any = self.convention
        loss = kl_div(*arguments, convention=convention)
        if not case.gradients:
            return loss, {}
        argnums: Any = tuple(ARGNUMS[name] for name in case.gradients)
        _, gradients = kl_div_value_and_grad(
            *arguments,
            convention=convention,
            argnums=argnums,
            cotangent=self.namespace().ones_like(loss) if cotangent is None else cotangent,
        )
        return loss, dict(zip(case.gradients, gradients, strict=True))

    def _divergence(self, case: Case, input: Any, target: Any) -> tuple[Any, Mapping[str, Any]]:
        """Divergence from logits, and its gradients from the closed form."""
        loss, where = divergence_of(case), case.logits.where if case.logits else None
        options: dict[str, Any] = dataclasses.asdict(loss)
        if where is not None:
            options["where"] = self.given(where)
        value = js_div_with_logits(input, target, **options)
        options["argnums"] = tuple(ARGNUMS[name] for name in case.gradients)
        _, gradients = js_div_with_logits_value_and_grad(
            input,
            target,
            **options,
            cotangent=self.namespace().ones_like(value) if case.reduction == "none" else None,
        )
        return value, dict(zip(case.gradients, gradients, strict=True))
