"""``kldiv_xp`` on NumPy."""

from collections.abc import Iterator
from typing import Any

import array_api_compat.numpy

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.implementations.kldiv_xp.closed_form import ClosedForm
from conformance.record import LAYOUTS, Implementation


class KLDivXP(ClosedForm):
    """NumPy arrays, those of ml_dtypes.bfloat16 among them."""

    missing_dtypes = ()

    layouts = LAYOUTS

    def __init__(self, convention: str) -> None:
        super().__init__("kldiv_xp numpy", "numpy", convention)

    def namespace(self) -> Any:
        """NumPy's namespace."""
        return array_api_compat.numpy


def implementations() -> Iterator[Implementation]:
    """NumPy arrays."""
    for convention in CONVENTIONS:
        yield KLDivXP(convention)
