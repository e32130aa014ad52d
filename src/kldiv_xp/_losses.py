"""The public loss: as a function, as a value with bound options, and with its gradient in closed form."""

from dataclasses import KW_ONLY, dataclass
from typing import TypeVar, overload

from kldiv_xp._arguments import ArrayLike, is_number, wanted_gradients
from kldiv_xp._options import Convention, Reduction, checked
from kldiv_xp.backends import find

Array = TypeVar("Array", bound=ArrayLike)


def kl_div(
    input: Array,
    target: Array,
    reduction: Reduction = "mean",
    log_target: bool = False,
    *,
    where: ArrayLike | None = None,
    convention: Convention = "oneflow",
) -> Array:
    """Kullback-Leibler divergence loss of ``input`` against ``target``.

    The loss of one element is ``p (log p - x)``, with the input ``x``, a log-probability, and the target ``p``, a
    probability (or, with ``log_target``, ``log p``). Probabilities need not be normalised.

    Parameters
    ----------
    input : array, shape (N, ...)
        Log-probabilities, of any real floating dtype and any number of dimensions, including zero. An array of any
        library that follows the array API standard.
    target : array, shape (N, ...)
        Probabilities, or log-probabilities with ``log_target=True``. Same shape, library and device as ``input``; the
        dtype may differ.
    reduction : {"mean", "sum", "batchmean", "none"}, default "mean"
        ``"mean"`` divides the sum by the number of elements, which is *not* the mathematical divergence;
        ``"batchmean"`` divides by the length of axis 0, which is, for arrays of shape (N, C). For (N, T, C), reshape
        both to (N T, C), or divide the sum by N T. For one distribution, of shape (C,), and under ``vmap``, use
        ``"sum"``. A 0-d array counts as a batch of one. The mean over no elements is NaN.
    log_target : bool, default False
        Whether ``target`` holds log-probabilities.
    where : array of bool, optional
        Mask that broadcasts against ``input``, of the same library. Where it is false, an element counts for nothing,
        whatever it holds, NaN included: it is 0 with ``"none"``, no part of a sum, and not counted by ``"mean"``. Its
        gradient is 0. ``"batchmean"`` divides by the length of axis 0 all the same.
    convention : {"oneflow", "torch", "limit"}, default "oneflow"
        The result where the formula is undefined. Elsewhere all three agree up to rounding.

        ========================  =================  ============  =========
        ..                        ``"oneflow"``      ``"torch"``   ``"limit"``
        ========================  =================  ============  =========
        p = 0, x finite           0                  0             0
        p = 0, x infinite         0                  NaN           0
        p = 0, x NaN              0                  NaN           NaN
        p < 0                     0                  NaN           NaN
        p NaN                     NaN                NaN           NaN
        log p = -inf, x not NaN   NaN                NaN           0
        ========================  =================  ============  =========

        ``"oneflow"`` also follows PyTorch up to 1.12, and ``"torch"`` later versions. In every convention, the gradient
        is finite wherever the loss is finite and p >= 0, unless it overflows itself. At a zero target the derivative
        by the target is 0.

    Returns
    -------
    array
        The loss, in the promoted dtype of the two arrays: a 0-d array, or with ``"none"`` an array of their shape.
        float16 and bfloat16 are computed in float32 and rounded once.

    Raises
    ------
    ValueError
        For an unknown ``reduction`` or ``convention``, shapes that differ (they are never broadcast), a ``where`` that
        does not broadcast against ``input``, or two devices.
        Unknown sizes of lazy arrays are compared when they are computed.
    TypeError
        For arguments that are not two arrays of one library (a NumPy array beside a JAX array is accepted), a dtype
        that is not real floating or has fewer than 16 bits, a subclass of ``numpy.ndarray``, or a ``log_target`` that
        is not a bool.

    Warns
    -----
    UserWarning
        If all targets are negative without ``log_target``: they are log-probabilities, or the arguments are exchanged.
        Only without ``where``, for concrete arrays of NumPy, PyTorch, JAX and array-api-strict on the CPU. Of JAX, only
        for arrays that are computed already, in the first 100 calls, and then in one of 100.

    See Also
    --------
    KLDivLoss : The same loss, with its options bound.
    kl_div_value_and_grad : The loss and its gradient, for libraries without autodiff.

    References
    ----------
    S. Kullback and R. A. Leibler, "On Information and Sufficiency", Annals of Mathematical Statistics 22 (1951),
    https://doi.org/10.1214/aoms/1177729694. The interface is that of
    https://docs.pytorch.org/docs/stable/generated/torch.nn.KLDivLoss.html.

    Examples
    --------
    >>> import numpy as np
    >>> from kldiv_xp import kl_div
    >>> student = np.log(np.asarray([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]]))
    >>> teacher = np.asarray([[0.5, 0.5, 0.0], [0.2, 0.5, 0.3]])
    >>> print(f"{kl_div(student, teacher, 'batchmean'):.6f}")
    0.082126
    >>> kl_div(student, teacher, "none").round(4)
    array([[-0.0912,  0.2554,  0.    ],
           [ 0.    ,  0.    ,  0.    ]])
    """
    options = checked(reduction, log_target, convention)
    loss: Array = find(input, target, where).loss(input, target, options, where)
    return loss


