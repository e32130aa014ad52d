"""PyTorch's own tests of the loss: the cases and test classes of ``torch.testing._internal``.

The files of PyTorch that run them are in no package, so their steps are repeated here.
"""

import io
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.testing._internal import common_nn, composite_compliance, optests
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_utils import gradcheck, gradgradcheck, noncontiguous_like
from torch.utils._pytree import tree_map

import kldiv_xp.torch

LICENCE = "BSD-3-Clause"
WHAT = 'PyTorch\'s own cases and test classes of the loss (`torch.testing._internal`), with `convention="torch"`'
PACKAGES = ("torch",)
EXCLUDED = (
    "the default convention: the ModuleInfo has negative targets, for which PyTorch and its reference give NaN",
    "test_grad, test_gradgrad and test_memory_format of the ModuleInfo: PyTorch skips them for this loss",
    "scripts of torch.jit: kldiv_xp does not support them",
    "shapes that differ, integer and complex dtypes: an error by design, and none of PyTorch's cases has them",
    "16 bits against the reference: PyTorch rounds more than once, and misses the tolerance in 6 of 32 cases",
    "other devices than the CPU",
)
OP = next(op for op in op_db if op.name == "nn.functional.kl_div")
MODULE = next(module for module in module_db if module.module_cls is torch.nn.KLDivLoss)

Check = Callable[[], object]


class _Module(kldiv_xp.torch.KLDivLoss):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, convention="torch", **options)


def losses() -> list[tuple[Any, str, Any]]:
    function = partial(kldiv_xp.torch.kl_div, convention="torch")
    return [
        (torch.nn.functional, "kl_div", function),
        (torch.nn, "KLDivLoss", _Module),
        (OP, "op", function),
        (MODULE, "module_cls", _Module),
    ]


class _Case(common_nn.NNTestCase):
    """What the test classes call, as in PyTorch's test/test_nn.py, for modules without parameters."""

    def runTest(self) -> None:  # noqa: N802
        pass

    def _forward(self, module: Any, input: Any) -> Any:
        return module(*input) if isinstance(input, tuple) else module(input)

    def _forward_criterion(self, criterion: Any, input: Any, target: Any, extra_args: Any = ()) -> Any:
        return criterion(input, target, *extra_args)

    def _backward(self, module: Any, input: Any, output: Tensor, grad_output: Tensor) -> Any:
        output.backward(grad_output, retain_graph=True)
        return tree_map(lambda x: x.grad, input)

    def _get_parameters(self, module: Any) -> tuple[list[Any], list[Any]]:
        return [], []

    def _zero_grad_parameters(self, module: Any) -> None:
        pass


CASE = _Case()
same = CASE.assertEqual


def _result(function: Callable[..., Tensor], tensors: Any, **options: Any) -> tuple[Tensor, ...]:
    """The loss, and its gradients by the tensors that require one."""
    tensors = [x.detach().requires_grad_(x.requires_grad) for x in tensors]
    loss = function(*tensors, **options)
    by = [x for x in tensors if x.requires_grad]
    return loss, *(torch.autograd.grad(loss, by, torch.ones_like(loss)) if by else ())


def _equal_results(sample: Any, other: Any) -> None:
    same(_result(OP, (sample.input, *sample.args), **sample.kwargs), other)


def _against_the_reference(sample: Any) -> None:
    _equal_results(sample, _result(common_nn.kldivloss_reference, (sample.input, *sample.args), **sample.kwargs))


def _not_contiguous(sample: Any) -> None:
    other = sample.noncontiguous()
    _equal_results(sample, _result(OP, (other.input, *other.args), **other.kwargs))


def _meta(sample: Any) -> None:
    other = sample.transform(lambda x: x.to("meta"))
    found, expected = (OP(s.input, *s.args, **s.kwargs) for s in (other, sample))
    same((found.shape, found.dtype, found.stride()), (expected.shape, expected.dtype, expected.stride()))


def _fake(sample: Any) -> None:
    expected = OP(sample.input, *sample.args, **sample.kwargs)
    with FakeTensorMode() as mode:
        other = sample.transform(mode.from_tensor)
        found = OP(other.input, *other.args, **other.kwargs)
    same((found.shape, found.dtype, found.stride()), (expected.shape, expected.dtype, expected.stride()))
    optests.fake_check(OP, (sample.input, *sample.args), sample.kwargs)


def _gradients(check: Callable[..., bool], sample: Any, **options: Any) -> None:
    function = partial(OP, **sample.kwargs)
    tensors = (sample.input, *sample.args)
    assert check(function, tensors, check_batched_grad=OP.check_batched_grad, **options)


