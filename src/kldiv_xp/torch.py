"""The loss as a ``torch.nn.Module``, in place of ``torch.nn.KLDivLoss``."""

from torch import Tensor
from torch.nn import Module

from kldiv_xp._losses import kl_div
from kldiv_xp._options import Convention, Reduction, checked

__all__ = ["KLDivLoss"]


class KLDivLoss(Module):
    """Kullback-Leibler divergence loss as a module without parameters.

    Parameters
    ----------
    reduction, log_target, convention
        As in :func:`kldiv_xp.kl_div`. The constructor checks them. ``convention="torch"`` computes what
        ``torch.nn.KLDivLoss`` computes, except that the gradient by a zero target is 0, not NaN.

    Examples
    --------
    >>> import torch
    >>> from kldiv_xp.torch import KLDivLoss
    >>> loss = KLDivLoss("batchmean")
    >>> loss
    KLDivLoss(reduction='batchmean', log_target=False, convention='oneflow')
    >>> student = torch.tensor([[0.25, 0.75]]).log().requires_grad_()
    >>> loss(student, torch.tensor([[0.5, 0.5]])).backward()
    >>> student.grad
    tensor([[-0.5000, -0.5000]])
    """

    def __init__(
        self,
        reduction: Reduction = "mean",
        log_target: bool = False,
        *,
        convention: Convention = "oneflow",
    ) -> None:
        super().__init__()
        checked(reduction, log_target, convention)
        self.reduction: Reduction = reduction
        self.log_target = log_target
        self.convention: Convention = convention

    def forward(self, input: Tensor, target: Tensor, where: Tensor | None = None) -> Tensor:
        """Loss of ``input`` against ``target``, where ``where`` is true; see :func:`kldiv_xp.kl_div`."""
        return kl_div(input, target, self.reduction, self.log_target, where=where, convention=self.convention)

    def extra_repr(self) -> str:
        """Options for ``repr``."""
        return f"reduction={self.reduction!r}, log_target={self.log_target}, convention={self.convention!r}"
