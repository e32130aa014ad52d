"""``kldiv_xp.torch`` stands in for PyTorch's function and module where programs rely on PyTorch's own habits."""

import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functionalize, grad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

import kldiv_xp
from kldiv_xp.torch import JSDivWithLogitsLoss, KLDivLoss, KLDivWithLogitsLoss, kl_div
from tests.backends import CONVENTIONS, REDUCTIONS

X = torch.tensor([[0.5, 1.5, 0.0], [1.0, 1.0, -1.0]]).log_softmax(-1)
Y = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]])
theirs = torch.nn.functional.kl_div
LEGACY = list(itertools.product([None, True, False], repeat=2))


class Plain(torch.Tensor):
    pass


def warned(call: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in seen]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("size_average", "reduce"), LEGACY)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_the_arguments_mean_what_they_mean_in_pytorch(
    size_average: bool | None, reduce: bool | None, reduction: Any
) -> None:
    expected = theirs(X, Y, size_average, reduce, reduction)
    torch.testing.assert_close(kl_div(X, Y, size_average, reduce, reduction), expected)
    torch.testing.assert_close(KLDivLoss(size_average, reduce, reduction)(X, Y), expected)
    module = torch.nn.KLDivLoss(size_average, reduce, reduction)
    assert KLDivLoss(size_average, reduce, reduction).reduction == module.reduction


@pytest.mark.parametrize(("size_average", "reduce"), LEGACY)
@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: x.as_subclass(Plain)], ids=["tensor", "subclass"])
def test_they_compile_into_one_graph(wrapped: Any, size_average: bool | None, reduce: bool | None) -> None:
    torch.compiler.reset()
    compiled = torch.compile(kl_div, fullgraph=True, backend="eager")
    result = compiled(wrapped(X), Y, size_average, reduce)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(result.as_subclass(torch.Tensor), theirs(X, Y, size_average, reduce))


@pytest.mark.filterwarnings("ignore")
def test_the_batch_mean_beside_a_deprecated_argument_divides_once() -> None:
    mean = theirs(X, Y, reduction="mean")
    torch.testing.assert_close(kl_div(X, Y, True, reduction="batchmean"), mean)
    torch.testing.assert_close(theirs(X, Y, True, reduction="batchmean"), mean / len(X))  # both divisors


@pytest.mark.parametrize(("size_average", "reduce"), [given for given in LEGACY if given != (None, None)])
def test_deprecated_arguments_warn_as_pytorch_does(size_average: bool | None, reduce: bool | None) -> None:
    (expected,) = warned(lambda: theirs(X, Y, size_average, reduce))
    assert warned(lambda: kl_div(X, Y, size_average, reduce)) == [expected]
    (of_module,) = warned(lambda: torch.nn.KLDivLoss(size_average, reduce))
    assert warned(lambda: KLDivLoss(size_average, reduce)) == [of_module]


@pytest.mark.parametrize("name", ["size_average", "reduce"])
@pytest.mark.parametrize(("given", "meant"), [("sum", "reduction"), ("torch", "convention")])
@pytest.mark.parametrize("loss", [lambda **given: kl_div(X, Y, **given), KLDivLoss])
def test_an_option_in_the_place_of_a_deprecated_argument_is_refused(
    loss: Any, given: str, meant: str, name: str
) -> None:
    with pytest.raises(TypeError, match=f"{name} must be True, False or None.*name it: {meant}='{given}'"):
        loss(**{name: given})


def test_the_mean_warns_as_that_of_pytorch_does() -> None:
    (expected,) = warned(lambda: theirs(X, Y))
    assert "'batchmean' divides only by the batch size" in expected
    for loss in (lambda: kl_div(X, Y), lambda: KLDivLoss()(X, Y)):
        (message,) = warned(loss)
        assert 'reduction="mean" divides by the number of elements' in message
        assert '"batchmean"' in message


@pytest.mark.parametrize("reduction", ["none", "sum", "batchmean"])
def test_other_reductions_do_not_warn(reduction: Any) -> None:
    assert warned(lambda: kl_div(X, Y, reduction=reduction)) == []
    assert warned(lambda: KLDivLoss(reduction=reduction)(X, Y)) == []


def test_the_mean_warns_once_for_each_line_that_calls_it() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            kl_div(X, Y)
        criterion = KLDivLoss()
        for _ in range(3):
            criterion(X, Y)
        kldiv_xp.kl_div(X, Y)  # the function of every library does not warn
    assert [warning.filename for warning in seen] == [__file__] * 2
    assert len({warning.lineno for warning in seen}) == 2


def test_the_module_is_one_of_pytorchs_losses() -> None:
    criterion = KLDivLoss(reduction="sum", log_target=True)
    assert isinstance(criterion, torch.nn.KLDivLoss)
    assert isinstance(criterion, torch.nn.modules.loss._Loss)


LOSSES: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., object]]] = {
    "kl_div": (lambda x, y: kl_div(x, y, reduction="sum"), kl_div),
    "KLDivLoss": (KLDivLoss(reduction="sum"), kl_div),
    "KLDivWithLogitsLoss": (KLDivWithLogitsLoss(), kldiv_xp.kl_div_with_logits),
    "JSDivWithLogitsLoss": (JSDivWithLogitsLoss(), kldiv_xp.js_div_with_logits),
}
each_loss = pytest.mark.parametrize(("loss", "function"), LOSSES.values(), ids=LOSSES)


