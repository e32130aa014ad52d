"""Uses of every public name, as programs write them: the type checker of ``make lint`` reads this file, too."""

from typing import TYPE_CHECKING, Any, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import kldiv_xp.torch
from kldiv_xp import (
    JSDivWithLogitsLoss,
    KLDivLoss,
    KLDivWithLogitsLoss,
    js_div_with_logits,
    js_div_with_logits_value_and_grad,
    kl_div,
    kl_div_value_and_grad,
    kl_div_with_logits,
    kl_div_with_logits_value_and_grad,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


def numpy_arrays() -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    return np.log(np.asarray([[0.25, 0.75], [0.5, 0.5]])), np.asarray([[0.5, 0.5], [1.0, 0.0]])


def test_a_gradient_has_the_methods_of_an_array() -> None:
    student, teacher = numpy_arrays()
    loss, gradient = kl_div_value_and_grad(student, teacher, "batchmean")
    assert_type(gradient, "NDArray[np.float64]")
    assert loss.round(4) == 0.4185
    assert gradient.tolist() == [[-0.25, -0.25], [-0.5, 0.0]]


def test_a_tuple_of_argnums_gives_a_tuple_of_as_many_arrays() -> None:
    student, teacher = numpy_arrays()
    _, gradients = kl_div_value_and_grad(student, teacher, "sum", argnums=(0, 1))
    assert_type(gradients, "tuple[NDArray[np.float64], NDArray[np.float64]]")
    by_student, by_teacher = gradients
    assert by_student.shape == by_teacher.shape
    _, one = kl_div_value_and_grad(student, teacher, "none", argnums=(1,), cotangent=student, where=teacher > 0.0)
    assert_type(one, "tuple[NDArray[np.float64]]")
    assert one[0].ndim == 2


def test_divergences_from_logits_have_the_types_of_the_losses() -> None:
    student, teacher = numpy_arrays()
    _, gradient = kl_div_with_logits_value_and_grad(student, teacher)
    _, gradients = js_div_with_logits_value_and_grad(student, teacher, argnums=(0, 1))
    assert_type(gradient, "NDArray[np.float64]")
    assert_type(gradients, "tuple[NDArray[np.float64], NDArray[np.float64]]")
    values = kl_div_with_logits(student, teacher), js_div_with_logits(student, teacher, 0.5)
    assert values == (KLDivWithLogitsLoss()(student, teacher), JSDivWithLogitsLoss()(student, teacher))


def test_the_loss_of_jax_arrays_is_one() -> None:
    loss = KLDivLoss("sum")(jnp.zeros(2), jnp.ones(2))
    assert_type(loss, jax.Array)
    assert isinstance(kl_div(jnp.zeros(2), jnp.ones(2), "sum", where=jnp.ones(2, bool)), jax.Array)


def test_the_loss_of_tensors_is_one() -> None:
    x, y = torch.zeros(2), torch.ones(2)
    assert_type(kl_div(x, y), torch.Tensor)
    assert_type(kldiv_xp.torch.kl_div(x, y, None, None, "none"), torch.Tensor)
    loss: torch.Tensor = kldiv_xp.torch.KLDivLoss(reduction="sum")(x, y)
    assert loss == 0.0


def test_what_is_no_array_is_an_error_to_the_checker_too() -> None:
    with pytest.raises(TypeError):
        kl_div([0.0], [1.0])  # type: ignore[type-var]
    with pytest.raises(TypeError):
        kl_div(0.0, 1.0)  # type: ignore[type-var]
    wrong: Any = "median"
    with pytest.raises(ValueError, match="median"):
        kl_div(*numpy_arrays(), wrong)
