"""``kldiv_xp`` on array-api-strict, which implements exactly the standard."""

from collections.abc import Iterator
from typing import Any

import array_api_strict as xp
import numpy as np

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.implementations.kldiv_xp.closed_form import ClosedForm
from conformance.record import LAYOUTS, Case, Implementation, Outcome, Result, as_result


class KLDivXP(ClosedForm):
    """Arrays of array-api-strict, in its strictest settings."""

    missing_dtypes = ("float16", "bfloat16")
    layouts = LAYOUTS

    def __init__(self, convention: str) -> None:
        super().__init__("kldiv_xp array-api-strict", "array-api-strict", convention)

    def namespace(self) -> Any:
        """Namespace of array-api-strict."""
        return xp

    def result(self, array: Any) -> Result:
        """Result of an array."""
        return as_result(np.asarray(array), array.dtype)

    def compute(self, case: Case) -> Outcome:
        """Outcome without boolean indexing and data-dependent shapes, which lazy libraries lack."""
        with xp.ArrayAPIStrictFlags(boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()):
            return super().compute(case)


def implementations() -> Iterator[Implementation]:
    """Arrays of array-api-strict."""
    for convention in CONVENTIONS:
        yield KLDivXP(convention)
