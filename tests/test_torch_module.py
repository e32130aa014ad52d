"""``kldiv_xp.torch.KLDivLoss`` does what ``torch.nn.KLDivLoss`` does where a program handles modules."""

import copy
import inspect
import io
import itertools
import pickle
from typing import Any

import pytest
import torch

import kldiv_xp
from kldiv_xp.torch import KLDivLoss
from tests.backends import CONVENTIONS, REDUCTIONS

EVERY_CHOICE = list(itertools.product(REDUCTIONS, [False, True], CONVENTIONS))
X, Y = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]]), torch.tensor([[0.5, 0.5], [0.0, 1.0]])

every_choice = pytest.mark.parametrize(("reduction", "log_target", "convention"), EVERY_CHOICE)


class Distillation(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.student = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LogSoftmax(dim=-1))
        self.loss = KLDivLoss(reduction="batchmean")

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.loss(self.student(x), target)
        return loss


@every_choice
def test_it_computes_what_the_function_computes(reduction: Any, log_target: bool, convention: Any) -> None:
    loss = KLDivLoss(reduction=reduction, log_target=log_target, convention=convention)(X, Y)
    assert torch.equal(loss, kldiv_xp.kl_div(X, Y, reduction, log_target, convention=convention))


@every_choice
def test_its_repr_evaluates_to_one_like_it(reduction: Any, log_target: bool, convention: Any) -> None:
    loss = KLDivLoss(reduction=reduction, log_target=log_target, convention=convention)
    twin = eval(repr(loss), {"KLDivLoss": KLDivLoss})
    assert (twin.reduction, twin.log_target, twin.convention) == (reduction, log_target, convention)
    assert repr(loss) == repr(kldiv_xp.KLDivLoss(reduction, log_target, convention=convention))


def parameters(function: Any) -> dict[str, tuple[object, object]]:
    return {name: (p.default, p.kind) for name, p in inspect.signature(function).parameters.items()}


def test_it_takes_the_arguments_of_pytorchs_module_and_those_of_the_value() -> None:
    of_pytorch = parameters(torch.nn.KLDivLoss)
    assert parameters(KLDivLoss) == of_pytorch | parameters(kldiv_xp.KLDivLoss)
    assert list(parameters(KLDivLoss))[: len(of_pytorch)] == list(of_pytorch)


def test_the_function_takes_the_arguments_of_pytorchs_function() -> None:
    of_pytorch, of_ours = parameters(torch.nn.functional.kl_div), parameters(kldiv_xp.torch.kl_div)
    assert dict(list(of_ours.items())[: len(of_pytorch)]) == of_pytorch


@pytest.mark.parametrize(
    ("options", "error"),
    [({"reduction": "sun"}, ValueError), ({"convention": "onnx"}, ValueError), ({"log_target": 1}, TypeError)],
)
def test_it_refuses_its_options_when_it_is_made(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        KLDivLoss(**options)


def test_it_has_no_state() -> None:
    loss = KLDivLoss(reduction="sum")
    assert loss.state_dict() == {}
    assert not list(loss.parameters())
    assert not list(loss.buffers())
    loss.load_state_dict(torch.nn.KLDivLoss(reduction="sum").state_dict())  # either can take the other's place


def test_it_moves_and_switches_mode_as_part_of_a_model() -> None:
    model = Distillation()
    assert model.to(torch.float64).to("cpu").double().loss is model.loss
    assert not model.eval().loss.training
    assert model.train().loss.training
    before = model.loss(X, Y)
    assert torch.equal(model.eval().loss(X, Y), before)


def test_a_model_learns_with_it() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Distillation()
        x, target = torch.randn(8, 4), torch.softmax(torch.randn(8, 3), dim=-1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(x, target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    twin = Distillation()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x, target), model(x, target))


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        lambda loss: pickle.loads(pickle.dumps(loss)),
        lambda loss: _saved_and_loaded(loss),
    ],
    ids=["copy", "deepcopy", "pickle", "torch.save"],
)
def test_its_copies_do_what_it_does(copied: Any) -> None:
    loss = KLDivLoss(reduction="sum", log_target=True, convention="limit").eval()
    twin = copied(loss)
    assert twin is not loss
    assert repr(twin) == repr(loss)
    assert twin.training is False
    assert torch.equal(twin(X, Y), loss(X, Y))
    whole = copied(Distillation())
    assert isinstance(whole.loss, KLDivLoss)


def test_its_options_can_be_assigned_as_those_of_torch_can() -> None:
    loss = KLDivLoss()
    loss.reduction, loss.log_target, loss.convention = "sum", True, "limit"
    assert torch.equal(loss(X, Y), kldiv_xp.kl_div(X, Y, "sum", True, convention="limit"))
    assert "reduction='sum', log_target=True, convention='limit'" in repr(loss)
    loss.reduction = "median"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="'median'"):
        loss(X, Y)


def test_it_stands_in_containers_and_hooks() -> None:
    losses = torch.nn.ModuleDict({"sum": KLDivLoss(reduction="sum"), "mean": KLDivLoss()})
    assert torch.equal(losses["sum"](X, Y) / 4, losses["mean"](X, Y))
    assert list(torch.nn.ModuleList(losses.values()).state_dict()) == []
    seen = []
    losses["sum"].register_forward_hook(lambda _, arguments, result: seen.append((len(arguments), result)))
    value = losses["sum"](X, Y)
    assert seen == [(2, value)]


def test_a_model_that_holds_it_is_compiled_as_one_graph() -> None:
    model = Distillation()
    x, target = torch.ones(2, 4), torch.full((2, 3), 1 / 3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    value = compiled(x, target)
    torch.testing.assert_close(value, model(x, target), rtol=4 * torch.finfo(value.dtype).eps, atol=0)
    value.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch.compiler.reset()


def _saved_and_loaded(module: torch.nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)
