"""``kldiv_xp`` on CuPy."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.implementations.kldiv_xp.closed_form import ClosedForm
from conformance.implementations.kldiv_xp.sample import ON_GPU, left_out_of_sample
from conformance.record import Case, Implementation, Result, as_result


class KLDivXP(ClosedForm):
    """CuPy arrays, on the current CUDA device."""

    def __init__(self, convention: str) -> None:
        super().__init__("kldiv_xp cupy", "cupy", convention, device="cuda")

    def version(self) -> str:
        """Version of CuPy."""
        import cupy

        return str(cupy.__version__)

    def not_run(self) -> str | None:
        """Reason if there is no CuPy, or nothing that it could run on."""
        if find_spec("cupy") is None:
            return "cupy is not installed" if torch.cuda.is_available() else "no CUDA device"
        import cupy

        return None if cupy.cuda.is_available() else "no CUDA device"

    def left_out(self, case: Case) -> str | None:
        """Run a sample: each operation starts a kernel, and recordings should be small."""
        return left_out_of_sample(case, ON_GPU, self.convention)

    def namespace(self) -> Any:
        """CuPy's namespace."""
        import array_api_compat.cupy

        return array_api_compat.cupy

    def result(self, array: Any) -> Result:
        """Result of an array."""
        return as_result(array.get(), array.dtype)


def implementations() -> Iterator[Implementation]:
    """CuPy arrays."""
    for convention in CONVENTIONS:
        yield KLDivXP(convention)
