"""``KLDivLoss`` is a value: what two programs, or two processes, mean by it is the same."""

import copy
import dataclasses
import inspect
import itertools
import pickle
import weakref
from typing import Any

import numpy as np
import pytest

from kldiv_xp import KLDivLoss, kl_div
from tests.backends import CONVENTIONS, REDUCTIONS, array

EVERY_CHOICE = list(itertools.product(REDUCTIONS, [False, True], CONVENTIONS))
EVERY_LOSS = [KLDivLoss(r, t, convention=c) for r, t, c in EVERY_CHOICE]


def test_the_defaults_are_those_of_the_function() -> None:
    assert KLDivLoss() == KLDivLoss("mean", False, convention="oneflow")
    of_class, of_function = inspect.signature(KLDivLoss), inspect.signature(kl_div)
    for name, parameter in of_class.parameters.items():
        assert parameter.default == of_function.parameters[name].default
        assert parameter.kind == of_function.parameters[name].kind


def test_reduction_and_log_target_come_by_position_and_convention_by_name() -> None:
    assert KLDivLoss("sum", True) == KLDivLoss(log_target=True, reduction="sum")
    with pytest.raises(TypeError, match="positional"):
        KLDivLoss("sum", True, "limit")  # type: ignore[call-arg]


@pytest.mark.parametrize("loss", EVERY_LOSS, ids=str)
def test_it_computes_what_the_function_computes(loss: KLDivLoss) -> None:
    x, y = np.log([[0.25, 0.75]]), np.asarray([[0.5, 0.5]])
    expected = kl_div(x, y, loss.reduction, loss.log_target, convention=loss.convention)
    np.testing.assert_array_equal(loss(x, y), expected, strict=True)
    np.testing.assert_array_equal(loss(input=x, target=y), expected, strict=True)


def test_it_works_with_every_library(xp: Any) -> None:
    assert float(KLDivLoss("sum")(array(xp, [-1.0]), array(xp, [1.0]))) == 1.0


def test_losses_are_equal_if_and_only_if_their_options_are() -> None:
    for (one, a), (other, b) in itertools.product(zip(EVERY_CHOICE, EVERY_LOSS, strict=True), repeat=2):
        assert (a == b) is (one == other)
    as_tuple: object = dataclasses.astuple(KLDivLoss())
    assert KLDivLoss() != as_tuple


def test_they_are_keys_of_a_dictionary() -> None:
    names = {loss: i for i, loss in enumerate(EVERY_LOSS)}
    assert len(names) == len(EVERY_LOSS)
    assert [names[KLDivLoss(r, t, convention=c)] for r, t, c in EVERY_CHOICE] == list(range(len(EVERY_LOSS)))


@pytest.mark.parametrize("loss", EVERY_LOSS, ids=str)
def test_its_repr_evaluates_to_it(loss: KLDivLoss) -> None:
    assert eval(repr(loss), {"KLDivLoss": KLDivLoss}) == loss


@pytest.mark.parametrize("loss", EVERY_LOSS, ids=str)
def test_its_copies_are_equal_to_it(loss: KLDivLoss) -> None:
    pickled = [pickle.loads(pickle.dumps(loss, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for twin in (*pickled, copy.copy(loss), copy.deepcopy(loss), dataclasses.replace(loss)):
        assert twin == loss
        assert hash(twin) == hash(loss)


def test_it_is_changed_by_making_another() -> None:
    assert dataclasses.replace(KLDivLoss(), convention="limit", log_target=True) == KLDivLoss(
        log_target=True, convention="limit"
    )
    with pytest.raises(ValueError, match="reduction"):
        dataclasses.replace(KLDivLoss(), reduction="median")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["reduction", "log_target", "convention", "something_else"])
def test_nothing_can_be_assigned_or_deleted(name: str) -> None:
    loss = KLDivLoss()
    with pytest.raises((AttributeError, TypeError)):
        setattr(loss, name, "sum")
    with pytest.raises((AttributeError, TypeError)):
        delattr(loss, name)
    assert loss == KLDivLoss()


def test_it_holds_its_options_and_nothing_else() -> None:
    loss = KLDivLoss("sum", True, convention="limit")
    assert dataclasses.asdict(loss) == {"reduction": "sum", "log_target": True, "convention": "limit"}


def test_it_can_be_referred_to_weakly() -> None:
    # jax.jit keeps what it compiled under a weak reference to the function.
    loss = KLDivLoss("sum")
    assert weakref.ref(loss)() is loss
