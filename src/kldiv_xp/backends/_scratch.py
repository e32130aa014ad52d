"""Memory for the temporaries of blocks, kept from block to block and from call to call.

An array in fresh memory costs more than the arithmetic on it, because the system clears each page at its first use.
"""

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

Array = Any
DType = Any
Empty = Callable[[int, DType], Array]
"""Makes an array of as many numbers."""


class Scratch:
    """Arrays by name and dtype. Each has the memory of the last of its name, and holds whatever that one held."""

    def __init__(self, empty: Empty) -> None:
        self._empty = empty
        self._memory: dict[tuple[str, DType], Array] = {}
        self._last: dict[tuple[str, DType], tuple[tuple[int, ...], Array]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: DType) -> Array:
        """The array of this name and dtype."""
        key = name, dtype
        last = self._last.get(key)
        if last is not None and last[0] == shape:
            return last[1]
        size = math.prod(shape)
        memory = self._memory.get(key)
        if memory is None or len(memory) < size:
            memory = self._memory[key] = self._empty(size, dtype)
        array = memory[:size].reshape(shape)
        self._last[key] = shape, array
        return array

    def copy(self, name: str, of: Array, dtype: DType) -> Array:
        """A copy of an array in the memory of this name."""
        array = self(name, of.shape, dtype)
        array[...] = of
        return array


class SpareMemory:
    """Scratch memory of a library that no call uses at the moment: for as many threads as compute at once, at most."""

    def __init__(self, empty: Empty, most: int) -> None:
        self._empty = empty
        self._spare: deque[Scratch] = deque(maxlen=most)

    def taken(self) -> Scratch:
        """Scratch memory for one thread, until it is given back. Memory that is not given back is lost to no one."""
        try:
            return self._spare.pop()
        except IndexError:
            return Scratch(self._empty)

    def give_back(self, scratch: Scratch) -> None:
        """Keep the memory for the next call."""
        self._spare.append(scratch)


class Into:
    """The functions of the formulas, which write into an array."""

    def __init__(self, xp: Any, out: Array) -> None:
        self._xp, self._out = xp, out

    def exp(self, y: Array) -> Array:
        """``exp(y)``."""
        return self._xp.exp(y, out=self._out)

    def log(self, y: Array) -> Array:
        """``log(y)``."""
        return self._xp.log(y, out=self._out)

    @property
    def xlogy(self) -> Callable[[Array, Array], Array] | None:
        """``x log(y)``, if the library has one."""
        native = getattr(self._xp, "xlogy", None)
        return None if native is None else partial(native, out=self._out)