class Seen(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.functions: list[object] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


class Tagged(torch.Tensor):
    seen: list[object] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


@each_loss
def test_a_mode_sees_one_call(loss: Any, function: Any) -> None:
    with Seen() as mode:
        value = loss(X, Y)
    assert mode.functions == [function]
    assert torch.equal(value, loss(X, Y))


@each_loss
def test_a_subclass_sees_one_call(loss: Any, function: Any) -> None:
    Tagged.seen.clear()
    value = loss(X.as_subclass(Tagged), Y)
    properties = {"__get__"}
    assert [seen for seen in Tagged.seen if getattr(seen, "__name__", "") not in properties] == [function]
    assert type(value) is Tagged
    assert torch.allclose(value.as_subclass(torch.Tensor), loss(X, Y))


@each_loss
def test_fx_traces_one_call(loss: Any, function: Any) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = loss

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.loss(x, y)
            return result

    traced = torch.fx.symbolic_trace(Model())
    calls = [node for node in traced.graph.nodes if node.op == "call_function"]
    assert [node.target for node in calls] == [function]
    assert torch.equal(traced(X, Y), loss(X, Y))


def test_a_mask_alone_can_be_a_subclass() -> None:
    Tagged.seen.clear()
    where = torch.tensor([[True, True, False]]).as_subclass(Tagged)
    kl_div(X, Y, reduction="sum", where=where)
    assert kl_div in Tagged.seen


def test_a_vectorised_value_compiles() -> None:
    mapped: Any = torch.compile(torch.vmap(kldiv_xp.KLDivLoss("sum")), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(mapped(X, Y), theirs(X, Y, reduction="none").sum(-1))


def of_each_kind() -> Iterator[Any]:
    for convention, log_target in itertools.product(CONVENTIONS, [False, True]):
        yield pytest.param(
            kldiv_xp.KLDivLoss("sum", log_target, convention=convention), id=f"{convention}-{log_target}"
        )
    yield pytest.param(kldiv_xp.KLDivWithLogitsLoss(), id="kl_div_with_logits")
    yield pytest.param(kldiv_xp.JSDivWithLogitsLoss(), id="js_div_with_logits")


TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "functionalize": functionalize,
    "functionalize(grad)": lambda loss: functionalize(grad(loss)),
    "grad(functionalize)": lambda loss: grad(functionalize(loss)),
    "make_fx": lambda loss: make_fx(loss)(X, Y),
    "make_fx(grad)": lambda loss: make_fx(grad(loss))(X, Y),
    "make_fx(functionalize)": lambda loss: make_fx(functionalize(loss))(X, Y),
    "make_fx, symbolic": lambda loss: make_fx(loss, tracing_mode="symbolic")(X, Y),
}


@pytest.mark.parametrize("loss", list(of_each_kind()))
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_functionalization_and_make_fx_take_the_loss(transform: str, loss: Any) -> None:
    expected = grad(loss)(X, Y) if "grad" in transform else loss(X, Y)
    torch.testing.assert_close(TRANSFORMS[transform](loss)(X, Y), expected)


@pytest.mark.parametrize("loss", list(of_each_kind()))
def test_fake_tensors_outside_of_their_mode_give_a_fake_tensor(loss: Any) -> None:
    mode = FakeTensorMode()
    value = loss(mode.from_tensor(X), mode.from_tensor(Y))
    assert isinstance(value, FakeTensor)
    assert value.shape == loss(X, Y).shape


def test_the_closed_form_takes_fake_tensors_outside_of_their_mode() -> None:
    mode = FakeTensorMode()
    x, y = mode.from_tensor(X), mode.from_tensor(Y)
    for value_and_grad in (kldiv_xp.kl_div_value_and_grad, kldiv_xp.kl_div_with_logits_value_and_grad):
        value, gradient = value_and_grad(x, y, "sum")
        assert isinstance(gradient, FakeTensor)
        assert (value.shape, gradient.shape) == ((), X.shape)


def tensors(rows: int, like: torch.Tensor) -> torch.Tensor:
    return like[torch.arange(rows) % len(like)]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:reduction")
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
class TestByTracing:
    def test_a_traced_program_takes_other_sizes_and_checks_shapes(self, reduction: Any, convention: Any) -> None:
        loss = KLDivLoss(reduction=reduction, convention=convention)
        traced: Any = torch.jit.trace(loss, (X, Y))  # type: ignore[no-untyped-call]
        x, y = tensors(5, X), tensors(5, Y)
        torch.testing.assert_close(traced(x, y), loss(x, y))
        for other in ((x, y[:1]), (x[:1], y), (x, y.T), (x, y[:, :1])):
            with pytest.raises(RuntimeError, match="equal size"):
                traced(*other)

    @pytest.mark.filterwarnings("ignore:You are using the legacy", "ignore:The feature will be removed")
    def test_the_exporter_by_tracing_takes_the_loss(self, reduction: Any, convention: Any, tmp_path: Path) -> None:
        loss, file = KLDivLoss(reduction=reduction, convention=convention), tmp_path / "loss.onnx"
        sizes = {"x": {0: "n"}, "y": {0: "n"}}
        torch.onnx.export(
            loss, (X, Y), str(file), dynamo=False, input_names=[*sizes], output_names=["loss"], dynamic_axes=sizes
        )
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        x, y = tensors(5, X), tensors(5, Y)
        (value,) = session.run(["loss"], {"x": x.numpy(), "y": y.numpy()})
        torch.testing.assert_close(torch.asarray(value), loss(x, y))


@pytest.mark.parametrize("size", [10, 10_000])
@pytest.mark.parametrize("loss", list(of_each_kind()))
def test_the_upstream_gradient_may_be_a_subclass(loss: Any, size: int) -> None:
    arguments = [tensors(size, z).requires_grad_() for z in (X, Y)]
    expected = torch.autograd.grad(loss(*arguments), arguments, torch.tensor(2.0))
    gradients = torch.autograd.grad(loss(*arguments), arguments, torch.tensor(2.0).as_subclass(Tagged))
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient.as_subclass(torch.Tensor), wanted)
