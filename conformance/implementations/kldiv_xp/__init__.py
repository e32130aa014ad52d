"""``kldiv_xp`` on array libraries."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from conformance.record import Case, Operand
from kldiv_xp import JSDivWithLogitsLoss, KLDivLoss

CONVENTIONS = ("oneflow", "torch", "limit")
# Cases have both on purpose.
warnings.filterwarnings("ignore", "all targets are negative")
warnings.filterwarnings("ignore", "reduction=.mean. divides")


@dataclass(frozen=True)
class Divergence:
    """A divergence from logits, with its mask: a value, like the loss itself."""

    loss: JSDivWithLogitsLoss
    case: str
    """The mask is that of this case; empty if it has none."""
    mask: Callable[[], Any] = field(compare=False)

    def __call__(self, input: Any, target: Any) -> Any:
        """Divergence of the rows that count."""
        return self.loss(input, target, self.mask())


def loss_of(case: Case, convention: Any, given: Callable[[Operand], Any]) -> Any:
    """The loss, or the divergence, of a case, as a function of two arrays; ``given`` makes an array."""
    if case.logits is None:
        reduction: Any = case.reduction
        return KLDivLoss(reduction, case.log_target, convention=convention)
    divergence, where = divergence_of(case), case.logits.where
    return Divergence(divergence, case.id if where else "", lambda: None if where is None else given(where))


def divergence_of(case: Case) -> JSDivWithLogitsLoss:
    """The divergence of a case from logits."""
    options, reduction = case.logits, case.reduction
    assert options is not None
    return JSDivWithLogitsLoss(
        options.beta,
        reduction,  # type: ignore[arg-type]
        temperature=options.temperature,
        axis=options.axis,
    )
