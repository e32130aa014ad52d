"""What is computed: sizes, dtypes, modes, and the arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

Shape = tuple[int, ...]

SIZES: tuple[Shape, ...] = ((8, 16), (32, 128), (64, 1000), (256, 4096), (1024, 32000))
SMALLEST, LARGEST = SIZES[0], SIZES[-1]


@dataclass(frozen=True)
class Workload:
    """One loss to compute: arrays, options, and whether the gradient by the input is wanted, too."""

    shape: Shape
    dtype: str = "float32"
    gradient: bool = False
    log_target: bool = False
    reduction: str = "batchmean"

    @property
    def elements(self) -> int:
        """Elements of each of the two arrays."""
        return prod(self.shape)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of our function and of PyTorch's."""
        return {"reduction": self.reduction, "log_target": self.log_target}

    @property
    def usual(self) -> bool:
        """Whether it is float32, ``"batchmean"``, with probabilities as target."""
        return self == Workload(self.shape, gradient=self.gradient)

    @property
    def writes(self) -> bool:
        """Whether a result has the size of the arrays."""
        return self.gradient or self.reduction == "none"

    @property
    def what(self) -> str:
        """Mode and options."""
        options = ["log_target"] * self.log_target + [self.reduction] * (self.reduction != "batchmean")
        return ", ".join(["forward and backward" if self.gradient else "forward", *options])

    def __str__(self) -> str:
        return f"{self.shape}, {self.dtype}, {self.what}"


def grid(sizes: Sequence[Shape] = (), *, quick: bool = False) -> Iterator[Workload]:
    """Workloads of a run: each option alone, and float64 at two sizes.

    A quick run has the usual ones alone, without the gradient at the largest size.
    """
    sizes = sizes or (SIZES[::2] if quick else SIZES)
    for shape in sizes:
        yield Workload(shape)
        if not (quick and shape == LARGEST):
            yield Workload(shape, gradient=True)
    if quick:
        return
    for shape in sizes:
        yield Workload(shape, reduction="none")
        for gradient in (False, True):
            yield Workload(shape, log_target=True, gradient=gradient)
            yield from (Workload(shape, dtype, gradient) for dtype in ("float16", "bfloat16"))
    # The second largest shows bandwidth, too, in less time.
    yield from (
        Workload(shape, "float64", gradient) for shape in {sizes[0], sizes[-2:][0]} for gradient in (False, True)
    )


@lru_cache(maxsize=1)
def arrays(shape: Shape, dtype: str) -> tuple[Any, Any, Any]:
    """Log-probabilities, probabilities and their logarithms; bfloat16, which NumPy lacks, as float32."""
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal(shape, np.float32) for _ in range(2))
    x, log_y = (a - np.log(np.exp(a).sum(axis=-1, keepdims=True)) for a in logits)
    held = np.dtype("float32" if dtype == "bfloat16" else dtype)
    return x.astype(held), np.exp(log_y).astype(held), log_y.astype(held)


def operands(workload: Workload) -> tuple[Any, Any]:
    """Input and target of a workload as NumPy arrays, in the memory that all contenders share."""
    x, y, log_y = arrays(workload.shape, workload.dtype)
    return x, log_y if workload.log_target else y
