"""Write the loss as ONNX models, for a runtime that knows nothing of this library: ``python -m conformance.export_onnx``.

There is one for each convention and each kind of call that the corpus has: dtypes, number of dimensions, reduction and
``log_target``. Sizes are left open. A model has the inputs ``input`` and ``target``, and the outputs ``loss``,
``input_gradient`` and ``target_gradient``; with ``"none"``, they are the gradients of the sum of the loss.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ndonnx as ndx
import onnx

from conformance.implementations import CONVENTIONS
from conformance.implementations.onnx import MISSING_DTYPES, model_name
from conformance.record import Case, load_corpus
from kldiv_xp import kl_div_value_and_grad

FOLDER = Path("build/onnx")


def model(convention: Any, case: Case) -> onnx.ModelProto:
    """Loss and gradients for all calls of the kind of ``case``."""
    shape = tuple(f"size_{axis}" for axis in range(case.input.values.ndim))
    given = {
        name: ndx.argument(shape=shape, dtype=getattr(ndx, operand.dtype))
        for name, operand in (("input", case.input), ("target", case.target))
    }
    reduction: Any = case.reduction
    loss, (by_input, by_target) = kl_div_value_and_grad(
        *given.values(),
        reduction,
        case.log_target,
        convention=convention,
        argnums=(0, 1),
        cotangent=ndx.ones_like(given["input"]) if reduction == "none" else None,
    )
    return ndx.build(given, {"loss": loss, "input_gradient": by_input, "target_gradient": by_target})


def exportable(cases: Iterable[Case]) -> Iterable[Case]:
    """Cases of each kind of call that there can be a model for."""
    kinds = {
        model_name(case): case
        for case in cases
        if case.group != "refused" and not {case.input.dtype, case.target.dtype} & set(MISSING_DTYPES)
    }
    return kinds.values()


def main() -> None:
    """Write all of them."""
    parser = argparse.ArgumentParser(description="Write the loss as ONNX models.")
    parser.add_argument("--output", type=Path, default=FOLDER, help=f"directory; default: {FOLDER}")
    output = parser.parse_args().output
    cases = list(exportable(load_corpus().cases))
    for convention in CONVENTIONS:
        (output / convention).mkdir(parents=True, exist_ok=True)
        for case in cases:
            onnx.save(model(convention, case), output / convention / model_name(case))
    print(f"{len(cases) * len(CONVENTIONS)} models are in {output}")


if __name__ == "__main__":
    main()