@dataclass(frozen=True)
class KLDivLoss:
    """The loss with its options bound, as an immutable value. Call it with the two arrays.

    It is hashable, comparable and picklable, and holds no arrays: it can be a static argument of ``jax.jit``, a
    dictionary key or a field of a configuration. ``kldiv_xp.torch.KLDivLoss`` is the ``torch.nn.Module``.

    Parameters
    ----------
    reduction, log_target, convention
        As in :func:`kl_div`, with the same defaults. The constructor checks them.

    See Also
    --------
    kl_div : The function, with the full documentation.

    Examples
    --------
    >>> import numpy as np
    >>> from kldiv_xp import KLDivLoss
    >>> loss = KLDivLoss("batchmean")
    >>> loss
    KLDivLoss(reduction='batchmean', log_target=False, convention='oneflow')
    >>> print(f"{loss(np.log(np.asarray([[0.25, 0.75]])), np.asarray([[0.5, 0.5]])):.6f}")
    0.143841
    """

    # Transformations ask a function for its name.
    __name__ = "KLDivLoss"

    reduction: Reduction = "mean"
    log_target: bool = False
    _: KW_ONLY
    convention: Convention = "oneflow"

    def __post_init__(self) -> None:
        checked(self.reduction, self.log_target, self.convention)

    def __call__(self, input: Array, target: Array, where: ArrayLike | None = None) -> Array:
        """Loss of ``input`` against ``target``, where ``where`` is true; see :func:`kl_div`."""
        return kl_div(input, target, self.reduction, self.log_target, where=where, convention=self.convention)


@overload
def kl_div_value_and_grad(
    input: Array,
    target: Array,
    reduction: Reduction = "mean",
    log_target: bool = False,
    *,
    where: ArrayLike | None = None,
    convention: Convention = "oneflow",
    argnums: int = 0,
    cotangent: Array | float | None = None,
) -> tuple[Array, Array]: ...
@overload
def kl_div_value_and_grad(
    input: Array,
    target: Array,
    reduction: Reduction = "mean",
    log_target: bool = False,
    *,
    where: ArrayLike | None = None,
    convention: Convention = "oneflow",
    argnums: tuple[int],
    cotangent: Array | float | None = None,
) -> tuple[Array, tuple[Array]]: ...
@overload
def kl_div_value_and_grad(
    input: Array,
    target: Array,
    reduction: Reduction = "mean",
    log_target: bool = False,
    *,
    where: ArrayLike | None = None,
    convention: Convention = "oneflow",
    argnums: tuple[int, int],
    cotangent: Array | float | None = None,
) -> tuple[Array, tuple[Array, Array]]: ...
def kl_div_value_and_grad(
    input: Array,
    target: Array,
    reduction: Reduction = "mean",
    log_target: bool = False,
    *,
    where: ArrayLike | None = None,
    convention: Convention = "oneflow",
    argnums: int | tuple[int, ...] = 0,
    cotangent: Array | float | None = None,
) -> tuple[Array, Array | tuple[Array, ...]]:
    """Loss and its gradient in closed form, for libraries without autodiff and to check autodiff.

    The derivatives of one element's loss are ``-p`` by the input and ``log p + 1 - x`` by the target; with
    ``log_target`` they are ``-p`` and ``p (log p + 1 - x)``. Both are 0 where the convention defines the loss of the
    element as 0.

    Parameters
    ----------
    input, target, reduction, log_target, where, convention
        As in :func:`kl_div`.
    argnums : int or tuple of int, default 0
        Which gradient to return: 0 for ``input``, 1 for ``target``, or a tuple of these, as in ``jax.value_and_grad``.
    cotangent : array or float, optional
        Gradient of the final result by this loss, of the loss's shape. It multiplies the gradients. Required with
        ``reduction="none"``; otherwise 1 by default.

    Returns
    -------
    loss : array
        As from :func:`kl_div`.
    gradient : array or tuple of arrays
        Each of the shape and dtype of its argument; a tuple if ``argnums`` is one.

    Raises
    ------
    ValueError, TypeError
        As :func:`kl_div`. Also ``ValueError`` for ``argnums`` that are not 0, 1 or a tuple of these, for a missing
        ``cotangent``, and for a ``cotangent`` whose shape is not that of the loss; ``TypeError`` for a ``cotangent``
        that is neither a number nor an array of the same library.

    See Also
    --------
    kl_div : The loss alone, which JAX and PyTorch can differentiate.

    Examples
    --------
    >>> import numpy as np
    >>> from kldiv_xp import kl_div_value_and_grad
    >>> student, teacher = np.log(np.asarray([[0.25, 0.75]])), np.asarray([[0.5, 0.5]])
    >>> loss, gradient = kl_div_value_and_grad(student, teacher, "batchmean")
    >>> print(f"{loss:.6f}", gradient)
    0.143841 [[-0.5 -0.5]]
    """
    options = checked(reduction, log_target, convention)
    wanted = wanted_gradients(argnums)
    backend = find(input, target, where, None if is_number(cotangent) else cotangent)
    loss, gradients = backend.value_and_grad(input, target, options, wanted, cotangent, where)
    return loss, tuple(gradients) if isinstance(argnums, tuple) else gradients[0]
