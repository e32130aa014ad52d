"""Cubed, whose arrays are computed later, with NumPy."""

import sys

from kldiv_xp.backends._on_numpy import OnNumPy


class Cubed(OnNumPy):
    """Arrays of Cubed."""

    lazy = True

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Whether arrays of this type are Cubed's."""
        library = sys.modules.get("cubed")
        return library is not None and issubclass(kind, library.Array)
