"""Losses whose faults depend on how they are called; users reported most of these faults in other losses.

They are right for one call on small contiguous arrays, with both gradients and an upstream gradient of one.
``python -m conformance.faults`` shows which cases catch each fault.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import kl_div

from conformance.implementations import reference
from conformance.implementations.torch import TorchTensors
from conformance.judge import Verdict, judge
from conformance.record import Case, Implementation, load_corpus
from conformance.run import expected_outcome

BLOCK = 65_536
"""Elements of a block."""


class Fused(torch.autograd.Function):
    """PyTorch's loss with its own backward pass, like a fused kernel; this class has no fault."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, options: dict[str, Any]) -> Tensor:
        """Loss."""
        # As in PyTorch: the derivative by the input needs only the target.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else torch.zeros_like(x), y)
        ctx.options = options
        return kl_div(x, y, **options)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        """Gradients by both tensors."""
        return *_gradients(ctx, *upstream), None


def _gradients(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
    x, y = ctx.saved_tensors
    return _gradients_of(x, y, ctx.options, upstream)


def _gradients_of(x: Tensor, y: Tensor, options: dict[str, Any], upstream: Tensor | None = None) -> tuple[Tensor, ...]:
    """Gradients of PyTorch's loss; without an upstream gradient, of its sum."""
    x, y = (tensor.detach().requires_grad_() for tensor in (x, y))
    with torch.enable_grad():
        loss = kl_div(x, y, **options)
    return torch.autograd.grad(loss, (x, y), torch.ones_like(loss) if upstream is None else upstream)


def _as_if_contiguous(x: Tensor) -> Tensor:
    """The elements that a kernel reads if it assumes a contiguous array."""
    memory = torch.as_strided(x, (x.untyped_storage().nbytes() // x.element_size() - x.storage_offset(),), (1,))
    return memory.repeat(-(-x.numel() // max(memory.numel(), 1)) or 1)[: x.numel()].reshape(x.shape)


class IgnoresUpstream(Fused):  # noqa: D101
    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: D102
        return Fused.backward(ctx, torch.ones_like(upstream[0]))


class IgnoresUpstreamOfTarget(Fused):  # noqa: D101
    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: D102
        return _gradients(ctx, upstream[0])[0], _gradients(ctx, torch.ones_like(upstream[0]))[1], None


class FirstElementOfUpstream(Fused):  # noqa: D101
    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: D102
        first = upstream[0].flatten()[:1]
        return Fused.backward(ctx, first.expand(upstream[0].numel()).reshape(upstream[0].shape))


class UpstreamAsIfContiguous(Fused):  # noqa: D101
    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: D102
        return Fused.backward(ctx, _as_if_contiguous(upstream[0]))


class RefusesExpandedUpstream(Fused):  # noqa: D101
    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: D102
        if 0 in upstream[0].stride():
            raise ValueError("the upstream gradient must have a last stride of 1")
        return Fused.backward(ctx, *upstream)


class DividesByUpstream(Fused):  # noqa: D101
    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: D102
        scaled = _gradients(ctx, upstream[0] * upstream[0])
        return *(gradient / upstream[0] for gradient in scaled), None


class ReadsInputAsIfContiguous(Fused):  # noqa: D101
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, options: dict[str, Any]) -> Tensor:  # noqa: D102
        return Fused.forward(ctx, _as_if_contiguous(x), y, options)


class ReadsTargetAsIfContiguous(Fused):  # noqa: D101
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, options: dict[str, Any]) -> Tensor:  # noqa: D102
        return Fused.forward(ctx, x, _as_if_contiguous(y), options)


class RefusesStridesInBackward(Fused):  # noqa: D101
    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: D102
        for saved in ctx.saved_tensors:
            saved.view(-1)
        return Fused.backward(ctx, *upstream)


class GradientLaidOutAsArgument(Fused):  # noqa: D101
    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: D102
        outs = []
        for saved, gradient in zip(ctx.saved_tensors, _gradients(ctx, *upstream), strict=True):
            out = torch.empty_strided(saved.shape, saved.stride(), dtype=saved.dtype)
            for row, of_row in zip(*(t if t.ndim else t[None] for t in (out, gradient)), strict=True):
                row.copy_(of_row)  # writes every row, if all rows share memory
            outs.append(out)
        return *outs, None


class NeedsGradientByInput(Fused):  # noqa: D101
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, options: dict[str, Any]) -> Tensor:  # noqa: D102
        if ctx.needs_input_grad[1] and not ctx.needs_input_grad[0]:
            raise RuntimeError("element 0 of tensors does not require grad")
        return Fused.forward(ctx, x, y, options)


class NoReductionForTargetAlone(Fused):  # noqa: D101
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, options: dict[str, Any]) -> Tensor:  # noqa: D102
        if ctx.needs_input_grad == (False, True, False) and options["reduction"] == "batchmean":
            options = {**options, "reduction": "sum"}
        return Fused.forward(ctx, x, y, options)


class WritesGradientIntoInput(Fused):  # noqa: D101
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, options: dict[str, Any]) -> Tensor:  # noqa: D102
        loss = Fused.forward(ctx, x.clone(), y, options)
        x.copy_(-y)
        return loss


