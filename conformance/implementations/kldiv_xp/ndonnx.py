"""``kldiv_xp`` on ndonnx: on values, and traced with open sizes into ONNX models that onnxruntime runs."""

import importlib.metadata
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

from conformance.implementations.kldiv_xp.closed_form import ClosedForm
from conformance.implementations.kldiv_xp.sample import left_out_of_sample
from conformance.record import Case, Implementation, Operand, Result, as_result


class KLDivXP(ClosedForm):
    """Arrays of ndonnx that have values, of which each operation computes others."""

    def __init__(self, convention: str) -> None:
        super().__init__("kldiv_xp ndonnx", "ndonnx", convention)

    def version(self) -> str:
        """Version of ndonnx."""
        return importlib.metadata.version("ndonnx")

    def not_run(self) -> str | None:
        """Reason if there is no ndonnx."""
        return None if find_spec("ndonnx") else "ndonnx is not installed"

    def left_out(self, case: Case) -> str | None:
        """Take a sample: each operation is a model of its own, which is built and run."""
        return left_out_of_sample(case, 20)

    def namespace(self) -> Any:
        """Namespace of ndonnx."""
        import ndonnx

        return ndonnx

    def result(self, array: Any) -> Result:
        """Result of an array."""
        return as_result(array.unwrap_numpy(), array.dtype)


def _exported(convention: str) -> Implementation:
    from conformance.implementations.onnx import ONNX

    return ONNX(convention, _session)
