"""``kldiv_xp`` on Dask: in this process, and on the workers of a cluster."""

import warnings
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from multiprocessing.util import Finalize
from typing import Any

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.implementations.kldiv_xp.blocks import LazyBlocks, in_two
from conformance.implementations.kldiv_xp.sample import left_out_of_sample
from conformance.record import LAYOUTS, Case, Implementation, Operand

WORKERS = 2


class KLDivXP(LazyBlocks):
    """Dask arrays of several chunks, computed in this process."""

    needs: tuple[str, ...] = ("dask",)
    layouts = LAYOUTS
    missing_dtypes = ()
    one_in = 12

    def __init__(self, convention: str, name: str = "kldiv_xp dask") -> None:
        super().__init__(name, "dask", convention)

    def left_out(self, case: Case) -> str | None:
        """Run a sample: a graph takes milliseconds to schedule."""
        return left_out_of_sample(case, self.one_in, self.convention)

    def namespace(self) -> Any:
        """Dask's namespace."""
        import array_api_compat.dask.array

        return array_api_compat.dask.array

    def given(self, operand: Operand) -> Any:
        """Operand as a Dask array of several chunks."""
        array = super().given(operand)
        return array.rechunk(in_two(array.shape)) if operand.is_array else array

    def scheduler(self) -> Any:
        """Scheduler: this thread."""
        return "synchronous"

    def computed(self, arrays: list[Any]) -> list[Any]:
        """Values, of one graph."""
        return list(_untyped("dask").compute(*arrays, scheduler=self.scheduler()))


class Distributed(KLDivXP):
    """The same on a cluster of worker processes on this machine."""

    needs = ("dask", "distributed")
    one_in = 80
    distributed = f"{WORKERS} worker processes"

    def __init__(self, convention: str) -> None:
        super().__init__(convention, "kldiv_xp dask distributed")

    def scheduler(self) -> Any:
        """Client of the cluster."""
        return _client()


@cache
def _client() -> Any:
    distributed = _untyped("distributed")
    cluster = distributed.LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    )
    client = distributed.Client(cluster, set_as_default=False)
    # Suppress warnings about NaN, as everywhere in the suite: numpy.errstate does not apply to a worker's threads.
    client.run(warnings.filterwarnings, "ignore", category=RuntimeWarning)
    # Not atexit, which does not run at the end of a process of multiprocessing.
    Finalize(None, lambda: (client.close(), cluster.close()), exitpriority=100)
    return client


def _untyped(package: str) -> Any:
    """A package with incomplete types."""
    return import_module(package)


def implementations() -> Iterator[Implementation]:
    """In this process, and on a cluster."""
    for convention in CONVENTIONS:
        yield KLDivXP(convention)
        yield Distributed(convention)
