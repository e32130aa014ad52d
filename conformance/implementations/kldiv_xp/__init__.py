"""``kldiv_xp``, on every array library that can be installed beside the others."""

CONVENTIONS = ("oneflow", "torch", "limit")
