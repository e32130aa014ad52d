"""``kldiv_xp`` on pydata/sparse, input and target in coordinate format."""

from collections.abc import Iterator
from typing import Any

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.implementations.kldiv_xp.closed_form import ClosedForm
from conformance.implementations.kldiv_xp.sample import left_out_of_sample
from conformance.record import Case, Implementation, Result, as_result


class KLDivXP(ClosedForm):
    """Arrays that store the elements other than zero."""

    needs = ("sparse",)
    divergences = False
    mutable = False

    def __init__(self, convention: str) -> None:
        super().__init__("kldiv_xp sparse", "sparse", convention)

    def left_out(self, case: Case) -> str | None:
        """Run a sample: half of the arrays of the corpus have no zeros, and take long."""
        return left_out_of_sample(case, 10, self.convention)

    def namespace(self) -> Any:
        """Namespace of pydata/sparse."""
        import sparse

        return sparse

    def result(self, array: Any) -> Result:
        """Result of an array."""
        return as_result(array.todense(), array.dtype)


def implementations() -> Iterator[Implementation]:
    """Arrays in coordinate format."""
    for convention in CONVENTIONS:
        yield KLDivXP(convention)
