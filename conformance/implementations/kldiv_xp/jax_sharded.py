"""``kldiv_xp`` on JAX arrays that are sharded over eight devices."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.implementations.kldiv_xp.jax import KLDivXP
from conformance.implementations.kldiv_xp.sample import left_out_of_sample
from conformance.record import Case, Implementation, Operand

ROWS, COLUMNS = 2, 4

# Make the CPU appear as eight devices; all other implementations use the first. JAX accepts this only before its first
# computation, and not if XLA_FLAGS sets the number of devices.
with suppress(RuntimeError):
    jax.config.update("jax_num_cpu_devices", ROWS * COLUMNS)  # type: ignore[no-untyped-call]


def mesh(**options: Any) -> Mesh:
    """Eight devices: two along the batch, and four along the classes."""
    return Mesh(np.asarray(jax.devices("cpu")[: ROWS * COLUMNS]).reshape(ROWS, COLUMNS), ("batch", "class"), **options)


def partition(shape: tuple[int, ...]) -> PartitionSpec:
    """Batch over rows and classes over columns of the mesh; an axis that the mesh does not divide is not sharded."""
    names: list[str | None] = [None] * len(shape)
    # The only axis of a 1-d array is its batch.
    for axis, name, ways in ((-1, "class", COLUMNS), (0, "batch", ROWS)) if shape else ():
        names[axis] = name if shape[axis] % ways == 0 else None
    return PartitionSpec(*names)  # type: ignore[no-untyped-call]


class Sharded(KLDivXP):
    """Jitted, with arrays sharded over a mesh of two by four devices where it divides their shapes."""

    distributed = "8 devices"

    def __init__(self, convention: str) -> None:
        super().__init__(convention, jit=True, platform="cpu")
        self.name = "kldiv_xp jax sharded"

    def not_run(self) -> str | None:
        """Reason if JAX has been started with fewer devices."""
        devices = jax.device_count("cpu")
        return None if devices >= ROWS * COLUMNS else f"JAX was started with {devices} CPU devices"

    def left_out(self, case: Case) -> str | None:
        """Leave out most cases: each shape is compiled for eight devices."""
        return left_out_of_sample(case, 64, self.convention)

    def given(self, operand: Operand) -> Any:
        """Operand as an array that is spread over the mesh; Python objects unchanged."""
        array = super().given(operand)
        return jax.device_put(array, NamedSharding(mesh(), partition(array.shape))) if operand.is_array else array


def implementations() -> Iterator[Implementation]:
    """Over eight devices."""
    for convention in CONVENTIONS:
        yield Sharded(convention)
