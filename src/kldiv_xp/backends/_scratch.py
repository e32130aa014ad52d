"""Memory for the temporaries of blocks, kept from block to block and from call to call.

An array in fresh memory costs more than the arithmetic on it, because the system clears each page at its first use.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Any

Array = Any


class Scratch:
    """Arrays by name. Each has the memory of the last one of its name, and holds whatever that one held."""

    def __init__(self, empty: Callable[[int], Array]) -> None:
        self._empty = empty
        self._memory: dict[str, Array] = {}
        self._last: dict[str, tuple[tuple[int, ...], Array]] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> Array:
        """The array of this name."""
        last = self._last.get(name)
        if last is not None and last[0] == shape:
            return last[1]
        size = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or len(memory) < size:
            memory = self._memory[name] = self._empty(size)
        array = memory[:size].reshape(shape)
        self._last[name] = shape, array
        return array


class SpareMemory:
    """Scratch memory of a library that no call uses at the moment: for as many threads as compute at once, at most."""

    def __init__(self, empty: Callable[[int], Array], most: int) -> None:
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
