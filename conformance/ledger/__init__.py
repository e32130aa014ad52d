"""The known deviations from the reference, as data: which implementations, which elements, what instead, and why.

An entry explains a difference only where its condition holds, and only if the implementation gives the value that the
entry states. In a full run every entry must explain something. There is a file for each library.
"""

from conformance.ledger import (
    formulas,
    from_logits,
    keras,
    kldiv_xp,
    mindspore,
    mlx,
    oneflow,
    optax,
    paddle,
    probabilities,
    pytorch,
    torchtune,
)
from conformance.ledger.entry import Deviation, Inexact, Mask, Promotion, Refusal
from conformance.ledger.from_logits import promised_bound
from conformance.ledger.kldiv_xp import promised_error
from conformance.record import Implementation

__all__ = [
    "DEVIATIONS",
    "ENTRIES",
    "INEXACT",
    "PROMOTIONS",
    "REFUSALS",
    "Deviation",
    "Inexact",
    "Mask",
    "Promotion",
    "Refusal",
    "deviations_of",
    "promised_bound",
    "promised_error",
]

_FILES = (formulas, kldiv_xp, pytorch, mindspore, mlx, oneflow, optax, paddle, probabilities, torchtune)
DEVIATIONS: tuple[Deviation, ...] = tuple(entry for file in _FILES for entry in file.DEVIATIONS)
REFUSALS: tuple[Refusal, ...] = tuple(entry for file in _FILES for entry in file.REFUSALS)
PROMOTIONS: tuple[Promotion, ...] = (*probabilities.PROMOTIONS, *from_logits.PROMOTIONS, *torchtune.PROMOTIONS)
INEXACT: tuple[Inexact, ...] = (*from_logits.INEXACT, *keras.INEXACT, *torchtune.INEXACT)
ENTRIES: tuple[Deviation | Refusal | Promotion | Inexact, ...] = (
    *DEVIATIONS,
    *REFUSALS,
    *PROMOTIONS,
    *INEXACT,
)


def deviations_of(implementation: Implementation, quantity: str) -> list[Deviation]:
    """Entries about one quantity of an implementation; where two apply, the later one wins."""
    return [d for d in DEVIATIONS if quantity in d.quantities and d.who(implementation)]
