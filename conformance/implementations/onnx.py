"""ONNX models of ``kldiv_xp`` in onnxruntime, in an environment without ``kldiv_xp``.

``python -m conformance.export_onnx`` writes the models, ``make onnx`` does it all.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import onnxruntime

from conformance.record import Case, Implementation, Outcome, UnsupportedError, as_result

MODELS = Path("build/onnx")
MISSING_DTYPES = ("bfloat16",)
"""ndonnx has none, and neither has NumPy, from which onnxruntime takes its arrays."""


def model_name(case: Case) -> str:
    """File name of the model for all calls of the kind of a case."""
    kind = "log_target" if case.log_target else "target"
    return f"{case.input.dtype}-{case.target.dtype}-{case.input.values.ndim}d-{case.reduction}-{kind}.onnx"


class ONNX(Implementation):
    """A model of one convention, for the kind of call of the case."""

    gradients_by = "closed form"
    lazy = True

    def __init__(self, convention: str, session: Callable[[str, Case], Any]) -> None:
        super().__init__("kldiv_xp onnx", "onnxruntime", convention=convention, compiled=True)
        self.session = session

    def version(self) -> str:
        """Version of onnxruntime."""
        return str(onnxruntime.__version__)

    def compute(self, case: Case) -> Outcome:
        """Loss and gradients, all of them outputs of the model."""
        if case.group == "refused":
            raise UnsupportedError("a model has the kind of call built in, so that there is nothing left to refuse")
        if {case.input.dtype, case.target.dtype} & set(MISSING_DTYPES):
            raise UnsupportedError(f"no {' and no '.join(MISSING_DTYPES)}")
        given = {"input": np.asarray(case.input.values), "target": np.asarray(case.target.values)}
        session = self.session(str(self.convention), case)
        loss, *gradients = (as_result(values, values.dtype) for values in session.run(None, given))
        return Outcome(loss, dict(zip(("input", "target"), gradients)) if case.gradients else {})


def session_of(model: Any) -> Any:
    """onnxruntime's session for a model, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # it warns of shapes that it merges
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@lru_cache(maxsize=None)
def _from_file(path: Path) -> Any:
    return session_of(str(path))


def implementations() -> Iterator[Implementation]:
    """One for each convention that there are models of."""
    for folder in sorted(MODELS.iterdir()):
        yield ONNX(folder.name, lambda convention, case: _from_file(MODELS / convention / model_name(case)))
