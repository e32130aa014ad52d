"""Cubed, whose arrays are computed later, with NumPy."""

from kldiv_xp.backends._on_numpy import OnNumPy


class Cubed(OnNumPy):
    """Arrays of Cubed."""

    arrays = ("cubed", "Array")
    lazy = True
