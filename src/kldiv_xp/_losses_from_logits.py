"""The public divergences between softmaxes: as functions, as values with bound options, and with their gradients."""

from dataclasses import KW_ONLY, dataclass
from typing import TypeVar, overload

from kldiv_xp._arguments import ArrayLike, is_number, wanted_gradients
from kldiv_xp._options import LogitsOptions, Reduction, checked_from_logits
from kldiv_xp.backends import find

Array = TypeVar("Array", bound=ArrayLike)


def kl_div_with_logits(
    input: Array,
    target: Array,
    reduction: Reduction = "batchmean",
    *,
    temperature: float = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    """Kullback-Leibler divergence between the softmaxes of two arrays of logits.

    With ``q = softmax(input / T)`` and ``p = softmax(target / T)``, the loss of a row is ``KL(p || q)``, the sum of
    ``p (log p - log q)`` over the classes. It is not multiplied by ``T**2``; a distillation loss whose gradients should
    not depend on the temperature needs this factor. ``KL(q || p)`` is the same with the arguments exchanged.

    Parameters
    ----------
    input : array, shape (N, ..., C)
        Logits of the student, of any real floating dtype. An array of any library that follows the array API standard.
    target : array, shape (N, ..., C)
        Logits of the teacher. Same shape, library and device as ``input``; the dtype may differ.
    reduction : {"batchmean", "mean", "sum", "none"}, default "batchmean"
        ``"none"`` gives one number for each row, in the shape of the arrays without ``axis``; ``"sum"`` adds them up;
        ``"mean"`` divides the sum by the number of rows that count; ``"batchmean"`` divides it by the length of axis 0
        of the rows, which is 1 if the arrays have no axis but the classes. The mean over no rows is NaN, with gradients
        of 0.
    temperature : float, default 1.0
        What both arrays are divided by: a positive finite number.
    axis : int, default -1
        Axis of the classes.
    where : array of bool, optional
        Mask of the rows, which broadcasts against their shape. A row where it is false may hold anything, NaN included.
        It counts for nothing, and its gradient is 0.

    Returns
    -------
    array
        The loss, in the promoted dtype of the two arrays. float16 and bfloat16 are computed in float32 or wider, and
        rounded once.

    Raises
    ------
    ValueError
        For a ``temperature`` that is not a positive finite number, an unknown ``reduction``, an ``axis`` that the
        arrays do not have, shapes that differ, a ``where`` that does not broadcast against the rows, or two devices.
    TypeError
        For arguments that are not two arrays of one library, or a dtype that is not real floating or has fewer than 16
        bits.

    See Also
    --------
    js_div_with_logits : The Jensen-Shannon divergence, of which this is the limit ``beta=0``.
    kl_div_with_logits_value_and_grad : The loss and its gradient, for libraries without autodiff.

    Notes
    -----
    A logit of -inf is a class that is impossible. If it is impossible in both arrays, it takes no part; in the target
    alone, it costs nothing; in the input alone, the loss is infinite, and the gradient by the input stays finite. A row
    whose classes are all impossible, or with a logit of NaN or +inf, gives NaN.

    References
    ----------
    G. Hinton, O. Vinyals and J. Dean, "Distilling the Knowledge in a Neural Network", 2015,
    https://arxiv.org/abs/1503.02531.

    Examples
    --------
    >>> import numpy as np
    >>> from kldiv_xp import kl_div_with_logits
    >>> student = np.asarray([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]])
    >>> teacher = np.asarray([[1.0, 2.0, -np.inf], [0.0, 1.0, 2.0]])
    >>> print(f"{kl_div_with_logits(student, teacher, temperature=2.0):.6f}")
    0.173415
    >>> kl_div_with_logits(student, teacher, "none").round(4)
    array([0.1511, 0.2668])
    """
    options = checked_from_logits(0.0, reduction, temperature, axis)
    loss: Array = find(input, target, where).loss_from_logits(input, target, options, where)
    return loss


def js_div_with_logits(
    input: Array,
    target: Array,
    beta: float = 0.5,
    reduction: Reduction = "batchmean",
    *,
    temperature: float = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    """Generalised Jensen-Shannon divergence between the softmaxes of two arrays of logits.

    With ``q = softmax(input / T)``, ``p = softmax(target / T)`` and the mixture ``m = beta p + (1 - beta) q``, the loss
    of a row is ``beta KL(p || m) + (1 - beta) KL(q || m)``. It is finite for any finite logits, and for classes that
    are impossible on either side.

    Parameters
    ----------
    input, target, reduction, temperature, axis, where
        As in :func:`kl_div_with_logits`.
    beta : float, default 0.5
        Share of the teacher in the mixture, from 0 to 1. 0.5 is the symmetric divergence. At 0 and 1, where the formula
        gives 0, it is ``KL(p || q)`` and ``KL(q || p)``, the limits of the divergence over ``beta (1 - beta)``.

    Returns
    -------
    array
        As from :func:`kl_div_with_logits`.

    Raises
    ------
    ValueError, TypeError
        As :func:`kl_div_with_logits`. Also ``ValueError`` for a ``beta`` outside [0, 1].

    See Also
    --------
    kl_div_with_logits : The function, with the full documentation of its parameters.

    References
    ----------
    R. Agarwal et al., "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes", 2023,
    https://arxiv.org/abs/2306.13649, equation 1.

    Examples
    --------
    >>> import numpy as np
    >>> from kldiv_xp import js_div_with_logits
    >>> student, teacher = np.asarray([[1.0, 2.0, -np.inf]]), np.asarray([[1.0, -np.inf, 2.0]])
    >>> print(f"{js_div_with_logits(student, teacher):.6f}")
    0.506731
    """
    options = checked_from_logits(beta, reduction, temperature, axis)
    loss: Array = find(input, target, where).loss_from_logits(input, target, options, where)
    return loss


@dataclass(frozen=True)
class KLDivWithLogitsLoss:
    """:func:`kl_div_with_logits` with its options bound, as an immutable value. Call it with the two arrays.

    It is hashable, comparable and picklable, and holds no arrays: it can be a static argument of ``jax.jit``.
    ``kldiv_xp.torch.KLDivWithLogitsLoss`` is the ``torch.nn.Module``.

    Parameters
    ----------
    reduction, temperature, axis
        As in :func:`kl_div_with_logits`, with the same defaults. The constructor checks them.

    Examples
    --------
    >>> import numpy as np
    >>> from kldiv_xp import KLDivWithLogitsLoss
    >>> loss = KLDivWithLogitsLoss(temperature=2.0)
    >>> loss
    KLDivWithLogitsLoss(reduction='batchmean', temperature=2.0, axis=-1)
    >>> print(f"{loss(np.asarray([[1.0, 2.0]]), np.asarray([[2.0, 2.0]])):.6f}")
    0.030930
    """

    __name__ = "KLDivWithLogitsLoss"  # as KLDivLoss has

    reduction: Reduction = "batchmean"
    _: KW_ONLY
    temperature: float = 1.0
    axis: int = -1

    def __post_init__(self) -> None:
        checked_from_logits(0.0, self.reduction, self.temperature, self.axis)

    def __call__(self, input: Array, target: Array, where: ArrayLike | None = None) -> Array:
        """Loss of ``input`` against ``target``, of the rows where ``where`` is true."""
        return kl_div_with_logits(
            input, target, self.reduction, temperature=self.temperature, axis=self.axis, where=where
        )


@dataclass(frozen=True)
class JSDivWithLogitsLoss:
    """:func:`js_div_with_logits` with its options bound, as an immutable value. Call it with the two arrays.

    It is hashable, comparable and picklable, and holds no arrays: it can be a static argument of ``jax.jit``.
    ``kldiv_xp.torch.JSDivWithLogitsLoss`` is the ``torch.nn.Module``.

    Parameters
    ----------
    beta, reduction, temperature, axis
        As in :func:`js_div_with_logits`, with the same defaults. The constructor checks them.

    Examples
    --------
    >>> import numpy as np
    >>> from kldiv_xp import JSDivWithLogitsLoss
    >>> loss = JSDivWithLogitsLoss(0.1, "sum")
    >>> loss
    JSDivWithLogitsLoss(beta=0.1, reduction='sum', temperature=1.0, axis=-1)
    >>> print(f"{loss(np.asarray([[1.0, 2.0]]), np.asarray([[2.0, 2.0]])):.6f}")
    0.010677
    """

    __name__ = "JSDivWithLogitsLoss"  # as KLDivLoss has

    beta: float = 0.5
    reduction: Reduction = "batchmean"
    _: KW_ONLY
    temperature: float = 1.0
    axis: int = -1

    def __post_init__(self) -> None:
        checked_from_logits(self.beta, self.reduction, self.temperature, self.axis)

    def __call__(self, input: Array, target: Array, where: ArrayLike | None = None) -> Array:
        """Loss of ``input`` against ``target``, of the rows where ``where`` is true."""
        return js_div_with_logits(
            input, target, self.beta, self.reduction, temperature=self.temperature, axis=self.axis, where=where
        )


@overload
def kl_div_with_logits_value_and_grad(
    input: Array,
    target: Array,
    reduction: Reduction = "batchmean",
    *,
    temperature: float = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
    argnums: int = 0,
    cotangent: Array | float | None = None,
) -> tuple[Array, Array]: ...
@overload
def kl_div_with_logits_value_and_grad(
    input: Array,
    target: Array,
    reduction: Reduction = "batchmean",
    *,
    temperature: float = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
    argnums: tuple[int],
    cotangent: Array | float | None = None,
) -> tuple[Array, tuple[Array]]: ...
@overload
def kl_div_with_logits_value_and_grad(
    input: Array,
    target: Array,
    reduction: Reduction = "batchmean",
    *,
    temperature: float = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
    argnums: tuple[int, int],
    cotangent: Array | float | None = None,
) -> tuple[Array, tuple[Array, Array]]: ...
def kl_div_with_logits_value_and_grad(
    input: Array,
    target: Array,
    reduction: Reduction = "batchmean",
    *,
    temperature: float = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
    argnums: int | tuple[int, ...] = 0,
    cotangent: Array | float | None = None,
) -> tuple[Array, Array | tuple[Array, ...]]:
    """:func:`kl_div_with_logits` and its gradient in closed form, for libraries without autodiff and to check autodiff.

    The derivatives of a row's loss are ``(q - p) / T`` by the input and ``p (log p - log q - KL(p || q)) / T`` by the
    target.

    Parameters
    ----------
    input, target, reduction, temperature, axis, where
        As in :func:`kl_div_with_logits`.
    argnums : int or tuple of int, default 0
        Which gradient to return: 0 for ``input``, 1 for ``target``, or a tuple of these, as in ``jax.value_and_grad``.
    cotangent : array or float, optional
        Gradient of the final result by this loss, of the loss's shape. It multiplies the gradients. Required with
        ``reduction="none"``; otherwise 1 by default.

    Returns
    -------
    loss : array
        As from :func:`kl_div_with_logits`.
    gradient : array or tuple of arrays
        Each of the shape and dtype of its argument; a tuple if ``argnums`` is one.

    Raises
    ------
    ValueError, TypeError
        As :func:`kl_div_with_logits`, and as :func:`kl_div_value_and_grad` for ``argnums`` and ``cotangent``.

    Examples
    --------
    >>> import numpy as np
    >>> from kldiv_xp import kl_div_with_logits_value_and_grad
    >>> student, teacher = np.log(np.asarray([[0.25, 0.75]])), np.zeros((1, 2))
    >>> loss, gradient = kl_div_with_logits_value_and_grad(student, teacher)
    >>> print(f"{loss:.6f}", gradient.round(6))
    0.143841 [[-0.25  0.25]]
    """
    options = checked_from_logits(0.0, reduction, temperature, axis)
    return _value_and_grad(input, target, options, where, argnums, cotangent)


@overload
def js_div_with_logits_value_and_grad(
    input: Array,
    target: Array,
    beta: float = 0.5,
    reduction: Reduction = "batchmean",
    *,
    temperature: float = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
    argnums: int = 0,
    cotangent: Array | float | None = None,
) -> tuple[Array, Array]: ...
@overload
def js_div_with_logits_value_and_grad(
    input: Array,
    target: Array,
    beta: float = 0.5,
    reduction: Reduction = "batchmean",
    *,
    temperature: float = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
    argnums: tuple[int],
    cotangent: Array | float | None = None,
) -> tuple[Array, tuple[Array]]: ...
@overload
def js_div_with_logits_value_and_grad(
    input: Array,
    target: Array,
    beta: float = 0.5,
    reduction: Reduction = "batchmean",
    *,
    temperature: float = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
    argnums: tuple[int, int],
    cotangent: Array | float | None = None,
) -> tuple[Array, tuple[Array, Array]]: ...
def js_div_with_logits_value_and_grad(
    input: Array,
    target: Array,
    beta: float = 0.5,
    reduction: Reduction = "batchmean",
    *,
    temperature: float = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
    argnums: int | tuple[int, ...] = 0,
    cotangent: Array | float | None = None,
) -> tuple[Array, Array | tuple[Array, ...]]:
    """:func:`js_div_with_logits` and its gradient in closed form, for libraries without autodiff and to check autodiff.

    The derivatives of a row's loss are ``(1 - beta) q (log(q / m) - KL(q || m)) / T`` by the input and
    ``beta p (log(p / m) - KL(p || m)) / T`` by the target; at ``beta`` 0 and 1, those of the divergence that it stands
    for.

    Parameters
    ----------
    input, target, beta, reduction, temperature, axis, where
        As in :func:`js_div_with_logits`.
    argnums, cotangent
        As in :func:`kl_div_with_logits_value_and_grad`.

    Returns
    -------
    loss : array
        As from :func:`js_div_with_logits`.
    gradient : array or tuple of arrays
        Each of the shape and dtype of its argument; a tuple if ``argnums`` is one.

    Raises
    ------
    ValueError, TypeError
        As :func:`js_div_with_logits` and :func:`kl_div_with_logits_value_and_grad`.

    Examples
    --------
    >>> import numpy as np
    >>> from kldiv_xp import js_div_with_logits_value_and_grad
    >>> student, teacher = np.asarray([[1.0, 2.0]]), np.asarray([[2.0, 2.0]])
    >>> loss, gradients = js_div_with_logits_value_and_grad(student, teacher, argnums=(0, 1))
    >>> print(f"{loss:.6f}", *(gradient.round(4) for gradient in gradients))
    0.028535 [[-0.052  0.052]] [[ 0.0588 -0.0588]]
    """
    options = checked_from_logits(beta, reduction, temperature, axis)
    return _value_and_grad(input, target, options, where, argnums, cotangent)


def _value_and_grad(
    input: Array,
    target: Array,
    options: LogitsOptions,
    where: ArrayLike | None,
    argnums: int | tuple[int, ...],
    cotangent: Array | float | None,
) -> tuple[Array, Array | tuple[Array, ...]]:
    wanted = wanted_gradients(argnums)
    backend = find(input, target, where, None if is_number(cotangent) else cotangent)
    loss, gradients = backend.value_and_grad_from_logits(input, target, options, wanted, cotangent, where)
    return loss, tuple(gradients) if isinstance(argnums, tuple) else gradients[0]
