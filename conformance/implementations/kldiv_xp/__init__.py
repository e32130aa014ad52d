"""``kldiv_xp`` on array libraries."""

CONVENTIONS = ("oneflow", "torch", "limit")
