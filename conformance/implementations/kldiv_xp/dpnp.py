"""``kldiv_xp`` on dpnp, NumPy for SYCL devices. On a CPU it needs ``intel-opencl-rt``."""

from collections.abc import Iterator
from typing import Any

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.implementations.kldiv_xp.closed_form import ClosedForm
from conformance.record import Implementation, Result, as_result


class KLDivXP(ClosedForm):
    """Arrays on the default SYCL device."""

    needs = ("dpnp",)

    def __init__(self, convention: str) -> None:
        super().__init__("kldiv_xp dpnp", "dpnp", convention)

    def not_run(self) -> str | None:
        """Reason if there is no dpnp, or nothing that it could run on."""
        if reason := super().not_run():
            return reason
        import dpctl

        return None if dpctl.get_devices() else "no SYCL device"

    def namespace(self) -> Any:
        """Namespace of dpnp."""
        import dpnp

        return dpnp

    def result(self, array: Any) -> Result:
        """Result of an array."""
        return as_result(array.asnumpy(), array.dtype)


def implementations() -> Iterator[Implementation]:
    """Arrays on the default device."""
    for convention in CONVENTIONS:
        yield KLDivXP(convention)
