"""marray, whose masked arrays raise here: a mean would count masked elements."""

from typing import NoReturn

from kldiv_xp._options import type_name
from kldiv_xp.backends._standard import Array, Backend


class MArray(Backend):
    """Masked arrays of any library."""

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Whether arrays of this type are masked ones."""
        return any(base.__module__.startswith("marray") and base.__name__ == "MArray" for base in kind.__mro__)

    @classmethod
    def of(cls, x: Array) -> "MArray":  # noqa: ARG003
        """Backend without a namespace, because it computes nothing."""
        return cls(None)

    def accepted(self, name: str, x: Array) -> NoReturn:
        """Raise."""
        raise TypeError(
            f"{name} is a {type_name(x)}, and a mean would count its masked elements; pass its data, with targets of 0"
            " where it is masked"
        )
