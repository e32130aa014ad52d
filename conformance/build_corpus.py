"""The program that builds the corpus: ``python -m conformance.build_corpus``.

Run it to change the corpus, not to use it: what is judged is the committed file, so that another processor's linear
algebra, with which scikit-learn trains the models of the group real, does not change what implementations are given.
All other arrays are the same to the last bit wherever they are built: random numbers come from integers, and what is no
single IEEE operation is computed by mpmath and rounded once.
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import mpmath
import numpy as np
import numpy.typing as npt

from conformance import record
from conformance.output import check_outputs, command, replacing

Floats = npt.NDArray[Any]

REDUCTIONS = ("none", "mean", "sum", "batchmean")
DTYPES = ("float32", "float64", "float16", "bfloat16")
MIXED_DTYPES = (
    ("float32", "float64"),
    ("float64", "float32"),
    ("float16", "float32"),
    ("float32", "float16"),
    ("bfloat16", "float32"),
    ("float16", "bfloat16"),
)
SHAPES: tuple[tuple[int, ...], ...] = (
    *((), (1,), (1, 1), (7,), (5, 3), (16, 10), (4, 3, 2), (2, 3, 2, 2), (2, 2, 1, 2, 3)),
    *((0,), (0, 4), (4, 0), (2, 0, 3)),
)
BOTH = ("input", "target")


class Builder:
    """Collects operands and cases."""

    def __init__(self) -> None:
        self.cases: list[dict[str, Any]] = []
        self.operands: dict[str, dict[str, Any]] = {}
        self.arrays: dict[str, Floats] = {}

    def array(self, name: str, values: Floats, dtype: str | None = None) -> str:
        """Store an array, rounded to ``dtype``, and return the operand's name."""
        dtype = dtype or values.dtype.name
        name = f"{name}:{dtype}"
        with np.errstate(over="ignore"):  # too large values become infinite
            self.arrays[name] = record.to_bfloat16_bits(values) if dtype == "bfloat16" else values.astype(dtype)
        self.operands[name] = {"array": name, "dtype": dtype}
        return name

    def laid_out(self, operand: str, layout: str) -> str:
        """Store an operand in another memory layout, and return its name."""
        if layout == "contiguous":
            return operand
        name = f"{operand}:{layout}"
        self.operands[name] = {**self.operands[operand], "layout": layout}
        return name

    def expanded(self, row: str, rows: int) -> str:
        """Store an operand with equal rows, as one row with a stride of zero, and return its name."""
        name = f"{row}:{rows} times"
        self.operands[name] = {**self.operands[row], "rows": rows, "layout": "expanded from a row"}
        return name

    def recipe(self, name: str, dtype: str, **recipe: Any) -> str:
        """Store the recipe of an array, and return the operand's name."""
        name = f"{name}:{dtype}"
        self.operands[name] = {"dtype": dtype, **recipe}
        return name

    def object(self, name: str, value: object) -> str:
        """Store a Python object, and return the operand's name."""
        self.operands[name] = {"object": value}
        return name

    def add(
        self,
        group: str,
        name: str,
        input: str,
        target: str,
        *,
        log_target: bool,
        reductions: Iterable[str] = REDUCTIONS,
        gradients: Sequence[str] = BOTH,
        **how: str,
    ) -> None:
        """Add a case for each reduction; ``how`` has the cotangent and the call, if any."""
        for reduction in reductions:
            self.cases.append(
                {
                    "id": f"{group}/{name}/{'log_target' if log_target else 'target'}/{reduction}".replace(" ", "-"),
                    "group": group,
                    "input": input,
                    "target": target,
                    "reduction": reduction,
                    "log_target": log_target,
                    "gradients": list(gradients),
                    **how,
                }
            )

    def add_logits(
        self,
        name: str,
        operands: Sequence[str],
        beta: float,
        temperature: float,
        axis: int,
        *,
        reductions: Iterable[str] = REDUCTIONS,
        gradients: Sequence[str] = BOTH,
        where: str | None = None,
        group: str = "logits",
    ) -> None:
        """Add a case of a divergence from logits for each reduction."""
        options = {"beta": beta, "temperature": temperature, "axis": axis, **({"where": where} if where else {})}
        for reduction in reductions:
            self.cases.append(
                {
                    "id": f"{group}/{name}/beta {beta:g}/{reduction}".replace(" ", "-"),
                    "group": group,
                    "input": operands[0],
                    "target": operands[1],
                    "reduction": reduction,
                    "gradients": list(gradients),
                    "logits": options,
                }
            )


