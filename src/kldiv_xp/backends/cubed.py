"""Cubed, whose arrays are computed later, with NumPy, and which writes a result to disk if two operations use it."""

import sys
from collections.abc import Callable
from typing import ClassVar

from kldiv_xp.backends._chunks import InChunks, InTurn
from kldiv_xp.backends._on_numpy import OnNumPy
from kldiv_xp.backends._standard import Array, Backend
from kldiv_xp.backends.numpy import NumPy


class Chunk(InTurn, NumPy):
    """A chunk of a Cubed array."""


class Cubed(InChunks, OnNumPy):
    """Arrays of Cubed."""

    arrays: ClassVar[tuple[str, str]] = ("cubed", "Array")
    lazy = True
    of_chunks: ClassVar[type[Backend]] = Chunk

    def mapped(self, function: Callable[[Array, Array], Array], x: Array, y: Array, axis: int | None) -> Array:
        """Results of the function for each pair of chunks; of length 1 along ``axis``."""
        cubed = sys.modules["cubed"]
        chunks = list(x.chunks)
        if axis is not None:
            chunks[axis] = (1,)
        return cubed.map_blocks(function, x, cubed.rechunk(y, x.chunksize), dtype=x.dtype, chunks=tuple(chunks))
