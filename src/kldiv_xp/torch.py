"""PyTorch's interface of the loss: ``kl_div`` and ``KLDivLoss`` in place of PyTorch's own, and those from logits."""

import warnings
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import Module
from torch.overrides import handle_torch_function, has_torch_function

from kldiv_xp._losses import kl_div as _kl_div
from kldiv_xp._losses_from_logits import js_div_with_logits, kl_div_with_logits
from kldiv_xp._misuse import caller
from kldiv_xp._options import Convention, Reduction, checked, checked_from_logits

__all__ = ["JSDivWithLogitsLoss", "KLDivLoss", "KLDivWithLogitsLoss", "kl_div"]


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    log_target: bool = False,
    *,
    where: Tensor | None = None,
    convention: Convention = "oneflow",
) -> Tensor:
    """Kullback-Leibler divergence loss, with the arguments of ``torch.nn.functional.kl_div``.

    It takes part in ``__torch_function__``, as PyTorch's own functions do: a tracer of ``torch.fx``, a mode or a
    subclass of ``Tensor`` sees one call.

    Parameters
    ----------
    input, target : Tensor, shape (N, ...)
        Log-probabilities and probabilities, as in :func:`kldiv_xp.kl_div`.
    size_average, reduce : bool, optional
        Deprecated, as in PyTorch. If one is given, both select the reduction: ``"none"`` if ``reduce`` is false, else
        ``"sum"`` if ``size_average`` is false, else ``"mean"``.
    reduction, log_target, where, convention
        As in :func:`kldiv_xp.kl_div`.

    Returns
    -------
    Tensor
        As from :func:`kldiv_xp.kl_div`.

    Raises
    ------
    ValueError, TypeError
        As :func:`kldiv_xp.kl_div`. Also ``TypeError`` for a string as ``size_average`` or ``reduce``: PyTorch takes it
        for true, and :func:`kldiv_xp.kl_div` has the reduction in this place.

    Warns
    -----
    UserWarning
        For ``reduction="mean"``, which is not the divergence, and for the deprecated arguments; as PyTorch does.

    See Also
    --------
    kldiv_xp.kl_div : The same function for every library, without the deprecated arguments.

    References
    ----------
    https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.kl_div.html

    Examples
    --------
    >>> import torch
    >>> from kldiv_xp.torch import kl_div
    >>> kl_div(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]), reduction="batchmean")
    tensor(0.1438)
    """
    _refuse_reduction(size_average, reduce)
    tensors = (input, target) if where is None else (input, target, where)
    if _takes_part(tensors):
        result: Tensor = handle_torch_function(
            kl_div,
            tensors,
            input,
            target,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            log_target=log_target,
            where=where,
            convention=convention,
        )
        return result
    warning = None
    if size_average is not None or reduce is not None:
        reduction = _legacy_reduction(size_average, reduce)
        warning = f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead."
    elif reduction == "mean":
        warning = (
            'reduction="mean" divides by the number of elements, which is not the Kullback-Leibler divergence. For an'
            ' input of shape (N, C), "batchmean" gives the divergence'
        )
    if warning is not None and not torch.compiler.is_compiling():
        warnings.warn(warning, stacklevel=caller("torch"))
    return _kl_div(input, target, reduction, log_target, where=where, convention=convention)


def _takes_part(tensors: tuple[Tensor, ...]) -> bool:
    """Whether a mode or a type of tensor handles the call; ``torch.compile`` has done so before it traces."""
    return not torch.compiler.is_compiling() and has_torch_function(tensors)


def _legacy_reduction(size_average: bool | None, reduce: bool | None) -> Reduction:
    if reduce is not None and not reduce:
        return "none"
    return "mean" if size_average is None or size_average else "sum"


def _refuse_reduction(size_average: object, reduce: object) -> None:
    for name, given in (("size_average", size_average), ("reduce", reduce)):
        if isinstance(given, str):
            meant = "convention" if given in get_args(Convention) else "reduction"
            raise TypeError(f"{name} must be True, False or None, got {given!r}; name it: {meant}={given!r}")


class KLDivLoss(torch.nn.KLDivLoss):
    """Kullback-Leibler divergence loss as a module without parameters, in place of ``torch.nn.KLDivLoss``.

    It is a subclass of it, so that ``isinstance`` holds.

    Parameters
    ----------
    size_average, reduce, reduction, log_target, convention
        As in :func:`kl_div`. The constructor checks them. ``convention="torch"`` computes what ``torch.nn.KLDivLoss``
        computes, except that the gradient by a zero target is 0, not NaN.

    Examples
    --------
    >>> import torch
    >>> from kldiv_xp.torch import KLDivLoss
    >>> loss = KLDivLoss(reduction="batchmean")
    >>> loss
    KLDivLoss(reduction='batchmean', log_target=False, convention='oneflow')
    >>> student = torch.tensor([[0.25, 0.75]]).log().requires_grad_()
    >>> loss(student, torch.tensor([[0.5, 0.5]])).backward()
    >>> student.grad
    tensor([[-0.5000, -0.5000]])
    """

    reduction: Reduction

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: Reduction = "mean",
        log_target: bool = False,
        *,
        convention: Convention = "oneflow",
    ) -> None:
        _refuse_reduction(size_average, reduce)
        super().__init__(size_average, reduce, reduction, log_target)
        checked(self.reduction, log_target, convention)
        self.convention: Convention = convention

    def forward(self, input: Tensor, target: Tensor, where: Tensor | None = None) -> Tensor:
        """Loss of ``input`` against ``target``, where ``where`` is true; see :func:`kl_div`."""
        return kl_div(
            input,
            target,
            reduction=self.reduction,
            log_target=self.log_target,
            where=where,
            convention=self.convention,
        )

    def extra_repr(self) -> str:
        """Options for ``repr``."""
        return f"reduction={self.reduction!r}, log_target={self.log_target}, convention={self.convention!r}"


def _dispatched(function: Callable[..., Tensor], *tensors: Tensor, **options: Any) -> Tensor:
    """The function of the tensors, in which ``__torch_function__`` takes part."""
    given = tuple(tensor for tensor in (*tensors, options["where"]) if tensor is not None)
    if _takes_part(given):
        result: Tensor = handle_torch_function(function, given, *tensors, **options)
        return result
    return function(*tensors, **options)


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
        options = {"reduction": self.reduction, "temperature": self.temperature, "axis": self.axis, "where": where}
        return _dispatched(kl_div_with_logits, input, target, **options)

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
        options = {"reduction": self.reduction, "temperature": self.temperature, "axis": self.axis, "where": where}
        return _dispatched(js_div_with_logits, input, target, beta=self.beta, **options)

    def extra_repr(self) -> str:
        """Options for ``repr``."""
        return f"beta={self.beta}, reduction={self.reduction!r}, temperature={self.temperature}, axis={self.axis}"
