"""What is computed: sizes, dtypes, modes, and the arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

Shape = tuple[int, ...]

SIZES: tuple[Shape, ...] = ((8, 16), (32, 128), (64, 1024), (128, 8192), (1024, 32000))
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
    def mode(self) -> str:
        """``"forward"`` or ``"forward and backward"``."""
        return "forward and backward" if self.gradient else "forward"

    @property
    def usual(self) -> bool:
        """Whether it is float32, ``"batchmean"``, with probabilities as target."""
        return self == Workload(self.shape, gradient=self.gradient)

    @property
    def writes(self) -> bool:
        """Whether a result has the size of the arrays."""
        return self.gradient or self.reduction == "none"

    @property
    def size(self) -> str:
        """The shape as the command line takes it."""
        return "x".join(map(str, self.shape))

    @property
    def what(self) -> str:
        """Mode and options."""
        options = ["log_target"] * self.log_target + [self.reduction] * (self.reduction != "batchmean")
        return ", ".join([self.mode, *options])

    def __str__(self) -> str:
        return f"{self.size}, {self.dtype}, {self.what}"


def grid(sizes: Sequence[Shape] = SIZES) -> Iterator[Workload]:
    """Workloads of a full run, from small to large.

    The full product would take hours: float32 goes to all sizes and both modes, everything else to some.
    """
    some = {sizes[0], sizes[len(sizes) // 2], sizes[-1]}
    below_largest = max(0, len(sizes) - 2)  # where bandwidth counts as much as at the largest size, in less time
    for number, shape in enumerate(sizes):
        yield Workload(shape)
        yield Workload(shape, gradient=True)
        if shape in some:
            yield Workload(shape, log_target=True)
            yield Workload(shape, reduction="none")
            if number < len(sizes) - 1 or number == 0:
                yield Workload(shape, log_target=True, gradient=True)
        if number in (0, below_largest, len(sizes) - 1):
            yield Workload(shape, "float64")
        if number in (0, below_largest):
            yield Workload(shape, "float64", gradient=True)
            for dtype in ("float16", "bfloat16"):
                yield Workload(shape, dtype)
                yield Workload(shape, dtype, gradient=True)


def quick_grid(sizes: Sequence[Shape] = (SMALLEST, SIZES[2], LARGEST)) -> Iterator[Workload]:
    """Workloads of a quick run: float32, ``"batchmean"``, probabilities as target; no gradient at the largest size."""
    for shape in sizes:
        yield Workload(shape)
        if shape != LARGEST:
            yield Workload(shape, gradient=True)


@lru_cache(maxsize=1)
def arrays(shape: Shape, dtype: str) -> tuple[Any, Any, Any]:
    """Log-probabilities, probabilities and their logarithms; bfloat16, which NumPy lacks, as float32."""
    rng = np.random.default_rng(0)
    held = np.dtype("float32" if dtype == "bfloat16" else dtype)

    def log_probabilities() -> Any:
        logits = rng.standard_normal(shape, np.float32)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return logits

    x, log_y = log_probabilities(), log_probabilities()
    return x.astype(held, copy=False), np.exp(log_y).astype(held, copy=False), log_y.astype(held, copy=False)


def operands(workload: Workload) -> tuple[Any, Any]:
    """Input and target of a workload as NumPy arrays, in the memory that all contenders share."""
    x, y, log_y = arrays(workload.shape, workload.dtype)
    return x, log_y if workload.log_target else y
