"""The loss as ONNX models in onnxruntime: an environment without ``kldiv_xp``.

``python -m conformance.export_onnx`` writes the models. ``make onnx`` writes, records and judges them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from conformance.record import LAYOUTS, Case, Implementation, Operand, Result, UnsupportedError, as_result

MODELS = Path("build/onnx")


class Kind(NamedTuple):
    """What a model fixes; its sizes are dynamic."""

    input_dtype: str
    target_dtype: str
    ndim: int
    reduction: str
    log_target: bool

    @property
    def file_name(self) -> str:
        """Name of the file with the model."""
        kind = "log_target" if self.log_target else "target"
        return f"{self.input_dtype}-{self.target_dtype}-{self.ndim}d-{self.reduction}-{kind}.onnx"


def kind_of(case: Case) -> Kind:
    """Kind of a call, if a model can compute it."""
    if case.group == "refused":
        raise UnsupportedError("dtypes and options are built into a model, so that there is nothing left to refuse")
    if "bfloat16" in (case.input.dtype, case.target.dtype):
        raise UnsupportedError("ndonnx has no bfloat16")
    dtypes = str(case.input.dtype), str(case.target.dtype)
    return Kind(*dtypes, case.input.values.ndim, case.reduction, case.log_target)


class ONNX(Implementation):
    """The models of one convention."""

    gradients_by = "closed form"
    lazy = True
    layouts = LAYOUTS

    def __init__(self, convention: str) -> None:
        super().__init__("kldiv_xp onnx", "onnxruntime", convention=convention, compiled=True)

    def version(self) -> str:
        """Version of onnxruntime."""
        return version("onnxruntime")

    def session(self, kind: Kind) -> Any:
        """Session of onnxruntime for the calls of a kind."""
        return _session_of_file(MODELS / str(self.convention) / kind.file_name)

    def given(self, operand: Operand) -> Any:
        """Operand as a NumPy array; Python objects unchanged."""
        return operand.laid_out() if operand.is_array else operand.values

    def result(self, array: Any) -> Result:
        """Result of a NumPy array."""
        return as_result(array, array.dtype)

    def evaluate(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and gradients, all of them outputs of one model."""
        session = self.session(kind_of(case))
        if cotangent is not None:
            raise UnsupportedError("an upstream gradient of ones is built into the models")
        loss, *gradients = session.run(None, {"input": np.asarray(input), "target": np.asarray(target)})
        by = dict(zip(("input", "target"), gradients, strict=True))
        return loss, {name: by[name] for name in case.gradients}


def session_of(model: Any) -> Any:
    """Session for a model, given as bytes or as the path of a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # suppress warnings about dynamic sizes that turn out equal
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@cache
def _session_of_file(path: Path) -> Any:
    return session_of(str(path))


def implementations() -> Iterator[Implementation]:
    """One implementation for each convention with models."""
    for folder in sorted(MODELS.iterdir()):
        yield ONNX(folder.name)
