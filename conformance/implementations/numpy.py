"""``kldiv_xp`` on NumPy."""

from typing import Any

import array_api_compat.numpy
import numpy as np

from conformance.implementation import Result, as_result
from conformance.implementations.closed_form import ClosedForm


class KLDivXP(ClosedForm):
    """NumPy arrays."""

    def __init__(self, convention: str) -> None:
        super().__init__("kldiv_xp numpy", convention)

    def version(self) -> str:
        """Version of NumPy."""
        return f"numpy {np.__version__}"

    def namespace(self) -> Any:
        """NumPy's namespace."""
        return array_api_compat.numpy

    def result(self, array: Any) -> Result:
        """Result of an array or a NumPy scalar."""
        return as_result(array, array.dtype)
