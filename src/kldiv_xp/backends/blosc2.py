"""Blosc2, whose compressed arrays follow the standard only in part, and raise here."""

from kldiv_xp.backends._refused import Refused


class Blosc2(Refused):
    """Compressed arrays and lazy expressions."""

    why = "whose lazy expressions do not follow the standard; decompress it with [:] first"

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Whether arrays of this type are Blosc2's."""
        return any(base.__module__.startswith("blosc2.") for base in kind.__mro__)
