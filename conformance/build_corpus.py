"""The program that builds the corpus: ``python -m conformance.build_corpus``.

Run it to change the corpus, not to use it: what is judged is the committed file, so that a change of NumPy's generators
or of scikit-learn's training does not change what implementations are given.
"""

import argparse
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
        with np.errstate(over="ignore"):  # what is too large for a dtype is infinite in it
            self.arrays[name] = record.to_bfloat16_bits(values) if dtype == "bfloat16" else values.astype(dtype)
        self.operands[name] = {"array": name, "dtype": dtype}
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
    ) -> None:
        """Add a case for each reduction."""
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
    _refused(builder)
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
    """Values at which implementations part, or where floating-point arithmetic has its own edges."""
    info = np.finfo(dtype)
    positive = [info.smallest_subnormal, info.tiny, 1e-30, 1e-10, 0.3, 1.0, 1e4, float(info.max) / 16]
    negative = [-1e-10, -0.3, -1.0, -1e4, -float(info.max) / 16]
    return np.asarray([0.0, -0.0, *positive, np.inf, *negative, -np.inf, np.nan], dtype)


def _edge(b: Builder) -> None:
    """Every pair of special values, element by element; and some of them in the company of ordinary elements."""
    for dtype, log_target in itertools.product(("float32", "float64"), (False, True)):
        values = special_values(dtype)
        target, input = np.meshgrid(values, values, indexing="ij")
        operands = b.array("edge/input", input), b.array("edge/target", target)
        b.add("edge", f"grid/{dtype}", *operands, log_target=log_target, reductions=["none"])

        # A reduction must carry one odd element just as "none" does.
        probabilities = np.asarray([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]], dtype)
        companions = np.log(probabilities) if log_target else probabilities
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
    """Distributions over every shape, dtype and reduction, and a few with very many elements."""
    rng = np.random.default_rng(2026)
    for any_shape, dtype in itertools.product(SHAPES, DTYPES):
        _add_distributions(b, rng, any_shape, 1.0, (dtype, dtype))
    for shape, concentration, dtype in itertools.product([(16, 10), (40, 25)], [0.02, 100.0], DTYPES):
        _add_distributions(b, rng, shape, concentration, (dtype, dtype))
    for few, dtypes in itertools.product([(), (5, 3)], MIXED_DTYPES):
        _add_distributions(b, rng, few, 1.0, dtypes)
    for shape, dtype in itertools.product([(100, 1000), (1000, 1000)], ("float32", "float64", "float16")):
        _add_large(b, shape, dtype)
    _add_large(b, (12500, 80), "float16")  # enough rows for a sum that float16 cannot hold


def _add_distributions(
    b: Builder, rng: np.random.Generator, shape: tuple[int, ...], concentration: float, dtypes: tuple[str, str]
) -> None:
    size = f"{'x'.join(map(str, shape)) or '0-d'}"
    kind = {0.02: "sparse", 1.0: "even", 100.0: "flat"}[concentration]
    name = f"{size}/{kind}/{dtypes[0] if dtypes[0] == dtypes[1] else '+'.join(dtypes)}"
    classes = shape[-1] if shape else 1
    if classes > 1:
        probabilities = rng.dirichlet([concentration] * classes, shape[:-1])
    else:  # over one class or none there is but one distribution: take part of a larger one
        probabilities = rng.dirichlet([concentration, concentration], shape)[..., 0]
    input = b.array(f"random/{name}/input", log_softmax(3 * rng.standard_normal(shape)), dtypes[0])
    target = b.array(f"random/{name}/target", probabilities, dtypes[1])
    b.add("random", name, input, target, log_target=False)
    log_target = b.array(f"random/{name}/log_target", log_softmax(3 * rng.standard_normal(shape)), dtypes[1])
    b.add("random", name, input, log_target, log_target=True)


def _add_large(b: Builder, shape: tuple[int, int], dtype: str) -> None:
    rows, classes = shape
    name = f"{rows}x{classes}/recipe/{dtype}"
    input, log_target = (
        b.recipe(
            f"random/{rows}x{classes}/{role}",
            dtype,
            recipe="log_probabilities",
            seed=seed,
            shape=shape,
            log_sums=_store_log_sums(b, seed, shape),
        )
        for role, seed in (("input", 1), ("log_target", 2))
    )
    target = b.recipe(f"random/{rows}x{classes}/target", dtype, recipe="probabilities", seed=3, shape=shape)
    # Gradients of so many elements say nothing that those of fewer do not.
    b.add("random", name, input, target, log_target=False, gradients=())
    b.add("random", name, input, log_target, log_target=True, gradients=())


def _store_log_sums(b: Builder, seed: int, shape: tuple[int, int]) -> str:
    name = f"random/{shape[0]}x{shape[1]}/log_sums/{seed}"
    log_sums = np.log(np.exp(record.logits(seed, shape) / record.LOGIT_UNIT).sum(axis=-1, keepdims=True))
    b.arrays[name] = np.rint(log_sums * record.LOGIT_UNIT).astype(np.int32)
    return name


def _close(b: Builder) -> None:
    """Distributions that hardly differ, where the terms of the sum cancel."""
    rng = np.random.default_rng(2027)
    shape = (16, 50)
    for exponent in range(1, 7):
        difference = 10.0**-exponent
        probabilities = rng.dirichlet([1.0] * shape[1], shape[0])
        nearby = probabilities * (1 + difference * rng.uniform(-1, 1, shape))
        nearby /= nearby.sum(axis=-1, keepdims=True)
        for dtype, log_target in itertools.product(DTYPES, (False, True)):
            b.add(
                "close",
                f"1e-{exponent}/{dtype}",
                b.array(f"close/1e-{exponent}/input", np.log(nearby), dtype),
                b.array(
                    f"close/1e-{exponent}/{'log_target' if log_target else 'target'}",
                    np.log(probabilities) if log_target else probabilities,
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


def _refused(b: Builder) -> None:
    """Calls outside the interface."""
    good = b.array("refused/good", np.log(np.asarray([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]], np.float32)))
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


def log_softmax(scores: Floats) -> Floats:
    """Log-probabilities over the last axis; of a 0-d array or a single class, minus the magnitude."""
    if scores.ndim == 0 or scores.shape[-1] <= 1:
        return -np.abs(scores)
    shifted = scores - scores.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def save(path: Path, builder: Builder) -> str:
    """Write the corpus that a builder has collected, and return its digest."""
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
    """Build the corpus and say what it holds."""
    parser = argparse.ArgumentParser(prog="python -m conformance.build_corpus", description=__doc__)
    parser.add_argument("--output", type=Path, default=record.CORPUS)
    output = parser.parse_args(arguments).output
    check_outputs(parser, [output])
    builder = build()
    digest = save(output, builder)
    print(f"{output}: {len(builder.cases)} cases, {output.stat().st_size / 1024:.0f} KiB, digest {digest}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
