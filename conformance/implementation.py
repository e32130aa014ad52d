"""What the suite asks of an implementation, and what it gets: an outcome for a case."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from conformance.corpus import Case, Values


class UnsupportedError(Exception):
    """The implementation has no way to be asked this: not a refusal, and not a wrong answer."""


@dataclass(frozen=True)
class Result:
    """An array as NumPy holds it, with the dtype that the implementation gave it (NumPy has no bfloat16)."""

    values: Values
    dtype: str


@dataclass(frozen=True)
class Outcome:
    """What an implementation gave for a case: loss and gradients, or the kind of error."""

    loss: Result | None = None
    gradients: Mapping[str, Result] = field(default_factory=dict)
    error: str | None = None
    unsupported: str | None = None

    def quantity(self, name: str) -> Result | None:
        """The loss, or the gradient by the argument of this name."""
        return self.loss if name == "loss" else self.gradients.get(name)


class Implementation(ABC):
    """Something that computes the loss.

    Parameters
    ----------
    name
        Name in reports, unique with the convention.
    convention
        Convention of ``kldiv_xp`` that is asked for; ``None`` for foreign implementations, which have but one.
    """

    def __init__(self, name: str, convention: str | None = None) -> None:
        self.name = name
        self.convention = convention

    @property
    def label(self) -> str:
        """Name and convention."""
        return self.name if self.convention is None else f"{self.name} [{self.convention}]"

    @abstractmethod
    def version(self) -> str:
        """Version of the library that computes."""

    def not_run(self) -> str | None:
        """Why this implementation cannot run here; ``None`` if it can."""
        return None

    def left_out(self, case: Case) -> str | None:
        """Why this case is left out of an ordinary run; ``None`` if it is not."""
        return None

    def run(self, case: Case) -> Outcome:
        """Outcome of a case; whatever the implementation raises is its outcome, too."""
        try:
            with np.errstate(all="ignore"):
                return self.compute(case)
        except UnsupportedError as reason:
            return Outcome(unsupported=str(reason))
        except Exception as error:
            return Outcome(error=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")

    @abstractmethod
    def compute(self, case: Case) -> Outcome:
        """Loss and the gradients that are asked for; with ``"none"``, of the sum of the loss."""


def as_result(values: Any, dtype: Any) -> Result:
    """Result with a copy of ``values``, in float32 if NumPy has not the dtype."""
    name = str(dtype).rpartition(".")[-1]  # "torch.float32" and "array_api_strict.float32" are float32
    array = np.array(values)
    return Result(array.astype(np.float32) if name == "bfloat16" else array, name)
