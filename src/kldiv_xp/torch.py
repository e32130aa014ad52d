"""The losses as modules: ``KLDivLoss`` in place of ``torch.nn.KLDivLoss``, and those from logits."""

from torch import Tensor
from torch.nn import Module

from kldiv_xp._losses import kl_div
from kldiv_xp._losses_from_logits import js_div_with_logits, kl_div_with_logits
from kldiv_xp._options import Convention, Reduction, checked, checked_from_logits

__all__ = ["JSDivWithLogitsLoss", "KLDivLoss", "KLDivWithLogitsLoss"]


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


class KLDivWithLogitsLoss(Module):
    """Kullback-Leibler divergence between the softmaxes of logits, as a module without parameters.

    Parameters
    ----------
    reduction, temperature, axis
        As in :func:`kldiv_xp.kl_div_with_logits`. The constructor checks them.

    Examples
    --------
    >>> import torch
    >>> from kldiv_xp.torch import KLDivWithLogitsLoss
    >>> loss = KLDivWithLogitsLoss(temperature=2.0)
    >>> loss
    KLDivWithLogitsLoss(reduction='batchmean', temperature=2.0, axis=-1)
    >>> student = torch.tensor([[1.0, 2.0]], requires_grad=True)
    >>> loss(student, torch.tensor([[2.0, 2.0]])).backward()
    >>> student.grad
    tensor([[-0.0612,  0.0612]])
    """

    def __init__(self, reduction: Reduction = "batchmean", *, temperature: float = 1.0, axis: int = -1) -> None:
        super().__init__()
        checked_from_logits(0.0, reduction, temperature, axis)
        self.reduction: Reduction = reduction
        self.temperature = temperature
        self.axis = axis

    def forward(self, input: Tensor, target: Tensor, where: Tensor | None = None) -> Tensor:
        """Loss of ``input`` against ``target``, of the rows where ``where`` is true."""
        return kl_div_with_logits(
            input, target, self.reduction, temperature=self.temperature, axis=self.axis, where=where
        )

    def extra_repr(self) -> str:
        """Options for ``repr``."""
        return f"reduction={self.reduction!r}, temperature={self.temperature}, axis={self.axis}"


class JSDivWithLogitsLoss(Module):
    """Generalised Jensen-Shannon divergence between the softmaxes of logits, as a module without parameters.

    Parameters
    ----------
    beta, reduction, temperature, axis
        As in :func:`kldiv_xp.js_div_with_logits`. The constructor checks them.

    Examples
    --------
    >>> import torch
    >>> from kldiv_xp.torch import JSDivWithLogitsLoss
    >>> loss = JSDivWithLogitsLoss(0.1)
    >>> loss
    JSDivWithLogitsLoss(beta=0.1, reduction='batchmean', temperature=1.0, axis=-1)
    >>> loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 2.0]]))
    tensor(0.0107)
    """

    def __init__(
        self, beta: float = 0.5, reduction: Reduction = "batchmean", *, temperature: float = 1.0, axis: int = -1
    ) -> None:
        super().__init__()
        checked_from_logits(beta, reduction, temperature, axis)
        self.beta = beta
        self.reduction: Reduction = reduction
        self.temperature = temperature
        self.axis = axis

    def forward(self, input: Tensor, target: Tensor, where: Tensor | None = None) -> Tensor:
        """Loss of ``input`` against ``target``, of the rows where ``where`` is true."""
        return js_div_with_logits(
            input, target, self.beta, self.reduction, temperature=self.temperature, axis=self.axis, where=where
        )

    def extra_repr(self) -> str:
        """Options for ``repr``."""
        return f"beta={self.beta}, reduction={self.reduction!r}, temperature={self.temperature}, axis={self.axis}"
