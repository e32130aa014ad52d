"""Export the loss to an ONNX file with open sizes, and check the file with onnxruntime against NumPy.

``python examples/export_onnx.py [kl_div.onnx]`` needs ndonnx, onnxruntime and NumPy. The file needs only a runtime.
"""

import argparse
from pathlib import Path

import ndonnx as ndx
import numpy as np
import onnx
import onnxruntime

from kldiv_xp import KLDivLoss


def export(loss: KLDivLoss, path: Path) -> None:
    """Write ``loss`` for float32 arrays of two dimensions."""
    student = ndx.argument(shape=("batch", "classes"), dtype=ndx.float32)
    teacher = ndx.argument(shape=("batch", "classes"), dtype=ndx.float32)
    onnx.save(ndx.build({"student": student, "teacher": teacher}, {"loss": loss(student, teacher)}), path)


def main() -> None:
    """Export, run for several sizes, compare."""
    parser = argparse.ArgumentParser(description="Export the loss to an ONNX file, and check the file.")
    parser.add_argument("path", nargs="?", type=Path, default=Path("kl_div.onnx"), help="default: kl_div.onnx")
    path = parser.parse_args().path
    loss = KLDivLoss("batchmean")
    try:
        export(loss, path)
    except OSError as error:
        parser.error(f"cannot write {path}: {error.strerror}")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for shape in ((2, 3), (64, 1000), (1, 50_000)):
        logits = rng.normal(size=shape)
        student = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
        teacher = rng.dirichlet(np.ones(shape[1]), shape[0]).astype(np.float32)
        (from_file,) = session.run(["loss"], {"student": student, "teacher": teacher})
        x, p = student.astype(np.float64), teacher.astype(np.float64)
        here = loss(x, p)
        # Every term is rounded a few times, in units of its size.
        rounding = 8 * np.finfo(np.float32).eps * np.sum(p * (np.abs(np.log(p)) + np.abs(x) + 1)) / shape[0]
        print(f"{shape}: onnxruntime {from_file:.7f}, NumPy in float64 {here:.7f}")
        assert abs(from_file - here) <= rounding
    print(f"{path} gives the loss of arrays of any size")


if __name__ == "__main__":
    main()
