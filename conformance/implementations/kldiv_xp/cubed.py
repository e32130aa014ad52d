"""``kldiv_xp`` on Cubed, whose arrays are larger than memory and pass through files."""

from collections.abc import Iterator
from functools import cache
from multiprocessing.util import Finalize
from tempfile import TemporaryDirectory
from typing import Any

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.implementations.kldiv_xp.blocks import LazyBlocks, in_two
from conformance.implementations.kldiv_xp.sample import left_out_of_sample
from conformance.record import Case, Implementation, Operand


class KLDivXP(LazyBlocks):
    """Cubed arrays of several chunks, computed in this process."""

    needs = ("cubed",)

    def __init__(self, convention: str) -> None:
        super().__init__("kldiv_xp cubed", "cubed", convention)

    def left_out(self, case: Case) -> str | None:
        """Run a sample: each array is a file."""
        return left_out_of_sample(case, 400, self.convention)

    def namespace(self) -> Any:
        """Cubed's namespace."""
        import cubed.array_api

        return cubed.array_api

    def given(self, operand: Operand) -> Any:
        """Operand as a Cubed array of several chunks."""
        import cubed

        if not operand.is_array or operand.dtype in self.missing_dtypes:
            return super().given(operand)
        chunks = tuple(max(axis) or 1 for axis in in_two(operand.values.shape))  # of equal size, but for the last
        return cubed.from_array(operand.values, chunks=chunks, spec=_spec())  # asarray takes 1 MB at most

    def computed(self, arrays: list[Any]) -> list[Any]:
        """Values, of one plan."""
        import cubed

        return list(cubed.compute(*arrays, _return_in_memory_array=True))


@cache
def _spec() -> Any:
    import cubed

    directory = TemporaryDirectory(prefix="kldiv_xp-cubed-")
    Finalize(None, directory.cleanup, exitpriority=100)
    return cubed.Spec(directory.name, allowed_mem="1GB", executor_name="single-threaded")


def implementations() -> Iterator[Implementation]:
    """Cubed arrays."""
    for convention in CONVENTIONS:
        yield KLDivXP(convention)