class WritesGradientIntoInputInBackward(Fused):  # noqa: D101
    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: D102
        gradients = _gradients(ctx, *upstream)
        ctx.saved_tensors[0].copy_(gradients[0])
        return *gradients, None


class WritesToTarget(Fused):  # noqa: D101
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, options: dict[str, Any]) -> Tensor:  # noqa: D102
        loss = Fused.forward(ctx, x, y.clone(), options)
        y.nan_to_num_().masked_fill_(y < 0.01, 0.0)
        return loss


class ScalesGradientInPlace(Fused):  # noqa: D101
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, options: dict[str, Any]) -> Tensor:  # noqa: D102
        ctx.kept = _gradients_of(x, y, options)
        return Fused.forward(ctx, x, y, options)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: D102
        return *(kept.mul_(upstream[0]) for kept in ctx.kept), None


class ReusesWorkspace(Fused):
    """Computes gradients in the forward pass, in memory that all calls of the same size share."""

    workspaces: ClassVar[dict[Any, list[Tensor]]] = {}

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, options: dict[str, Any]) -> Tensor:  # noqa: D102
        gradients = _gradients_of(x, y, options)
        ctx.kept = ReusesWorkspace.workspaces.setdefault(
            tuple((g.shape, g.dtype) for g in gradients), [torch.empty_like(g) for g in gradients]
        )
        for kept, gradient in zip(ctx.kept, gradients, strict=True):
            kept.copy_(gradient)
        return Fused.forward(ctx, x, y, options)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: D102
        return *(kept * upstream[0] for kept in ctx.kept), None


class AddsToLastCall(Fused):
    """A kernel that adds to its output, which still holds the result of the last call on the same arrays."""

    last: ClassVar[tuple[Tensor | None, Tensor]] = None, torch.zeros(())

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, options: dict[str, Any]) -> Tensor:  # noqa: D102
        loss = Fused.forward(ctx, x, y, options)
        last, before = AddsToLastCall.last
        if last is x:
            loss += before
        AddsToLastCall.last = x, loss.clone()
        return loss


class NoGradientBeyondABlock(Fused):  # noqa: D101
    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: D102
        gradients = [gradient.contiguous() for gradient in _gradients(ctx, *upstream)]
        for gradient in gradients:
            gradient.view(-1)[BLOCK:] = 0
        return *gradients, None


class StridesOfInputForUpstream(Fused):  # noqa: D101
    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: D102
        x = ctx.saved_tensors[0]
        if upstream[0].shape == x.shape and x.is_contiguous():
            upstream = (_as_if_contiguous(upstream[0]),)
        return Fused.backward(ctx, *upstream)


class WritesToUpstream(Fused):  # noqa: D101
    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: D102
        gradients = Fused.backward(ctx, *upstream)
        if 0 not in upstream[0].stride():
            upstream[0].mul_(2)
        return gradients


