"""Blosc2, whose compressed arrays follow the standard only in part, and raise here."""

from typing import NoReturn

from kldiv_xp._options import type_name
from kldiv_xp.backends._standard import Array, Backend


class Blosc2(Backend):
    """Compressed arrays and lazy expressions."""

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Whether arrays of this type are Blosc2's."""
        return any(base.__module__.startswith("blosc2.") for base in kind.__mro__)

    @classmethod
    def of(cls, x: Array) -> "Blosc2":  # noqa: ARG003
        """Backend without a namespace, because it computes nothing."""
        return cls(None)

    def accepted(self, name: str, x: Array) -> NoReturn:
        """Raise."""
        raise TypeError(
            f"{name} is a {type_name(x)}, whose lazy expressions do not follow the standard; decompress it with [:]"
            " first"
        )