def build() -> Builder:
    """Corpus with all its groups."""
    builder = Builder()
    _documentation(builder)
    _edge(builder)
    _random(builder)
    _close(builder)
    _real(builder)
    _calls(builder)
    _refused(builder)
    return builder


def build_logits() -> Builder:
    """Corpus of the divergences from logits."""
    builder = Builder()
    _random_logits(builder)
    _close_logits(builder)
    _impossible_classes(builder)
    _masked_rows(builder)
    _long_rows(builder)
    return builder


def _documentation(b: Builder) -> None:
    """Arrays of the documentation's examples, with every combination of options."""
    input = np.asarray([-0.9021705, 0.08798598, 1.04686249])
    target = np.asarray([1.22386942, -0.89729659, 0.01615712])
    for dtype, log_target in itertools.product(("float32", "float64"), (False, True)):
        b.add(
            "documentation",
            dtype,
            b.array("documentation/input", input, dtype),
            b.array("documentation/target", target, dtype),
            log_target=log_target,
        )


def special_values(dtype: str) -> Floats:
    """Values at which implementations differ, or floating-point arithmetic has special cases."""
    info = np.finfo(dtype)
    positive = [info.smallest_subnormal, info.tiny, 1e-30, 1e-10, 0.3, 1.0, 1e4, float(info.max) / 16]
    negative = [-1e-10, -0.3, -1.0, -1e4, -float(info.max) / 16]
    return np.asarray([0.0, -0.0, *positive, np.inf, *negative, -np.inf, np.nan], dtype)


def _edge(b: Builder) -> None:
    """Every pair of special values, element by element, and some of them among ordinary elements."""
    for dtype, log_target in itertools.product(("float32", "float64"), (False, True)):
        values = special_values(dtype)
        target, input = np.meshgrid(values, values, indexing="ij")
        operands = b.array("edge/input", input), b.array("edge/target", target)
        b.add("edge", f"grid/{dtype}", *operands, log_target=log_target, reductions=["none"])

        # A reduction must handle a special value among ordinary ones.
        probabilities = np.asarray([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]], dtype)
        companions = exactly(mpmath.log, probabilities).astype(dtype) if log_target else probabilities
        kind = "log" if log_target else "probability"
        for i, j in itertools.product(range(len(values)), _COMPANY_INPUTS):
            input = np.full((2, 3), -1.5, dtype)
            target = companions.copy()
            input[1, 1], target[1, 1] = _COMPANY_INPUTS[j], values[i]
            b.add(
                "edge",
                f"company/{dtype}/{values[i]:g}/{j}",
                b.array(f"edge/company/input/{j}", input),
                b.array(f"edge/company/target/{kind}/{i}", target),
                log_target=log_target,
                reductions=["mean", "sum", "batchmean"] if dtype == "float32" else ["batchmean"],
            )


_COMPANY_INPUTS = {"finite": -1.5, "+inf": np.inf, "-inf": -np.inf, "nan": np.nan}


def _random(b: Builder) -> None:
    """Random distributions of every shape, dtype and reduction, and a few large ones."""
    for any_shape, dtype in itertools.product(SHAPES, DTYPES):
        _add_distributions(b, any_shape, "even", (dtype, dtype))
    for shape, kind, dtype in itertools.product([(16, 10), (40, 25)], ["sparse", "flat"], DTYPES):
        _add_distributions(b, shape, kind, (dtype, dtype))
    for few, dtypes in itertools.product([(), (5, 3)], MIXED_DTYPES):
        _add_distributions(b, few, "even", dtypes)
    for shape, dtype in itertools.product([(100, 1000), (1000, 1000)], ("float32", "float64", "float16")):
        _add_large(b, shape, dtype)
    _add_large(b, (12500, 80), "float16")  # enough rows for a sum that float16 cannot hold


