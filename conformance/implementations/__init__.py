"""The implementations that the suite knows, one file for each library."""

from collections.abc import Iterator

from conformance.implementation import Implementation
from conformance.implementations import array_api_strict, cupy, jax, numpy, torch

CONVENTIONS = ("oneflow", "torch", "limit")


def reference() -> Implementation:
    """``torch.nn.KLDivLoss`` on the CPU, which the others are held against."""
    return torch.TorchNN()


def every_implementation() -> Iterator[Implementation]:
    """Each implementation, once for each convention that it has."""
    for convention in CONVENTIONS:
        yield numpy.KLDivXP(convention)
        yield array_api_strict.KLDivXP(convention)
        yield from (jax.KLDivXP(convention, jit=jit, platform=p) for p in ("cpu", "cuda") for jit in (False, True))
        yield from (torch.KLDivXP(convention, compile=c, device=d) for d in ("cpu", "cuda") for c in (False, True))
        yield cupy.KLDivXP(convention)
    yield torch.TorchNN("cuda")
