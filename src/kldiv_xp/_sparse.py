"""What is particular to pydata/sparse. Imported with the library, so it must not import sparse itself."""

import sys


def refuse_format(name: str, x: object) -> None:
    """Raise for the one format that has no reductions: one to build an array in, not to compute with."""
    sparse = sys.modules.get("sparse")
    if sparse is not None and isinstance(x, sparse.DOK):
        raise TypeError(f"{name} is a sparse.DOK, which has no reductions; convert it with its method asformat('coo')")
