"""Write the loss as ONNX models, for a runtime without this library: ``python -m conformance.export_onnx``.

It writes a model for each convention and each kind of call in the corpus: dtypes, number of dimensions, reduction and
``log_target``. All sizes are dynamic. The inputs are ``input`` and ``target``, the outputs ``loss``,
``input_gradient`` and ``target_gradient``; with ``"none"``, these are the gradients of the sum of the loss.
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import ndonnx as ndx
import onnx

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.implementations.onnx import MODELS, Kind, kind_of
from conformance.output import check_outputs, command, replacing
from conformance.record import UnsupportedError, load_corpus
from kldiv_xp import kl_div_value_and_grad


def model(convention: Any, kind: Kind) -> onnx.ModelProto:
    """Loss and gradients for all calls of a kind."""
    shape = tuple(f"size_{axis}" for axis in range(kind.ndim))
    input = ndx.argument(shape=shape, dtype=getattr(ndx, kind.input_dtype))
    target = ndx.argument(shape=shape, dtype=getattr(ndx, kind.target_dtype))
    reduction: Any = kind.reduction
    loss, (by_input, by_target) = kl_div_value_and_grad(
        input,
        target,
        reduction,
        kind.log_target,
        convention=convention,
        argnums=(0, 1),
        cotangent=ndx.ones_like(input) if reduction == "none" else None,
    )
    outputs = {"loss": loss, "input_gradient": by_input, "target_gradient": by_target}
    built: onnx.ModelProto = ndx.build({"input": input, "target": target}, outputs)
    return built


def kinds_in_corpus() -> Iterator[Kind]:
    """Kinds of the corpus's calls that there can be a model for."""
    seen = set()
    for case in load_corpus().cases:
        try:
            kind = kind_of(case)
        except UnsupportedError:
            continue
        if kind not in seen:
            seen.add(kind)
            yield kind


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write all of them."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance.export_onnx", description="Write the loss as ONNX models."
    )
    parser.add_argument("--output", type=Path, default=MODELS, help=f"directory; default: {MODELS}")
    output = parser.parse_args(arguments).output
    models = list(product(CONVENTIONS, kinds_in_corpus()))
    files = [output / convention / kind.file_name for convention, kind in models]
    check_outputs(parser, files)
    for (convention, kind), path in zip(models, files, strict=True):
        with replacing(path) as file:
            onnx.save(model(convention, kind), file)
    print(f"{len(models)} models are in {output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