def _add_distributions(b: Builder, shape: tuple[int, ...], kind: str, dtypes: tuple[str, str]) -> None:
    size = f"{'x'.join(map(str, shape)) or '0-d'}"
    name = f"random/{size}/{kind}/{dtypes[0] if dtypes[0] == dtypes[1] else '+'.join(dtypes)}"
    input = b.array(f"{name}/input", _log_probabilities(f"{name}/input", shape), dtypes[0])
    target = b.array(f"{name}/target", _probabilities(f"{name}/target", shape, kind), dtypes[1])
    log_target = b.array(f"{name}/log_target", _log_probabilities(f"{name}/log_target", shape), dtypes[1])
    for operand, is_log in ((target, False), (log_target, True)):
        b.add("random", name.removeprefix("random/"), input, operand, log_target=is_log)


def _uniform(name: str, shape: tuple[int, ...]) -> Floats:
    """Random numbers in (0, 1), seeded by a name."""
    return (record.random_integers(crc32(name.encode()), shape, bits=52).astype(np.float64) + 0.5) / 2**52


_WEIGHTS: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "even": lambda u: -mpmath.log(u),
    "sparse": lambda u: u**50,
    "flat": lambda u: 1 + (u - mpmath.mpf(0.5)) / 4,
}
"""Weight of a class as a function of a uniform number: even, nearly one-hot, and nearly equal distributions."""


def _probabilities(name: str, shape: tuple[int, ...], kind: str) -> Floats:
    """Random distributions over the last axis; over one class or none, a part of one over two."""
    classes = shape[-1] if shape else 1
    weights = exactly(_WEIGHTS[kind], _uniform(name, shape if classes > 1 else (*shape, 2)))
    probabilities = normalised(weights)
    return probabilities if classes > 1 else probabilities[..., 0]


def _log_probabilities(name: str, shape: tuple[int, ...]) -> Floats:
    return log_softmax(12 * _uniform(name, shape) - 6)


def _add_large(b: Builder, shape: tuple[int, int], dtype: str) -> None:
    rows, classes = shape
    name = f"{rows}x{classes}/recipe/{dtype}"
    input, log_target = (
        _add_log_probabilities(b, f"random/{rows}x{classes}/{role}", dtype, seed, shape)
        for role, seed in (("input", 1), ("log_target", 2))
    )
    target = b.recipe(f"random/{rows}x{classes}/target", dtype, recipe="probabilities", seed=3, shape=shape)
    # Gradients of large arrays test nothing that those of smaller ones do not.
    b.add("random", name, input, target, log_target=False, gradients=())
    b.add("random", name, input, log_target, log_target=True, gradients=())


def _add_log_probabilities(b: Builder, name: str, dtype: str, seed: int, shape: tuple[int, ...]) -> str:
    log_sums = f"{name}/log_sums"
    # Rounded to a unit of 1/4096, so that its last bits do not matter.
    exact = np.log(np.exp(record.logits(seed, shape) / record.LOGIT_UNIT).sum(axis=-1, keepdims=True))
    b.arrays[log_sums] = np.rint(exact * record.LOGIT_UNIT).astype(np.int32)
    return b.recipe(name, dtype, recipe="log_probabilities", seed=seed, shape=shape, log_sums=log_sums)


def _close(b: Builder) -> None:
    """Distributions that hardly differ, where the terms of the sum cancel."""
    shape = (16, 50)
    for exponent in range(1, 7):
        name = f"close/1e-{exponent}"
        probabilities = _probabilities(f"{name}/target", shape, "even")
        nearby = normalised(probabilities * (1 + 10.0**-exponent * (2 * _uniform(f"{name}/difference", shape) - 1)))
        log_nearby, log_probabilities = exactly(mpmath.log, nearby), exactly(mpmath.log, probabilities)
        for dtype, log_target in itertools.product(DTYPES, (False, True)):
            b.add(
                "close",
                f"1e-{exponent}/{dtype}",
                b.array(f"{name}/input", log_nearby, dtype),
                b.array(
                    f"{name}/{'log_target' if log_target else 'target'}",
                    log_probabilities if log_target else probabilities,
                    dtype,
                ),
                log_target=log_target,
            )


