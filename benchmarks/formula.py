"""The loss by the formulas alone: written by hand, and ours without what is made for a library."""

from typing import Any

from benchmarks.contender import Function
from benchmarks.workload import Workload
from kldiv_xp._options import Options
from kldiv_xp.backends import find
from kldiv_xp.backends._standard import Backend


def by_hand(workload: Workload, xp: Any, *, gradient: bool = False) -> Function:
    """The formula in the documentation of ``torch.nn.KLDivLoss``; with ``gradient`` its derivative, too."""

    def loss(x: Any, y: Any) -> Any:
        elements = xp.exp(y) * (y - x) if workload.log_target else xp.where(y > 0, y * (xp.log(y) - x), 0)
        return elements if workload.reduction == "none" else elements.sum() / len(x)

    def derivative(y: Any) -> Any:
        return (-xp.exp(y) if workload.log_target else xp.where(y > 0, -y, 0)) / len(y)

    return (lambda x, y: (loss(x, y), derivative(y))) if gradient else loss


def plain(workload: Workload) -> Function:
    """Our loss by the array API alone."""
    reduction: Any = workload.reduction
    options = Options(reduction, workload.log_target, "oneflow")
    return lambda x, y: Backend.loss(find(x, y), x, y, options)
