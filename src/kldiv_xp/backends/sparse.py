"""pydata/sparse, which stores the elements that differ from a fill value, and computes with NumPy."""

import sys
from typing import Any, ClassVar, NoReturn

from kldiv_xp._options import type_name
from kldiv_xp.backends._on_numpy import OnNumPy
from kldiv_xp.backends._standard import Array


class Sparse(OnNumPy):
    """Sparse arrays."""

    arrays: ClassVar[tuple[str, str]] = ("sparse", "SparseArray")

    def accepted(self, name: str, x: Array) -> Array:
        """The array; raise for a ``DOK``."""
        if isinstance(x, sys.modules["sparse"].DOK):
            raise TypeError(
                f"{name} is a {type_name(x)}, which has no reductions; convert it with asformat('coo') first"
            )
        return x

    def loss_from_logits(self, input: Array, *_: Any, **__: Any) -> NoReturn:
        """Raise: the divergence would store every class, in nine times the memory of a dense array."""
        raise TypeError(
            f"the divergences from logits take no {type_name(input)}: a softmax gives every class a probability, stored"
            " or not; convert the logits with todense() first"
        )

    def value_and_grad_from_logits(self, input: Array, *_: Any, **__: Any) -> NoReturn:
        """Raise the same error."""
        self.loss_from_logits(input)
