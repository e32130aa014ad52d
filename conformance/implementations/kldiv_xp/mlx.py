"""``kldiv_xp`` on MLX, eager and compiled, with its gradients by autodiff."""

import importlib.metadata
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from conformance.implementations.kldiv_xp import CONVENTIONS, loss_of
from conformance.implementations.kldiv_xp.sample import left_out_of_sample
from conformance.record import LAYOUTS, Case, Implementation, Operand, Outcome, Result, as_result, storage


class KLDivXP(Implementation):
    """MLX arrays on the CPU."""

    gradients_by = "autodiff"
    divergences = True
    lazy = True
    layouts = LAYOUTS
    mutable = False

    def __init__(self, convention: str, *, compiled: bool) -> None:
        name = f"kldiv_xp {'mlx.compile' if compiled else 'mlx'}"
        super().__init__(name, "mlx", convention=convention, compiled=compiled)

    def version(self) -> str:
        """Version of MLX."""
        return importlib.metadata.version("mlx")

    def not_run(self) -> str | None:
        """Reason if there is no MLX, or no compiler where one is needed."""
        if not find_spec("mlx"):
            return "mlx is not installed"
        return "no C++ compiler, which mx.compile needs" if self.compiled and shutil.which("g++") is None else None

    def left_out(self, case: Case) -> str | None:
        """Run a sample if compiled: the C++ compiler takes half a second for each kernel."""
        return left_out_of_sample(case, 100, self.convention) if self.compiled else None

    def given(self, operand: Operand) -> Any:
        """Operand as an MLX array; Python objects unchanged."""
        import mlx.core as mx

        if not operand.is_array:
            return operand.values
        dtype = mx.bool_ if operand.dtype == "bool" else getattr(mx, str(operand.dtype))
        values = operand.laid_out()
        memory, strides, offset = storage(values)
        whole = mx.array(memory, dtype=dtype)
        return (
            mx.as_strided(whole, values.shape, strides, offset)
            if operand.layout != "contiguous"
            else whole.reshape(values.shape)
        )

    def result(self, array: Any) -> Result:
        """Values of an MLX array."""
        import mlx.core as mx

        return as_result(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array, array.dtype)

    def compute(self, case: Case) -> Outcome:
        """Outcome on the CPU."""
        import mlx.core as mx

        with mx.stream(mx.cpu):
            return super().compute(case)

    def evaluate(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and its gradients by ``mlx.core.vjp``."""
        loss = loss_of(case, self.convention, self.given)
        function = _compiled(loss, case.gradients) if self.compiled else _function(loss, case.gradients)
        value, *gradients = function(input, target, *(() if cotangent is None else (cotangent,)))
        return value, dict(zip(case.gradients, gradients, strict=True))


def _function(loss: Any, wanted: tuple[str, ...]) -> Callable[..., Any]:
    def loss_and_gradients(input: Any, target: Any, *cotangent: Any) -> tuple[Any, ...]:
        import mlx.core as mx

        value, arguments = loss(input, target), {"input": input, "target": target}
        if not wanted:
            return (value,)

        def of_wanted(*arrays: Any) -> Any:
            return loss(**arguments | dict(zip(wanted, arrays, strict=True)))

        _, gradients = mx.vjp(of_wanted, [arguments[name] for name in wanted], cotangent or (mx.ones_like(value),))
        return value, *gradients

    return loss_and_gradients


@cache
def _compiled(loss: Any, wanted: tuple[str, ...]) -> Callable[..., Any]:
    import mlx.core as mx

    compiled: Callable[..., Any] = mx.compile(_function(loss, wanted))
    return compiled


def implementations() -> Iterator[Implementation]:
    """Eager and compiled."""
    for convention in CONVENTIONS:
        yield KLDivXP(convention, compiled=False)
        yield KLDivXP(convention, compiled=True)