def _op_checks() -> Iterator[tuple[str, Check]]:
    for dtype in sorted(OP.dtypes, key=str):
        for sample in OP.sample_inputs("cpu", dtype, requires_grad=True):
            if dtype.itemsize > 2:
                yield "OpInfo: forward and backward against the reference", partial(_against_the_reference, sample)
            yield "OpInfo: non-contiguous, forward and backward", partial(_not_contiguous, sample)
            yield "OpInfo: meta tensors", partial(_meta, sample)
            yield "OpInfo: fake tensors", partial(_fake, sample)
    for sample in OP.sample_inputs("cpu", torch.float64, requires_grad=True):
        yield (
            "OpInfo: gradcheck, with forward mode",
            partial(_gradients, gradcheck, sample, check_forward_ad=True, check_batched_forward_grad=True),
        )
        yield "OpInfo: gradgradcheck", partial(_gradients, gradgradcheck, sample)
        yield "OpInfo: forward over reverse", partial(_gradients, gradgradcheck, sample, check_fwd_over_rev=True)
        arguments = (OP, (sample.input, *sample.args), sample.kwargs)
        for check in (composite_compliance.check_with_mode, composite_compliance.check_all_permutations):
            yield "OpInfo: composite compliance", partial(check, *arguments, same)
        for check in (composite_compliance.check_backward_formula, composite_compliance.check_forward_ad_formula):
            yield "OpInfo: composite compliance", partial(check, *arguments, assert_equal_fn=same)
        for dynamic in (False, True):
            yield "OpInfo: AOTAutograd", partial(optests.aot_autograd_check, *arguments, dynamic)


def _made(case: Any) -> Any:
    return MODULE.module_cls(*case.constructor_input.args, **case.constructor_input.kwargs)


def _module_forward(case: Any) -> None:
    module, tensors = _made(case), case.forward_input.args
    same(module(*tensors), case.reference_fn(module, *tensors))
    repr(module)


def _module_pickled(case: Any) -> None:
    module, tensors = _made(case), case.forward_input.args
    counted = type(module)  # which pickle does not find
    module.__class__ = counted.__mro__[1]
    with io.BytesIO() as file:
        torch.save(module, file)
        file.seek(0)
        copy = torch.load(file, weights_only=False)
    module.__class__ = copy.__class__ = counted
    same(copy(*tensors), module(*tensors))
    copy.load_state_dict(module.state_dict())


def _module_not_contiguous(case: Any) -> None:
    module, tensors = _made(case), case.forward_input.args
    same(_result(module, map(noncontiguous_like, tensors)), _result(module, tensors))


def _module_checks() -> Iterator[tuple[str, Check]]:
    for dtype in MODULE.dtypes:
        options = {"device": "cpu", "dtype": dtype, "training": True}
        for case in MODULE.module_inputs_func(MODULE, requires_grad=False, **options):
            yield "ModuleInfo: forward against the reference", partial(_module_forward, case)
            yield "ModuleInfo: pickled", partial(_module_pickled, case)
        for case in MODULE.module_inputs_func(MODULE, requires_grad=True, **options):
            yield "ModuleInfo: non-contiguous, forward and backward", partial(_module_not_contiguous, case)


def _class_checks() -> Iterator[tuple[str, Check]]:
    for kind, cases in (
        (common_nn.NewModuleTest, common_nn.get_new_module_tests()),
        (common_nn.CriterionTest, common_nn.criterion_tests),
    ):
        for case in cases:
            if "KLDivLoss" in case.get("fullname", ""):
                yield f"{kind.__name__}: its checks of a case", partial(kind(**case), CASE)


def figures() -> dict[str, Any]:
    torch.manual_seed(0)
    found: Counter[str] = Counter()
    for checks in (_op_checks, _module_checks, _class_checks):
        for name, check in checks():
            found[f"{name}: failures"] += 0
            try:
                check()
            except Exception:
                found[f"{name}: failures"] += 1
                traceback.print_exc(limit=-4, file=sys.stdout)
            found[name] += 1
    values = {}
    for dtype in (torch.float32, torch.float64):
        for number, sample in enumerate(OP.sample_inputs("cpu", dtype, requires_grad=True)):
            for part, result in zip(
                ("loss", "by input", "by target"),
                _result(OP, (sample.input, *sample.args), **sample.kwargs),
                strict=True,
            ):
                values[f"OpInfo: sample {number}, {dtype}, {part}"] = result.norm()
    return {**found, **values}
