"""Libraries whose arrays raise, because the loss would be wrong or would fail with an unrelated error."""

from typing import ClassVar, NoReturn, Self

from kldiv_xp._options import type_name
from kldiv_xp.backends._standard import Array, Backend


class Refused(Backend):
    """A library without support."""

    why: ClassVar[str]
    """Reason and remedy, which follow the type of the array in the error message."""

    @classmethod
    def of(cls, x: Array) -> Self:  # noqa: ARG003
        """Backend without a namespace, because it computes nothing."""
        return cls(None)

    def accepted(self, name: str, x: Array) -> NoReturn:
        """Raise."""
        raise TypeError(f"{name} is a {type_name(x)}, {self.why}")
