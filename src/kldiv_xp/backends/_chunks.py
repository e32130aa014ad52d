"""Divergences from logits of arrays that are computed later, chunk by chunk."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

from kldiv_xp._options import LogitsOptions
from kldiv_xp.backends._blocks import InBlocks
from kldiv_xp.backends._standard import Array, Backend


class InChunks(Backend):
    """A library whose arrays are computed later, chunk by chunk.

    If chunks hold complete rows, one call evaluates a pair of them as the arrays in memory that they are. With the
    plain formulas, the library would keep dozens of temporary chunks, or write them to disk.
    """

    of_chunks: ClassVar[type[Backend]]
    """Backend for a chunk."""

    @abstractmethod
    def mapped(self, function: Callable[[Array, Array], Array], x: Array, y: Array, axis: int | None) -> Array:
        """Results of the function for each pair of chunks; of length 1 along ``axis``."""

    def are_complete(self, x: Array, y: Array, axis: int) -> bool:
        """Whether the chunks of both arrays hold complete rows."""
        return bool(x.numblocks[axis] == y.numblocks[axis] == 1)

    def divergences(self, x: Array, y: Array, options: LogitsOptions) -> Array:
        """Divergence of each row, with the axis of the classes kept."""
        if 0 in x.shape or not self.are_complete(x, y, options.axis):
            return super().divergences(x, y, options)
        rows = partial(_divergences, self.of_chunks, options._replace(reduction="none"))
        return self.mapped(rows, x, y, options.axis)

    def derivative_from_logits(
        self, x: Array, y: Array, argnum: int, weight: Array | float, options: LogitsOptions
    ) -> Array:
        """Derivatives of the divergences by ``x`` (0) or ``y`` (1), times ``weight``."""
        if 0 in x.shape or not self.are_complete(x, y, options.axis):
            return super().derivative_from_logits(x, y, argnum, weight, options)
        derivative = partial(_derivative, self.of_chunks, options._replace(reduction="sum"), argnum)
        return self.mapped(derivative, x, y, None) * weight


class InTurn(InBlocks):
    """Chunks whose blocks are evaluated by one thread, because a scheduler has its own threads."""

    def each(self, function: Callable[..., Any], blocks: Iterable[tuple[Array, ...]]) -> list[Any]:
        """Results of the function for each block."""
        with self.quiet():
            return [function(*block) for block in blocks]


def _divergences(library: type[Backend], options: LogitsOptions, x: Array, y: Array) -> Array:
    backend = library.of(x)
    return backend.xp.expand_dims(backend.loss_from_logits(x, y, options), axis=options.axis)


def _derivative(library: type[Backend], options: LogitsOptions, argnum: int, x: Array, y: Array) -> Array:
    return library.of(x).value_and_grad_from_logits(x, y, options, (argnum,), None)[1][0]