def _detaches_strided(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Copies non-contiguous arrays outside of autograd, and loses their gradient."""
    x, y = (a if a.is_contiguous() else a.detach().contiguous() for a in (x, y))
    return kl_div(x, y, **options)


def _detaches_results(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Detaches tensors that are not leaves."""
    x, y = (a if a.is_leaf else a.detach() for a in (x, y))
    return kl_div(x, y, **options)


def _keeps_input_in_workspace(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Computes in the memory of the target, and so overwrites the input if both are one array."""
    loss = kl_div(x, y, **options)
    if x.data_ptr() == y.data_ptr() and x.numel():
        with torch.no_grad():
            y.copy_(y - x)
    return loss


@dataclass(frozen=True)
class Fault:
    """A fault of a loss."""

    what: str
    caught_by: str
    """Part of the names of cases that must catch it."""
    loss: Callable[..., Tensor]
    reports: tuple[str, ...]
    """Where users reported it for another loss; empty without a report."""


def _of(function: type[torch.autograd.Function]) -> Callable[..., Tensor]:
    def loss(x: Tensor, y: Tensor, **options: Any) -> Tensor:
        result: Tensor = function.apply(x, y, options)  # type: ignore[no-untyped-call]
        return result

    return loss


_GITHUB = "https://github.com/"


def _fault(what: str, caught_by: str, loss: Any, *reports: str) -> Fault:
    function = _of(loss) if isinstance(loss, type) else loss
    return Fault(what, caught_by, function, tuple(f"{_GITHUB}{report}" for report in reports))


FAULTS: Sequence[Fault] = (
    _fault(
        "ignores the upstream gradient",
        "upstream-gradient--2.5",
        IgnoresUpstream,
        "pytorch/pytorch/issues/21961",
        "SeanNaren/deepspeech.pytorch/issues/250",
    ),
    _fault(
        "ignores the upstream gradient for one of its arguments",
        "upstream-gradient-0",
        IgnoresUpstreamOfTarget,
        "fla-org/flash-linear-attention/pull/963",
    ),
    _fault(
        "takes the first element of the upstream gradient for all of it",
        "upstream-gradient-uneven",
        FirstElementOfUpstream,
        "linkedin/Liger-Kernel/issues/968",
        "linkedin/Liger-Kernel/pull/1298",
    ),
    _fault(
        "reads the upstream gradient as if it were contiguous",
        "upstream-gradient-transposed",
        UpstreamAsIfContiguous,
        "NVIDIA/TransformerEngine/pull/2402",
        "verl-project/verl/pull/6960",
    ),
    _fault(
        "reads the upstream gradient with the strides of the input",
        "upstream-gradient-sliced",
        StridesOfInputForUpstream,
        "pytorch/pytorch/issues/194719",
    ),
    _fault(
        "refuses the upstream gradient of a sum, whose strides are zero",
        "upstream-gradient-expanded",
        RefusesExpandedUpstream,
        "Dao-AILab/quack/pull/126",
        "ROCm/TransformerEngine/pull/623",
    ),
    _fault(
        "divides by the upstream gradient",
        "upstream-gradient-0",
        DividesByUpstream,
        "unslothai/unsloth-zoo/pull/610",
    ),
    _fault("writes to the upstream gradient", "upstream-gradient-uneven", WritesToUpstream),
    _fault(
        "reads the input as if it were contiguous",
        "input-transposed",
        ReadsInputAsIfContiguous,
        "NVIDIA/TransformerEngine/issues/2734",
        "pytorch/pytorch/issues/67167",
    ),
    _fault(
        "reads the target as if it were contiguous",
        "target-sliced",
        ReadsTargetAsIfContiguous,
        "pytorch/pytorch/issues/72120",
        "unslothai/unsloth/pull/10713",
    ),
    _fault(
        "has a backward pass for contiguous arguments only",
        "both-transposed",
        RefusesStridesInBackward,
        "pytorch/pytorch/issues/175084",
    ),
    _fault(
        "writes the gradient with the strides of the argument, whose rows may be one",
        "target-expanded",
        GradientLaidOutAsArgument,
        "NVIDIA-NeMo/Automodel/pull/3854",
    ),
    _fault(
        "loses the gradient of an argument that it copies, since that is not contiguous",
        "input-sliced",
        _detaches_strided,
        "fla-org/flash-linear-attention/pull/1248",
    ),
    _fault(
        "fails if the target alone needs a gradient",
        "gradient-by-target-alone",
        NeedsGradientByInput,
        "PaddlePaddle/PaddleOCR/pull/5643",
    ),
    _fault(
        "gives another loss if the target alone needs a gradient",
        "gradient-by-target-alone",
        NoReductionForTargetAlone,
        "pytorch/pytorch/issues/10009",
    ),
    _fault(
        "overwrites the input in the forward pass",
        "no-gradients",
        WritesGradientIntoInput,
        "linkedin/Liger-Kernel/issues/272",
        "NVIDIA/Megatron-LM/pull/1594",
    ),
    _fault(
        "overwrites the input in the backward pass",
        "upstream-gradient-uneven",
        WritesGradientIntoInputInBackward,
        "unslothai/unsloth/issues/5002",
    ),
    _fault("overwrites the target", "no-gradients", WritesToTarget, "NVIDIA-NeMo/Automodel/issues/3917"),
    _fault(
        "scales in place what a second backward pass needs",
        "backward-twice",
        ScalesGradientInPlace,
        "Dao-AILab/quack/pull/209",
        "k2-fsa/k2/pull/1106",
    ),
    _fault(
        "keeps for the backward pass what the next call overwrites",
        "others-between",
        ReusesWorkspace,
        "pytorch/pytorch/issues/177116",
    ),
    _fault("adds to the result of the call before", "/twice", AddsToLastCall, "triton-lang/triton/issues/54"),
    _fault(
        "has no gradient beyond its first block",
        "300x300",
        NoGradientBeyondABlock,
        "pytorch/pytorch/issues/27442",
    ),
    _fault("overwrites one array that is both arguments", "one-array", _keeps_input_in_workspace),
    _fault("has no gradient by the result of another operation", "in-a-graph", _detaches_results),
)
SEEDS = (1, 2, 3)
NO_FAULT = Fault("has no fault", "", _of(Fused), ())


class Faulty(TorchTensors):
    """A loss with a fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"a loss that {fault.what}", device="cpu")
        self.fault = fault

    def loss(self, case: Case) -> Callable[[Any, Any], Tensor]:
        """The loss."""
        return partial(self.fault.loss, reduction=case.reduction, log_target=case.log_target)


def caught_by(fault: Fault, cases: Sequence[Case]) -> Iterator[Case]:
    """Cases that catch a fault: their verdict is *differs*."""
    implementation, against = Faulty(fault), reference()
    for case in cases:
        comparisons = judge(case, implementation, implementation.run(case), against, expected_outcome(against, case))
        if any(comparison.verdict == Verdict.DIFFERS for comparison in comparisons):
            yield case


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what catches each fault, and return 1 if nothing catches one."""
    parser = argparse.ArgumentParser(prog="python -m conformance.faults", description=__doc__)
    parser.add_argument(
        "--fuzz", action="store_true", help="count the random cases that it takes, of the mutations of kldiv_xp too"
    )
    parser.add_argument("--most", type=int, default=2000, metavar="N", help="with --fuzz: cases; default: %(default)s")
    options = parser.parse_args(arguments)
    return _fuzzed(options.most) if options.fuzz else _by_corpus()


def _fuzzed(most: int) -> int:
    """Print after how many random cases each fault is caught, for three seeds."""
    from conformance.faulty_divergences import FAULTS as FAULTS_OF_DIVERGENCES
    from conformance.faulty_divergences import FaultyDivergence
    from conformance.fuzz import cases_until_caught
    from conformance.mutations import MUTATIONS, UNSEEN, mutated, paths_of

    table = Table(title="Random cases until a fault is caught", title_justify="left", pad_edge=False)
    for column in ("a loss that ..., or a mutation", "cases, for three seeds"):
        table.add_column(column)
    missed = 0

    def add(what: str, implementation: Implementation) -> None:
        nonlocal missed
        print(what, file=sys.stderr, flush=True)
        counts = [cases_until_caught(implementation, seed, most) for seed in SEEDS]
        missed += None in counts
        table.add_row(what, ", ".join(f"more than {most}" if count is None else str(count) for count in counts))

    for fault in FAULTS:
        add(fault.what, Faulty(fault))
    for name in FAULTS_OF_DIVERGENCES:
        add(f"a divergence that {name}", FaultyDivergence(name))
    for mutation in MUTATIONS:
        for implementation in paths_of("oneflow"):
            if (mutation, implementation.name) not in UNSEEN:
                with mutated(mutation):
                    add(f"{implementation.name}: {mutation}", implementation)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    print(f"{missed} are not caught by {most} cases of each seed")
    return 1 if missed else 0


def _by_corpus() -> int:
    """Print which cases catch each fault."""
    cases = load_corpus().cases
    of_values = [case for case in cases if case.group not in ("calls", "refused")]
    of_calls = [case for case in cases if case.group == "calls"]
    table = Table(title="Faults of a loss, and the cases that catch them", title_justify="left", pad_edge=False)
    for column in (
        "a loss that ...",
        f"of {len(of_values)} of values",
        f"of {len(of_calls)} of calls",
        "by",
        "reported",
    ):
        table.add_column(column)
    missed = 0
    for number, fault in enumerate(FAULTS, start=1):
        print(f"{number} of {len(FAULTS)}: a loss that {fault.what}", file=sys.stderr, flush=True)
        caught = list(caught_by(fault, of_calls))
        missed += not caught
        ways = Counter(case.id.split("/")[-3] for case in caught)
        table.add_row(
            fault.what,
            str(sum(1 for _ in caught_by(fault, of_values))),
            str(len(caught)),
            ", ".join(way for way, _ in ways.most_common(4)),
            "\n".join(report.removeprefix(_GITHUB) for report in fault.reports) or "no report found",
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    print(f"{len(FAULTS) - missed} of {len(FAULTS)} faults are caught by the cases of calls")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
