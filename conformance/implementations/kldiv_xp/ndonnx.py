"""``kldiv_xp`` on ndonnx: on values, and traced with open sizes into ONNX models that onnxruntime runs."""

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.implementations.kldiv_xp.closed_form import ClosedForm
from conformance.implementations.kldiv_xp.sample import left_out_of_sample
from conformance.implementations.onnx import ONNX, Kind, session_of
from conformance.record import Case, Implementation, Result, as_result


class KLDivXP(ClosedForm):
    """Arrays of ndonnx with values, which every operation computes at once."""

    needs = ("ndonnx",)
    slow_to_start = True
    missing_dtypes = ("bfloat16", "complex64", "complex128")

    def __init__(self, convention: str) -> None:
        super().__init__("kldiv_xp ndonnx", "ndonnx", convention)

    def left_out(self, case: Case) -> str | None:
        """Run a sample: ndonnx builds and runs a model for each operation."""
        return left_out_of_sample(case, 20, self.convention)

    def namespace(self) -> Any:
        """Namespace of ndonnx."""
        import ndonnx

        return ndonnx

    def result(self, array: Any) -> Result:
        """Result of an array."""
        return as_result(array.unwrap_numpy(), array.dtype)


class Exported(ONNX):
    """ONNX models that are traced with open sizes here, as ``conformance.export_onnx`` writes them."""

    def not_run(self) -> str | None:
        """Reason if models cannot be built or run here."""
        missing = [name for name in ("ndonnx", "onnxruntime") if not find_spec(name)]
        return f"{' and '.join(missing)} not installed" if missing else None

    def left_out(self, case: Case) -> str | None:
        """Run a sample: each kind of call needs a model."""
        return left_out_of_sample(case, 5, self.convention)

    def session(self, kind: Kind) -> Any:
        """Session of onnxruntime for the calls of a kind."""
        return _session_of_trace(str(self.convention), kind)


@cache
def _session_of_trace(convention: str, kind: Kind) -> Any:
    from conformance.export_onnx import model

    return session_of(model(convention, kind).SerializeToString())


def implementations() -> Iterator[Implementation]:
    """On values, and traced."""
    for convention in CONVENTIONS:
        yield KLDivXP(convention)
        yield Exported(convention)