def _real(b: Builder) -> None:
    """A teacher and a student trained on scikit-learn's digits, on the images that neither has seen."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    images, labels = load_digits(return_X_y=True)
    seen, unseen, seen_labels, _ = train_test_split(images / 16, labels, test_size=200, random_state=0)
    teacher = MLPClassifier((64,), max_iter=400, random_state=0).fit(seen, seen_labels)
    student = LogisticRegression(max_iter=1000).fit(seen, seen_labels)

    hidden = np.maximum(unseen @ teacher.coefs_[0] + teacher.intercepts_[0], 0)
    teacher_logits = hidden @ teacher.coefs_[1] + teacher.intercepts_[1]
    student_log = log_softmax(student.decision_function(unseen))
    masked_log = student_log.copy()
    masked_log[:, 7] = -np.inf  # a class that the student was told not to use
    for temperature, dtype in itertools.product((4.0, 1.0, 0.25), DTYPES):
        name = f"temperature {temperature:g}/{dtype}"
        # Softmax in the dtype itself, as a model would: at low temperature most classes underflow to an exact zero.
        working = np.float32 if dtype == "bfloat16" else np.dtype(dtype)
        scores = (teacher_logits / temperature).astype(working)
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        probabilities = powers / powers.sum(axis=-1, keepdims=True)
        input = b.array("real/student", student_log, dtype)
        masked = b.array("real/student with a masked class", masked_log, dtype)
        target = b.array(f"real/teacher/temperature {temperature:g}/target", probabilities, dtype)
        with np.errstate(divide="ignore"):
            log_zero = b.array(f"real/teacher/temperature {temperature:g}/log of target", np.log(probabilities), dtype)
        log_target = b.array(
            f"real/teacher/temperature {temperature:g}/log_target", log_softmax(teacher_logits / temperature), dtype
        )
        b.add("real", name, input, target, log_target=False)
        b.add("real", name, input, log_target, log_target=True)
        b.add("real", f"{name}/masked class", masked, target, log_target=False, reductions=["none", "batchmean"])
        b.add("real", f"{name}/log of zeros", input, log_zero, log_target=True, reductions=["none", "batchmean"])


def _calls(b: Builder) -> None:
    """What callers do: upstream gradients, gradients by one argument, memory layouts, and repeated calls.

    Few elements, more than 4,096 and more than 65,536, because implementations take other ways for larger arrays.
    """
    for dtype, log_target in itertools.product(DTYPES, (False, True)):
        operands = _few(b, (6, 10), dtype, log_target)
        _add_upstream_gradients(b, f"6x10/{dtype}", (6, 10), operands, log_target, REDUCTIONS)
    for log_target in (False, True):
        _add_ways(b, (6, 10), _few, log_target, REDUCTIONS)
        _add_layouts(b, (6, 10), _few, log_target, REDUCTIONS)
        _add_layouts(b, (4, 3, 2), _few, log_target, ["none", "sum"])
    for shape, log_target in itertools.product([(70, 90), (300, 300)], (False, True)):
        operands = _many(b, shape, "float32", log_target)
        _add_upstream_gradients(b, f"{_size(shape)}/float32", shape, operands, log_target, ["none", "batchmean"])
        _add_ways(b, shape, _many, log_target, ["none", "batchmean"])
        _add_layouts(b, shape, _many, log_target, ["none", "batchmean"])
    for dtype, log_target in itertools.product(("float32", "float64"), (False, True)):
        grid = f"edge/input:{dtype}", f"edge/target:{dtype}"
        cotangent = b.recipe(
            "calls/special values/cotangent", dtype, **_constant(-0.75, (len(special_values(dtype)),) * 2)
        )
        b.add(
            "calls", f"special values/{dtype}", *grid, log_target=log_target, reductions=["none"], cotangent=cotangent
        )


Shape = tuple[int, ...]
Make = Callable[[Builder, Shape, str, bool], tuple[str, str]]


def _size(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _constant(value: float, shape: Shape) -> dict[str, Any]:
    return {"recipe": "constant", "value": value, "shape": shape}


def _few(b: Builder, shape: Shape, dtype: str, log_target: bool) -> tuple[str, str]:
    """Input and target of a few elements; some probabilities of the target are zero."""
    name = f"calls/{_size(shape)}"
    input = b.array(f"{name}/input", _log_probabilities(f"{name}/input", shape), dtype)
    if log_target:
        return input, b.array(f"{name}/log_target", _log_probabilities(f"{name}/log_target", shape), dtype)
    probabilities = _probabilities(f"{name}/target", shape, "even")
    probabilities.flat[2::7] = 0
    return input, b.array(f"{name}/target", probabilities, dtype)


def _many(b: Builder, shape: Shape, dtype: str, log_target: bool) -> tuple[str, str]:
    """Input and target of many elements, as recipes; some probabilities of the target are zero."""
    input = _add_log_probabilities(b, f"calls/{_size(shape)}/input", dtype, 11, shape)
    if log_target:
        return input, _add_log_probabilities(b, f"calls/{_size(shape)}/log_target", dtype, 12, shape)
    return input, b.recipe(f"calls/{_size(shape)}/target", dtype, recipe="probabilities", seed=13, shape=shape)


def _add_upstream_gradients(
    b: Builder, name: str, shape: Shape, operands: tuple[str, str], log_target: bool, reductions: Iterable[str]
) -> None:
    """Upstream gradients: of both signs, zero, large as in loss scaling, and for an unreduced loss uneven."""
    dtype = b.operands[operands[0]]["dtype"]
    for reduction in reductions:
        for what, cotangent in _upstream_gradients(b, shape, dtype, reduction):
            b.add(
                "calls",
                f"{name}/upstream gradient {what}",
                *operands,
                log_target=log_target,
                reductions=[reduction],
                cotangent=cotangent,
            )


def _upstream_gradients(b: Builder, shape: Shape, dtype: str, reduction: str) -> Iterator[tuple[str, str]]:
    if reduction != "none":
        for value in (-2.5, 0.0, 1024.0):
            yield f"{value:g}", b.recipe(f"calls/cotangent/{value:g}", dtype, **_constant(value, ()))
        return
    uneven = _uneven(b, shape, dtype)
    yield "uneven", uneven
    for layout in ("transposed", "sliced"):
        yield layout, b.laid_out(uneven, layout)
    # Like the gradient of a sum: one number, with strides of zero.
    same = b.recipe(f"calls/{_size(shape)}/cotangent/-1.5", dtype, **_constant(-1.5, shape))
    yield "expanded", b.laid_out(same, "expanded from an element")


def _uneven(b: Builder, shape: Shape, dtype: str) -> str:
    return b.recipe(f"calls/{_size(shape)}/cotangent/uneven", dtype, recipe="uneven", seed=5, shape=shape)


def _add_ways(b: Builder, shape: Shape, make: Make, log_target: bool, reductions: Iterable[str]) -> None:
    """Gradients by one argument or none, and every way to call the loss."""
    name, dtype = _size(shape), "float32"
    operands = make(b, shape, dtype, log_target)
    # One array as both arguments holds log-probabilities, or probabilities other than zero.
    one = (
        operands[0]
        if log_target
        else b.recipe(f"calls/{name}/one array", dtype, recipe="probabilities", seed=14, shape=shape, smallest=1)
    )
    for reduction in reductions:
        cotangent = (
            _uneven(b, shape, dtype)
            if reduction == "none"
            else b.recipe("calls/cotangent/-2.5", dtype, **_constant(-2.5, ()))
        )
        how: dict[str, Any] = {"log_target": log_target, "reductions": [reduction]}
        b.add("calls", f"{name}/no gradients", *operands, **how, gradients=())
        how["cotangent"] = cotangent
        for argument in BOTH:
            b.add("calls", f"{name}/gradient by {argument} alone", *operands, **how, gradients=[argument])
        for call in ("twice", "others between", "backward twice", "in a graph"):
            b.add("calls", f"{name}/{call}", *operands, **how, call=call)
        b.add("calls", f"{name}/changed after", *operands, **how, gradients=["input"], call="changed after")
        b.add("calls", f"{name}/one array", one, one, **how, gradients=["input"], call="one array")


_LAYOUTS = {
    "input transposed": ("transposed", "contiguous"),
    "target sliced": ("contiguous", "sliced"),
    "input sliced, target in Fortran order": ("sliced", "in Fortran order"),
    "both transposed": ("transposed", "transposed"),
    "input reversed": ("reversed", "contiguous"),
    "both reversed": ("reversed", "reversed"),
}


def _add_layouts(b: Builder, shape: Shape, make: Make, log_target: bool, reductions: Sequence[str]) -> None:
    """Arguments that are not contiguous, or have different memory layouts."""
    input, target = make(b, shape, "float32", log_target)
    pairs = {
        what: (b.laid_out(input, of_input), b.laid_out(target, of_target))
        for what, (of_input, of_target) in _LAYOUTS.items()
    }
    input_row, target_row = make(b, (1, *shape[1:]), "float32", log_target)
    pairs["input expanded"] = b.expanded(input_row, shape[0]), target
    pairs["target expanded"] = input, b.expanded(target_row, shape[0])
    for what, pair in pairs.items():
        b.add("calls", f"{_size(shape)}/{what}", *pair, log_target=log_target, reductions=reductions)


def _refused(b: Builder) -> None:
    """Calls outside the interface."""
    probabilities = np.asarray([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]], np.float32)
    good = b.array("refused/good", exactly(mpmath.log, probabilities), "float32")
    column = b.array("refused/column", np.asarray([[0.5], [0.25], [0.25]], np.float32))
    row = b.array("refused/row", np.asarray([0.5, 0.25, 0.25], np.float32))
    wide = b.array("refused/wide", np.full((4, 5), 0.2, np.float32))
    calls = {
        "column against row": (column, row),
        "matrix against column": (good, column),
        "shapes that do not broadcast": (good, wide),
        "0-d against 1-d": (b.array("refused/0-d", np.asarray(-1.0, np.float32)), row),
        "list": (good, b.object("refused/list", [[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]])),
        "number": (b.object("refused/number", -1.0), b.object("refused/another number", 0.5)),
        "None": (good, b.object("refused/none", None)),
    }
    for dtype in ("int32", "int64", "bool", "complex64"):
        odd = b.array("refused/odd", np.asarray([[1, 0], [0, 1], [1, 1]]), dtype)
        calls[f"{dtype} target"] = (good, odd)
        calls[f"{dtype} input"] = (odd, good)
    for name, (input, target) in calls.items():
        b.add("refused", name, input, target, log_target=False, reductions=["mean"], gradients=())
    b.add("refused", "unknown reduction", good, good, log_target=True, reductions=["average", "Mean"], gradients=())


BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)
TEMPERATURES = (1.0, 2.0, 0.5)


def _random_logits(b: Builder) -> None:
    """Unrelated distributions of every shape, axis and dtype, and with every option; with an offset that cancels."""
    axes = (((7,), -1), ((5, 3), -1), ((4, 8), 1), ((4, 8), 0), ((3, 4, 5), -2), ((2, 3, 2, 2), 1), ((16, 100), -1))
    for (shape, axis), dtype, beta in itertools.product(axes, DTYPES, BETAS):
        pair = [12 * _uniform(f"logits/{shape}/{role}", shape) - 6 for role in BOTH]
        operands: Any = [b.array(f"logits/{shape}/{role}", z, dtype) for role, z in zip(BOTH, pair, strict=True)]
        temperature = TEMPERATURES[(len(shape) + int(10 * beta)) % 3]
        reductions = REDUCTIONS if beta in (0.0, 0.5, 1.0) else ("none", "mean")
        name = f"random/{_size(shape)}/axis {axis}/{dtype}"
        b.add_logits(name, operands, beta, temperature, axis, reductions=reductions)
    for (one, other), beta in itertools.product(MIXED_DTYPES, (0.0, 0.5)):
        operands = [
            b.array(f"logits/(4, 8)/{r}", b.arrays[f"logits/(4, 8)/{r}:float64"], d)
            for r, d in zip(BOTH, (one, other), strict=True)
        ]
        b.add_logits(f"random/4x8/{one} {other}", operands, beta, 2.0, -1, reductions=("mean",))
    for dtype, offset, beta in itertools.product(("float32", "float64"), (1000.0, -1e6), (0.0, 0.5)):
        operands = [
            b.array(
                f"logits/offset {offset:g}/{role}", np.rint(12 * _uniform(f"offset/{role}", (4, 8))) + offset, dtype
            )
            for role in BOTH
        ]
        b.add_logits(f"offset {offset:g}/{dtype}", operands, beta, 1.0, -1, reductions=("sum",))


def _close_logits(b: Builder) -> None:
    """A student that has nearly converged."""
    shape = (4, 100)
    teacher, noise = (12 * _uniform(f"logits/close/{role}", shape) - 6 for role in ("teacher", "noise"))
    for dtype, distance, beta in itertools.product(("float32", "float64"), (0.1, 1e-2, 1e-3, 1e-4), BETAS):
        input = b.array(f"logits/close/{distance:g}", teacher + distance * noise / 6, dtype)
        target = b.array("logits/close/target", teacher, dtype)
        b.add_logits(f"close/{distance:g}/{dtype}", (input, target), beta, 2.0, -1, reductions=("mean", "none"))


_INF = math.inf
IMPOSSIBLE = {
    "in both": ([1.0, 2.0, -_INF, 0.5], [0.0, 1.0, -_INF, 2.0]),
    "in the target alone": ([1.0, 2.0, 3.0, 0.5], [0.0, 1.0, -_INF, 2.0]),
    "in the input alone": ([1.0, 2.0, -_INF, 0.5], [0.0, 1.0, 3.0, 2.0]),
    "in either": ([1.0, 2.0, -_INF, 0.5], [0.0, -_INF, 3.0, 2.0]),
    "but one": ([-_INF, -_INF, 3.0, -_INF], [-_INF, -_INF, -7.0, -_INF]),
    "all of the input": ([-_INF] * 4, [0.0, 1.0, 3.0, 2.0]),
    "all of the target": ([0.0, 1.0, 3.0, 2.0], [-_INF] * 4),
    "all": ([-_INF] * 4, [-_INF] * 4),
    "infinite input": ([0.0, _INF, 3.0, 2.0], [0.0, 1.0, 3.0, 2.0]),
    "infinite target": ([0.0, 1.0, 3.0, 2.0], [0.0, _INF, 3.0, 2.0]),
    "NaN input": ([0.0, math.nan, 3.0, 2.0], [0.0, 1.0, 3.0, 2.0]),
    "NaN target": ([0.0, 1.0, 3.0, 2.0], [0.0, math.nan, 3.0, 2.0]),
    "almost": ([0.0, -80.0, 3.0, 2.0], [0.0, 1.0, -80.0, 2.0]),
}
"""Rows of logits with classes that cannot be, and worse."""


def _impossible_classes(b: Builder) -> None:
    """Such a row above an ordinary one."""
    for (kind, rows), dtype, beta in itertools.product(IMPOSSIBLE.items(), ("float32", "float64"), BETAS):
        operands: Any = [
            b.array(f"logits/{kind}/{role}", np.asarray([row, [0.5, 1.5, -1.0, 0.0][::step]]), dtype)
            for role, row, step in zip(BOTH, rows, (1, -1), strict=True)
        ]
        # The derivative of an infinite loss by the logits that it is infinite for is no number.
        impossible_in = {0.0: "in the input alone", 1.0: "in the target alone"}
        infinite = beta in impossible_in and kind in (impossible_in[beta], "in either")
        gradients = BOTH if not infinite else ("input",) if beta == 0.0 else ("target",)
        b.add_logits(
            f"impossible {kind}/{dtype}", operands, beta, 1.5, -1, reductions=("none", "mean"), gradients=gradients
        )


def _masked_rows(b: Builder) -> None:
    """Rows that do not count, and hold NaN, infinities, or ordinary numbers."""
    shape = (4, 5, 6)
    counts = _uniform("logits/where", shape[:-1]) < 0.6
    masks = {
        "rows": counts,
        "columns": np.arange(5) % 2 > 0,
        "nothing": np.zeros((4, 5), np.bool_),
        "all": np.asarray([True]),
    }
    for (mask, where), filler, beta in itertools.product(masks.items(), ("numbers", "NaN", "-inf"), (0.0, 0.5, 1.0)):
        full = np.broadcast_to(where, shape[:-1])
        operands: Any = []
        for role in BOTH:
            values = 12 * _uniform(f"logits/masked/{role}", shape) - 6
            if filler != "numbers":
                values[~full] = math.nan if filler == "NaN" else -math.inf
            operands.append(b.array(f"logits/masked by {mask}/{filler}/{role}", values, "float32"))
        b.add_logits(
            f"where {mask}/{filler}", operands, beta, 2.0, -1, where=b.array(f"logits/where/{mask}", where, "bool")
        )


def _long_rows(b: Builder) -> None:
    """Vocabularies, of some rows and of one."""
    for shape, near, dtype in itertools.product(((2, 50257), (1, 100003)), (None, 1024), ("float32", "bfloat16")):
        distance = {} if near is None else {"near": near}
        name = f"{_size(shape)}/{'apart' if near is None else 'close'}"
        input = b.recipe(f"logits/{name}/input", dtype, recipe="logits", seed=11, shape=shape, **distance)
        target = b.recipe(f"logits/{name}/target", dtype, recipe="logits", seed=11 if near else 13, shape=shape)
        b.add_logits(f"long/{name}/{dtype}", (input, target), 0.0, 1.0, -1, reductions=("mean",))


def exactly(function: Callable[[mpmath.mpf], mpmath.mpf], values: Floats) -> Floats:
    """Values of a function, computed beyond float64 precision and rounded once."""
    with mpmath.workprec(100):
        results = [float(function(mpmath.mpf(float(value)))) for value in values.ravel()]
    return np.asarray(results, np.float64).reshape(values.shape)


def normalised(weights: Floats) -> Floats:
    """Weights divided by their sum over the last axis, which is rounded once."""
    rows = weights.reshape(-1, weights.shape[-1])
    return np.asarray([row / math.fsum(row) for row in rows], np.float64).reshape(weights.shape)


def log_softmax(scores: Floats) -> Floats:
    """Log-probabilities over the last axis, rounded once; of a 0-d array or a single class, minus the magnitude."""
    if scores.ndim == 0 or scores.shape[-1] <= 1:
        return -np.abs(scores)
    with mpmath.workprec(100):
        rows = [[mpmath.mpf(float(score)) for score in row] for row in scores.reshape(-1, scores.shape[-1])]
        log_sums = [mpmath.log(mpmath.fsum(map(mpmath.exp, row))) for row in rows]
        results = [float(score - log_sum) for row, log_sum in zip(rows, log_sums, strict=True) for score in row]
    return np.asarray(results, np.float64).reshape(scores.shape)


def save(path: Path, builder: Builder) -> str:
    """Write the corpus of a builder, and return its digest."""
    contents = {"format": record.CORPUS_FORMAT, "cases": builder.cases, "operands": builder.operands}
    manifest = json.dumps(contents, separators=(",", ":")).encode()
    digest = record.content_digest(manifest, builder.arrays)
    as_bytes = {"manifest": manifest, "digest": digest.encode()}
    members: dict[str, Any] = {name: np.frombuffer(text, np.uint8) for name, text in as_bytes.items()}
    members.update(builder.arrays)
    with replacing(path) as file:
        np.savez_compressed(file, **members)
    return digest


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Build a corpus, and print its contents."""
    builds = {"losses": (build, record.CORPUS), "logits": (build_logits, record.LOGITS)}
    parser = argparse.ArgumentParser(prog="python -m conformance.build_corpus", description=__doc__)
    parser.add_argument("corpus", nargs="?", choices=list(builds), default="losses", help="default: losses")
    parser.add_argument("--output", type=Path, help="default: the committed file")
    options = parser.parse_args(arguments)
    made, committed = builds[options.corpus]
    output = options.output or committed
    check_outputs(parser, [output])
    builder = made()
    digest = save(output, builder)
    print(f"{output}: {len(builder.cases)} cases, {output.stat().st_size / 1024:.0f} KiB, digest {digest}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
