"""Divergences from logits on Dask, Cubed, ndonnx, MLX, Autograd and sparse, and that no library keeps the arrays."""

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kldiv_xp import (
    js_div_with_logits,
    js_div_with_logits_value_and_grad,
    kl_div_with_logits,
    kl_div_with_logits_value_and_grad,
)
from tests import exact_from_logits as exact
from tests.backends import REDUCTIONS, Exact, dtype_name
from tests.test_from_logits import BETAS, IMPOSSIBLE, close, logits

every_beta = pytest.mark.parametrize("beta", BETAS)
some_betas = pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)

T = 1.5


def reduced(rows: Exact, reduction: str, counts: Exact | None = None) -> Exact:
    """Exact loss from that of the rows, of which some may not count."""
    if counts is not None:
        rows = np.where(counts, rows, 0.0)
    number = rows.size if counts is None else counts.sum()
    over = {"mean": number, "batchmean": rows.shape[0]}.get(reduction, 1)
    return rows if reduction == "none" else np.asarray(rows.sum() / over)


def exact_results(x: Exact, y: Exact, beta: float, reduction: str, counts: Exact | None = None) -> list[Exact]:
    """Loss, and gradients by both arguments, with a cotangent of ones."""
    loss = reduced(exact.rows(x, y, beta, T), reduction, counts)
    gradients = [np.asarray(gradient) for gradient in exact.gradients(x, y, beta, T)]
    kept = np.ones(x.shape[:-1], bool) if counts is None else counts
    over = {"mean": kept.sum(), "batchmean": x.shape[0]}.get(reduction, 1)
    return [loss, *(np.where(kept[..., None], gradient, 0.0) / over for gradient in gradients)]


def results(x: Any, y: Any, beta: float, reduction: Any, ones: Any, where: Any = None) -> list[Any]:
    """Loss, and gradients by both arguments, with a cotangent of ones for each row if one is needed."""
    options: Any = {"cotangent": ones} if reduction == "none" else {}
    loss, gradients = js_div_with_logits_value_and_grad(
        x, y, beta, reduction, temperature=T, where=where, argnums=(0, 1), **options
    )
    return [loss, *gradients]


def all_close(actual: list[Any], wanted: list[Exact], **options: float) -> None:
    for one, other in zip(actual, wanted, strict=True):
        close(one, other, **options)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("shape", [(2, 3), (300, 1000), (2, 200_000)], ids=str)
@some_betas
def test_no_array_outlives_a_call(library: str, shape: tuple[int, ...], beta: float) -> None:
    # If arrays were freed only by the garbage collector, a loop over chunks would hold many of them.
    xp: Any = {"numpy": np, "torch": torch}[library]
    gc.collect()
    gc.disable()
    try:
        x, y = (xp.asarray(values) for values in logits(shape))
        alive = [weakref.ref(x), weakref.ref(y)]
        js_div_with_logits_value_and_grad(x, y, beta, argnums=(0, 1))
        del x, y
        assert [each() for each in alive] == [None, None]
    finally:
        gc.enable()


class TestDask:
    da: Any
    dask: Any
    kept = np.asarray([True, False, True, True, False, True, True])

    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        self.da, self.dask = pytest.importorskip("dask.array"), pytest.importorskip("dask")

    def arrays(self, x: Exact, y: Exact, chunks: Any) -> tuple[Any, Any]:
        return self.da.from_array(x, chunks=chunks), self.da.from_array(y, chunks=chunks)

    def some_rows(self, *arrays: Exact) -> list[Any]:
        """The rows that are kept, in chunks whose sizes are unknown; complete rows in a chunk."""
        mask = self.da.from_array(self.kept, chunks=3)
        return [self.da.from_array(x, chunks=(3, *x.shape[1:]))[mask] for x in arrays]

    @every_reduction
    @some_betas
    @pytest.mark.parametrize("chunks", [(6, 8), (1, 8), (4, 3), ((1, 2, 3), (7, 1))], ids=str)
    def test_the_chunks_make_no_difference(self, chunks: Any, beta: float, reduction: Any) -> None:
        x, y = logits((6, 8))
        wanted = exact_results(x, y, beta, reduction)
        for other_chunks in (chunks, (2, 8), (2, 4)):
            a, b = self.da.from_array(x, chunks=chunks), self.da.from_array(y, chunks=other_chunks)
            all_close(results(a, b, beta, reduction, self.da.ones(6, chunks=4)), wanted)

    @pytest.mark.parametrize("axis", [0, 1, -3])
    def test_the_classes_may_be_along_any_axis(self, axis: int) -> None:
        x, y = logits((4, 5, 6))
        for chunks in ((2, 3, 4), (4, 5, 2), (4, 5, 6)):
            loss = js_div_with_logits(*self.arrays(x, y, chunks), 0.3, "none", axis=axis)
            close(loss, exact.rows(np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1), 0.3, 1.0))

    @every_reduction
    @some_betas
    @pytest.mark.parametrize("chunks", [(3, 4), (2, 2)], ids=str)
    def test_nothing_is_computed_before_the_caller_asks(self, chunks: Any, beta: float, reduction: Any) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("something was computed")

        blocks = self.dask.delayed(refuse)(pure=True)
        x, y = (self.da.from_delayed(blocks, (3, 4), np.float64).rechunk(chunks) for _ in range(2))
        mask = self.da.from_delayed(blocks, (3,), bool)
        with self.dask.config.set(scheduler=refuse):
            loss, *_ = results(x, y, beta, reduction, self.da.ones(3), mask)
        with pytest.raises(AssertionError, match="something was computed"):
            loss.compute()

    @pytest.mark.parametrize("chunks", [(2, 5), (2, 3)], ids=str)
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_the_loss_and_the_gradients_have_the_dtype_and_the_chunks_of_the_arguments(
        self, dtype: str, chunks: Any
    ) -> None:
        x, y = (self.da.from_array(z.astype(dtype), chunks=chunks) for z in logits((4, 5)))
        loss, *gradients = results(x, y, 0.3, "none", self.da.ones(4, chunks=2))
        assert loss.chunks == x.chunks[:1]
        for array in (loss, *gradients):
            assert dtype_name(array) == dtype_name(array.compute()) == dtype
        assert [gradient.chunks for gradient in gradients] == [x.chunks] * 2

    @every_reduction
    @pytest.mark.parametrize("chunks", [2, 5])
    def test_the_mask_is_a_dask_array_in_any_chunks(self, chunks: int, reduction: Any) -> None:
        x, y = logits((7, 4))
        wanted = exact_results(x, y, 0.3, reduction, self.kept)
        x[~self.kept], y[~self.kept] = np.nan, np.inf
        mask = self.da.from_array(self.kept, chunks=chunks)
        for of_arrays in ((3, 4), (3, 2)):
            all_close(
                results(*self.arrays(x, y, of_arrays), 0.3, reduction, self.da.ones(7, chunks=chunks), mask), wanted
            )
        with pytest.raises(TypeError, match=r"one array library, got dask.*numpy\.ndarray; convert them"):
            kl_div_with_logits(*self.arrays(x, y, 3), where=self.kept)

    @every_reduction
    def test_rows_of_unknown_number_are_those_that_are_left(self, reduction: Any) -> None:
        x, y = logits((7, 4))
        counts = np.asarray([True, True, False, True, True, False, True])
        a, b, ones, mask = self.some_rows(x, y, np.ones(7), counts)
        left = x[self.kept], y[self.kept]
        all_close(results(a, b, 0.3, reduction, ones), exact_results(*left, 0.3, reduction))
        wanted = exact_results(*left, 0.3, reduction, counts[self.kept])
        all_close(results(a, b, 0.3, reduction, ones, mask), wanted)

    def test_classes_of_unknown_number_are_those_that_are_left(self) -> None:
        x, y = logits((4, 7))
        mask = self.da.from_array(self.kept, chunks=3)
        a, b = (z[:, mask] for z in self.arrays(x, y, (2, 3)))
        close(kl_div_with_logits(a, b), exact.rows(x[:, self.kept], y[:, self.kept], 0.0, 1.0).mean())

    @every_reduction
    def test_chunks_of_one_row_are_not_broadcast_against_longer_ones(self, reduction: Any) -> None:
        rows = self.da.ones((4, 3), chunks=(2, 3))
        one_each, two_each = (
            rows[self.da.from_array(np.asarray(mask), chunks=2)] for mask in ([True, False] * 2, [True] * 4)
        )
        for x, y in itertools.permutations([one_each, two_each]):
            for result in results(x, y, 0.0, reduction, x[:, 0]):
                with pytest.raises(ValueError, match=r"a chunk of shape \([12], 3\) meets one of shape \([12], 3\)"):
                    result.compute()

    def test_a_cotangent_of_one_row_is_not_broadcast(self) -> None:
        rows = self.da.ones((4, 3), chunks=(2, 3))
        one_each, two_each = (
            rows[self.da.from_array(np.asarray(mask), chunks=2)] for mask in ([True, False] * 2, [True] * 4)
        )
        _, gradient, _ = results(two_each, two_each, 0.0, "none", one_each[:, 0])
        with pytest.raises(ValueError, match="meets one of shape"):
            gradient.compute()
        with pytest.raises(ValueError, match=r"call compute_chunk_sizes\(\) on each"):
            results(two_each, two_each, 0.0, "none", self.da.ones(4, chunks=2))

    @pytest.mark.parametrize("classes", [6, 2])
    @pytest.mark.parametrize("axis", [0, 1])
    def test_chunks_without_rows_or_classes_add_nothing(self, axis: int, classes: int) -> None:
        x, y = logits((6, 6))
        kept = np.asarray([False, False, True, True, False, True])
        mask = self.da.from_array(kept, chunks=2 if axis == 0 else classes)
        part: Any = (slice(None),) * axis
        a, b = (z[*part, mask] for z in self.arrays(x, y, (2, classes)))
        wanted = exact_results(x[*part, kept], y[*part, kept], 0.3, "mean")
        all_close(results(a, b, 0.3, "mean", None), wanted)

    @every_beta
    @pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
    @pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning")
    def test_impossible_classes_are_those_of_numpy_in_any_chunks(self, beta: float) -> None:
        x, y = (np.asarray(rows) for rows in zip(*IMPOSSIBLE.values(), strict=True))
        for chunks in ((5, 4), (5, 2)):
            close(js_div_with_logits(*self.arrays(x, y, chunks), beta, "none"), exact.rows(x, y, beta, 1.0))

    def test_a_chunk_of_complete_rows_is_evaluated_in_one_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from kldiv_xp.backends.dask import Chunk

        shapes = []
        evaluate = Chunk.divergence_in_blocks

        def noted(chunk: Chunk, x: Any, *arguments: Any) -> Any:
            shapes.append(x.shape)
            return evaluate(chunk, x, *arguments)

        monkeypatch.setattr(Chunk, "divergence_in_blocks", noted)
        for classes, wanted in ((6, [(2, 6)] * 4), (3, [])):
            x, y = (self.da.ones((8, 6), chunks=(2, classes)) * factor for factor in (1, 2))
            for of_each_row in (js_div_with_logits(x, y, 0.3, "none"), *results(x, y, 0.3, "sum", None)[1:]):
                shapes.clear()
                of_each_row.compute(scheduler="synchronous")
                assert shapes == wanted

    @some_betas
    @pytest.mark.parametrize("classes", [6, 3])
    def test_the_number_of_tasks_grows_as_that_of_the_chunks(self, classes: int, beta: float) -> None:
        def tasks(rows: int) -> list[int]:
            x, y = (self.da.ones((rows, 6), chunks=(1, classes), name=name) for name in ("x", "y"))
            return [len(result.dask) for result in results(x, y, beta, "mean", None)]

        for few, many in zip(tasks(64), tasks(256), strict=True):
            assert many < 4 * (few + 1)  # the tree of a sum is one level higher

    def test_an_array_larger_than_memory_is_described_at_once(self) -> None:
        x = self.da.zeros((2**25, 2**15), chunks=(2**20, 2**10), dtype=np.float32)  # 4 TiB
        loss: Any = kl_div_with_logits(x, x)
        assert loss.shape == ()
        assert loss.dtype == np.float32

    def test_blocks_of_another_library_are_computed_by_it(self) -> None:
        sparse = pytest.importorskip("sparse")
        x, y = logits((4, 6))
        a, b = (z.map_blocks(sparse.COO) for z in self.arrays(x, y, (2, 6)))
        loss: Any = kl_div_with_logits(a, b, "none").compute()
        assert isinstance(loss, sparse.COO)
        close(loss.todense(), exact.rows(x, y, 0.0, 1.0))


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Client of two worker processes on this machine, which are gone at the end."""
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    with (
        dask.config.set({"distributed.scheduler.work-stealing": False}),  # it moves small arrays to an idle worker
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


class TestDaskDistributed:
    @every_reduction
    def test_the_loss_and_the_gradients_are_exact_and_rows_stay_where_they_are(
        self, client: Any, reduction: Any
    ) -> None:
        da, distributed = pytest.importorskip("dask.array"), pytest.importorskip("distributed")
        client.wait_for_workers(2)  # a busy machine may lose one, which its nanny starts again
        workers = list(client.scheduler_info()["workers"])

        def spread(values: Exact) -> Any:
            parts = [
                client.scatter(part, hash=False, workers=[worker])
                for part, worker in zip((values[:2], values[2:]), workers, strict=True)
            ]
            distributed.wait(parts)
            shapes = [(rows, *values.shape[1:]) for rows in (2, 4)]
            return da.concatenate(
                [da.from_delayed(part, shape, dtype=values.dtype) for part, shape in zip(parts, shapes, strict=True)]
            )

        values = logits((6, 64))
        x, y, ones = map(spread, (*values, np.ones(6)))
        received = sum(client.run(_bytes_received).values())
        lazy = client.persist(results(x, y, 0.3, reduction, ones))
        distributed.wait(lazy)
        assert sum(client.run(_bytes_received).values()) - received < 64 * 8  # less than a row
        for gradient in lazy[1:]:
            assert {worker for of in client.who_has(gradient).values() for worker in of} == set(workers)
        all_close(client.gather(client.compute(lazy)), exact_results(*values, 0.3, reduction))


def _bytes_received(dask_worker: Any) -> int:
    return int(sum(entry["total"] for entry in dask_worker.transfer_incoming_log))


class TestCubed:
    cubed: Any

    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        self.cubed = pytest.importorskip("cubed")

    def described(self, shape: tuple[int, ...], chunks: tuple[int, ...], **options: Any) -> tuple[Any, Any]:
        """Student and teacher in float32, of which nothing is in memory."""
        spec = self.cubed.Spec(allowed_mem=options.pop("allowed_mem", "1GB"), **options)
        x, y = (self.cubed.random.random(shape, dtype=np.float32, chunks=chunks, spec=spec) for _ in range(2))
        return x, y

    def given(self, values: Any, chunks: Any, folder: Path) -> Any:
        spec = self.cubed.Spec(str(folder), allowed_mem="100MB", executor_name="single-threaded")
        return self.cubed.from_array(values, chunks=chunks, spec=spec)

    @every_reduction
    @some_betas
    @pytest.mark.parametrize("chunks", [(3, 4), (2, 2)], ids=str)
    def test_nothing_is_computed_before_the_caller_asks(self, chunks: Any, beta: float, reduction: Any) -> None:
        x, y = self.described((3, 4), chunks, executor_name="raise-if-computes")
        loss, *gradients = results(x, y, beta, reduction, x[:, 0])
        assert all(gradient.chunks == x.chunks for gradient in gradients)
        with pytest.raises(RuntimeError, match="'compute' was called"):
            loss.compute()

    @every_reduction
    @pytest.mark.parametrize(
        ("chunks", "beta"),
        [
            *itertools.product([((2, 4), (2, 4)), ((2, 4), (3, 4))], [0.0, 0.3, 1.0]),
            (((2, 3), (2, 3)), 0.3),
            (((2, 4), (2, 3)), 0.0),
        ],
        ids=str,
    )
    def test_the_chunks_make_no_difference(self, chunks: Any, beta: float, reduction: Any, tmp_path: Path) -> None:
        x, y = logits((5, 4))
        a, b = (self.given(z, of, tmp_path) for z, of in zip((x, y), chunks, strict=True))
        ones = self.given(np.ones(5), 2, tmp_path)
        all_close(self.cubed.compute(*results(a, b, beta, reduction, ones)), exact_results(x, y, beta, reduction))

    @every_reduction
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_rows_that_do_not_count_may_hold_anything(self, dtype: str, reduction: Any, tmp_path: Path) -> None:
        x, y = (z.astype(dtype) for z in logits((5, 4)))
        counts = np.asarray([True, False, True, True, False])
        wanted = exact_results(x.astype(float), y.astype(float), 0.3, reduction, counts)
        x[~counts] = np.nan
        a, b = (self.given(z, (2, 4), tmp_path) for z in (x, y))
        ones, mask = (self.given(z, 2, tmp_path) for z in (np.ones(5, dtype), counts))
        lazy = results(a, b, 0.3, reduction, ones, mask)
        assert {str(array.dtype) for array in lazy} == {dtype}
        eps = float(np.finfo(dtype).eps)
        all_close(self.cubed.compute(*lazy), wanted, rtol=max(eps, 1e-12), atol=eps / 64)

    @pytest.mark.parametrize("reduction", ["none", "mean"])
    @pytest.mark.parametrize("classes", [1000, 500])
    def test_a_task_takes_as_much_memory_whatever_the_size_of_the_arrays(self, classes: int, reduction: Any) -> None:
        def most(rows: int) -> list[int]:
            x, y = self.described((rows, 1000), (1000, classes))
            return [array.plan().max_projected_mem for array in results(x, y, 0.3, reduction, x[:, 0])]

        assert most(4_000) == most(40_000)
        assert max(most(4_000)) <= 20 * 4 * 1000 * 1000

    @every_reduction
    def test_of_chunks_of_complete_rows_only_numbers_of_rows_are_written(self, reduction: Any) -> None:
        x, y = self.described((4000, 1000), (1000, 1000))
        ones, _ = self.described((4000,), (1000,))
        for array in results(x, y, 0.3, reduction, ones):
            plan = array.plan()
            names = [node.get("op_name") or "" for _, node in plan.dag.nodes(data=True)]
            assert not [name for name in names if "rechunk" in name]
            assert plan.total_intermediate_nbytes <= 4000 * 3 * 8


class TestNDOnnx:
    ndx: Any
    onnxruntime: Any

    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        self.ndx, self.onnxruntime = pytest.importorskip("ndonnx"), pytest.importorskip("onnxruntime")

    def session(self, model: Any) -> Any:
        options = self.onnxruntime.SessionOptions()
        options.log_severity_level = 4  # it writes errors to the terminal, too
        return self.onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def traced(self, function: Callable[..., Any], *arguments: tuple[tuple[Any, ...], str]) -> Callable[..., Any]:
        """What ``function`` computes, as a model of arguments of these shapes and dtypes."""
        given = [self.ndx.argument(shape=shape, dtype=getattr(self.ndx, dtype)) for shape, dtype in arguments]
        outputs = function(*given)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        model = self.ndx.build(
            {f"given_{i}": each for i, each in enumerate(given)}, {f"output_{i}": o for i, o in enumerate(outputs)}
        )
        session = self.session(model)
        return lambda *arrays: session.run(None, {f"given_{i}": np.asarray(each) for i, each in enumerate(arrays)})

    def ones(self, x: Any) -> Any:
        return self.ndx.ones_like(self.ndx.max(x, axis=-1))

    @pytest.mark.parametrize(
        ("dtype", "beta", "reduction"),
        [
            *itertools.product(["float16", "float32", "float64"], [0.0, 0.3, 1.0], ["none"]),
            *(("float32", 0.3, reduction) for reduction in REDUCTIONS[1:]),
        ],
    )
    @pytest.mark.parametrize("classes", ["classes", 300])
    def test_a_model_gives_the_exact_loss_and_gradients_of_batches_of_every_size(
        self, classes: Any, dtype: str, beta: float, reduction: Any
    ) -> None:
        pair = [(("batch", classes), dtype)] * 2
        run = self.traced(lambda x, y: results(x, y, beta, reduction, self.ones(x)), *pair)
        eps = float(np.finfo(dtype).eps)
        for rows, columns in ((2, 300), (1, 9), (7, 20)) if classes == "classes" else ((1, 300), (2, 300)):
            x, y = (z.astype(dtype) for z in logits((rows, columns)))
            wanted = exact_results(x.astype(np.float64), y.astype(np.float64), beta, reduction)
            # A logarithm of a ratio of probabilities has the rounding error of the logits, which are below 16.
            all_close(run(x, y), wanted, rtol=32 * eps, atol=eps)

    @some_betas
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_impossible_classes_are_those_of_the_documentation(self, dtype: str, beta: float) -> None:
        run = self.traced(lambda x, y: results(x, y, beta, "none", self.ones(x)), *[(("batch", "classes"), dtype)] * 2)
        x, y = (np.asarray(rows) for rows in zip(*IMPOSSIBLE.values(), strict=True))
        wanted, by_x, by_y = exact_results(x, y, beta, "none")
        loss, *gradients = run(x.astype(dtype), y.astype(dtype))
        rtol = 64 * float(np.finfo(dtype).eps)
        close(loss, wanted, rtol=rtol)
        for argnum, (gradient, expected) in enumerate(zip(gradients, (by_x, by_y), strict=True)):
            defined = np.isfinite(wanted)
            if argnum == 0 and beta == 0.0:  # by the student's logits it is finite even if the loss is not
                defined |= wanted == np.inf
            close(gradient[defined], expected[defined], rtol=rtol, atol=rtol)

    @every_reduction
    @pytest.mark.parametrize("shape", [("batch",), (1,), ()], ids=str)
    def test_the_mask_is_an_argument_of_the_model(self, shape: tuple[Any, ...], reduction: Any) -> None:
        run = self.traced(
            lambda x, y, where: results(x, y, 0.3, reduction, self.ones(x), where),
            *[(("batch", "classes"), "float64")] * 2,
            (shape, "bool"),
        )
        x, y = logits((6, 5))
        where = np.asarray([True, False, True, True, False, True]) if shape == ("batch",) else np.ones(shape, bool)
        counts = np.broadcast_to(where, (6,))
        wanted = exact_results(x, y, 0.3, reduction, counts)
        x[~counts] = np.nan
        all_close(run(x, y, where), wanted)

    @pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
    def test_the_classes_may_be_along_any_axis(self, axis: int) -> None:
        run = self.traced(
            lambda x, y: js_div_with_logits(x, y, 0.3, "none", axis=axis), *[(("a", "b", "c"), "float64")] * 2
        )
        x, y = logits((3, 4, 5))
        (loss,) = run(x, y)
        close(loss, exact.rows(np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1), 0.3, 1.0))

    def composition(self) -> Callable[..., Any]:
        """The divergence of each row as people write it, computed by onnxruntime."""
        onnx: Any = pytest.importorskip("onnx")
        helper, kind = onnx.helper, onnx.TensorProto
        nodes = [
            helper.make_node("LogSoftmax", ["x"], ["log_q"], axis=-1),
            helper.make_node("LogSoftmax", ["y"], ["log_p"], axis=-1),
            helper.make_node("Softmax", ["y"], ["p"], axis=-1),
            helper.make_node("Sub", ["log_p", "log_q"], ["r"]),
            helper.make_node("Mul", ["p", "r"], ["terms"]),
            helper.make_node("ReduceSum", ["terms", "axes"], ["loss"], keepdims=0),
        ]
        inputs = [helper.make_tensor_value_info(name, kind.FLOAT, ["batch", "classes"]) for name in ("x", "y")]
        outputs = [helper.make_tensor_value_info("loss", kind.FLOAT, ["batch"])]
        axes = [helper.make_tensor("axes", kind.INT64, [1], [-1])]
        graph = helper.make_graph(nodes, "composition", inputs, outputs, axes)
        session = self.session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
        return lambda x, y: session.run(None, {"x": x, "y": y})

    @pytest.mark.parametrize("noise", [1.0, 1e-1, 1e-2])
    @pytest.mark.parametrize("scale", [1.0, 1 / 30])
    def test_rows_of_1e5_classes_lose_no_digits_in_float32(self, scale: float, noise: float) -> None:
        x, y = ((scale * z).astype(np.float32) for z in logits((4, 100_000), noise))
        # NumPy computes them in float64: what is lost there is below what is measured here.
        wanted, by_x, by_y = results(x.astype(np.float64), y.astype(np.float64), 0.0, "none", np.ones(4))
        run = self.traced(
            lambda x, y: results(x, y, 0.0, "none", self.ones(x)), *[(("batch", "classes"), "float32")] * 2
        )
        loss, *gradients = run(x, y)
        error = np.abs(loss / wanted - 1).max()
        assert error < 16 * np.finfo(np.float32).eps
        for gradient, expected in zip(gradients, (by_x, by_y), strict=True):
            # A logit has a relative precision, and so a difference of two, relative to the noise.
            bound = 16 * np.finfo(np.float32).eps * max(1.0, np.abs(x).max()) / (noise * scale)
            assert np.abs(gradient - expected).max() < bound * np.abs(expected).max()
        (composed,) = self.composition()(x, y)
        assert error < np.abs(composed / wanted - 1).max() * (1.0 if noise == 1.0 else noise / 10)

    @pytest.mark.parametrize(("shape", "other"), [((3, 4), (3, 1)), ((3, 1), (1, 3)), ((1, 4), (3, 4))], ids=str)
    def test_a_model_broadcasts_no_more_than_the_function(self, shape: tuple[int, int], other: tuple[int, int]) -> None:
        run = self.traced(kl_div_with_logits, *[(("batch", "classes"), "float32")] * 2)
        with pytest.raises(Exception, match="Reshape"):
            run(np.zeros(shape, np.float32), np.ones(other, np.float32))

    def test_a_model_does_not_broadcast_a_cotangent(self) -> None:
        run = self.traced(
            lambda x, y, ones: results(x, y, 0.0, "none", ones),
            *[(("batch", "classes"), "float32")] * 2,
            (("rows",), "float32"),
        )
        x = np.zeros((3, 4), np.float32)
        run(x, x, np.ones(3, np.float32))
        with pytest.raises(Exception, match="Reshape"):
            run(x, x, np.ones(1, np.float32))

    def test_no_rows_have_no_mean_but_a_sum(self) -> None:
        run = self.traced(
            lambda x, y: [kl_div_with_logits(x, y, reduction) for reduction in REDUCTIONS],
            *[(("batch", "classes"), "float32")] * 2,
        )
        x = np.zeros((0, 3), np.float32)
        for value, wanted in zip(run(x, x), ([], np.nan, 0.0, np.nan), strict=True):
            np.testing.assert_array_equal(value, np.asarray(wanted, np.float32), strict=True)

    def test_arrays_with_values_give_values(self) -> None:
        x, y = logits((3, 300))
        loss, *gradients = results(self.ndx.asarray(x), self.ndx.asarray(y), 0.3, "mean", None)
        all_close([each.unwrap_numpy() for each in (loss, *gradients)], exact_results(x, y, 0.3, "mean"))


class TestMLX:
    mx: Any

    @pytest.fixture(autouse=True)
    def _library(self) -> Iterator[None]:
        self.mx = pytest.importorskip("mlx.core")
        with self.mx.stream(self.mx.cpu):
            yield

    def array(self, values: Any, dtype: str = "float64") -> Any:
        return self.mx.array(np.asarray(values, np.float64), dtype=getattr(self.mx, dtype))

    def numbers(self, x: Any) -> Exact:
        return np.asarray(x.astype(self.mx.float64))

    def arrays(self, shape: tuple[int, ...] = (3, 5), dtype: str = "float64", noise: float = 1.0) -> tuple[Any, Any]:
        x, y = logits(shape, noise)
        return self.array(x, dtype), self.array(y, dtype)

    def loss(self, beta: float, reduction: Any = "sum", where: Any = None) -> Callable[[Any, Any], Any]:
        return lambda x, y: js_div_with_logits(x, y, beta, reduction, temperature=T, where=where)

    @every_reduction
    @every_beta
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_the_loss_and_the_gradients_by_autodiff_and_in_closed_form_are_exact(
        self, dtype: str, beta: float, reduction: Any
    ) -> None:
        x, y = self.arrays(dtype=dtype)
        wanted = exact_results(self.numbers(x), self.numbers(y), beta, reduction)
        eps = float(np.finfo(dtype).eps)
        ones = self.mx.ones(3, dtype=x.dtype)
        closed = results(x, y, beta, reduction, ones)
        by_autodiff = self.mx.grad(lambda a, b: self.mx.sum(self.loss(beta, reduction)(a, b)), (0, 1))(x, y)
        for actual in (closed, [self.loss(beta, reduction)(x, y), *by_autodiff]):
            assert {array.dtype for array in actual} == {x.dtype}
            all_close([self.numbers(array) for array in actual], wanted, rtol=32 * eps, atol=2 * eps)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    @every_beta
    def test_sixteen_bits_are_rounded_once(self, beta: float, dtype: str) -> None:
        x, y = self.arrays((4, 33), dtype)
        value = self.loss(beta, "none")(x, y)
        assert value.dtype == x.dtype
        spacing = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
        wanted = exact.rows(self.numbers(x), self.numbers(y), beta, T)
        close(self.numbers(value), wanted, rtol=0.502 * spacing, atol=2.0**-25)

    @some_betas
    @pytest.mark.parametrize("noise", [1.0, 1e-1, 1e-2])
    def test_rows_of_1e5_classes_lose_no_digits_in_float32(self, noise: float, beta: float) -> None:
        x, y = self.arrays((2, 100_000), "float32", noise)
        wanted = results(self.numbers(x), self.numbers(y), beta, "none", np.ones(2))[0]
        value = self.numbers(self.loss(beta, "none")(x, y))
        assert np.abs(value / wanted - 1).max() < 8 * np.finfo(np.float32).eps

    @some_betas
    def test_vmap_is_a_loop_over_the_batch(self, beta: float) -> None:
        mx, loss = self.mx, self.loss(beta)
        x, y = self.arrays((4, 3, 5))
        each = [loss(a, b).item() for a, b in zip(x, y, strict=True)]
        close(self.numbers(mx.vmap(loss)(x, y)), each)
        close(self.numbers(mx.vmap(loss, (2, 2))(mx.moveaxis(x, 0, 2), mx.moveaxis(y, 0, 2))), each)
        close(self.numbers(mx.vmap(loss, (0, None))(x, y[0])), [loss(a, y[0]).item() for a in x])
        for argnum in (0, 1):
            gradients = mx.vmap(mx.grad(loss, argnum))(x, y)
            close(self.numbers(gradients), exact.gradients(self.numbers(x), self.numbers(y), beta, T)[argnum])

    @some_betas
    def test_compiled_it_is_the_same_and_nothing_is_computed_while_tracing(self, beta: float) -> None:
        mx, loss = self.mx, self.loss(beta)
        x, y = self.arrays()
        value, gradients = mx.compile(lambda a, b: (loss(a, b), mx.grad(loss, (0, 1))(a, b)))(x, y)
        wanted = exact_results(self.numbers(x), self.numbers(y), beta, "sum")
        all_close([self.numbers(array) for array in (value, *gradients)], wanted)

    def test_it_is_not_compiled_for_any_shape(self) -> None:
        for function in (self.loss(0.3), lambda x, y: results(x, y, 0.3, "mean", None)):
            with pytest.raises(ValueError, match="cannot infer output shapes"):
                self.mx.compile(function, shapeless=True)(*self.arrays())

    @some_betas
    def test_a_direction_is_differentiated_along(self, beta: float) -> None:
        mx, loss = self.mx, self.loss(beta)
        x, y = self.arrays()
        directions = [self.array(np.random.default_rng(seed).normal(size=(3, 5))) for seed in (1, 2)]
        along = [
            (self.numbers(direction) * gradient).sum()
            for direction, gradient in zip(
                directions, exact.gradients(self.numbers(x), self.numbers(y), beta, T), strict=True
            )
        ]
        close(mx.jvp(loss, [x, y], directions)[1][0].item(), sum(along))
        close(mx.jvp(lambda a: loss(a, y), [x], directions[:1])[1][0].item(), along[0])
        close(mx.jvp(lambda b: loss(x, b), [y], directions[1:])[1][0].item(), along[1])

    @every_beta
    @pytest.mark.parametrize(("first", "last"), list(itertools.product((0, 1), (0, 1))))
    def test_second_derivatives_are_those_of_finite_differences_in_both_modes(
        self, first: int, last: int, beta: float
    ) -> None:
        mx, loss = self.mx, self.loss(beta)
        given = list(self.arrays())
        direction, cotangent = (self.array(np.random.default_rng(seed).normal(size=(3, 5))) for seed in (1, 2))

        def moved(step: float) -> Exact:
            arguments = [z + step * direction if argnum == last else z for argnum, z in enumerate(given)]
            return self.numbers(mx.grad(loss, first)(*arguments))

        step = 1e-5
        wanted = (moved(step) - moved(-step)) / (2 * step)
        directions = [direction if argnum == last else mx.zeros_like(direction) for argnum in (0, 1)]
        forward = mx.jvp(mx.grad(loss, first), given, directions)[1][0]
        close(self.numbers(forward), wanted, rtol=1e-8, atol=1e-10)
        reverse = mx.grad(lambda *arguments: mx.sum(mx.grad(loss, first)(*arguments) * cotangent), last)(*given)
        close(mx.sum(reverse * direction).item(), (wanted * self.numbers(cotangent)).sum(), rtol=1e-8, atol=1e-10)

    @every_beta
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("case", IMPOSSIBLE)
    def test_derivatives_of_first_and_second_order_are_finite_wherever_the_loss_is(
        self, case: str, dtype: str, beta: float
    ) -> None:
        mx, loss = self.mx, self.loss(beta)
        x, y = (np.asarray([row]) for row in IMPOSSIBLE[case])
        (wanted,), by_x, by_y = exact_results(x, y, beta, "none")
        a, b = self.array(x, dtype), self.array(y, dtype)
        tolerance = 64 * float(np.finfo(dtype).eps)
        close(self.numbers(loss(a, b)), wanted, rtol=tolerance, atol=tolerance)
        gradients = mx.grad(loss, (0, 1))(a, b)
        if wanted == np.inf and beta == 0.0:
            close(self.numbers(gradients[0]), by_x, rtol=tolerance, atol=tolerance)
        if not np.isfinite(wanted):
            return
        for gradient, expected in zip(gradients, (by_x, by_y), strict=True):
            close(self.numbers(gradient), expected, rtol=tolerance, atol=tolerance)
        for argnum, last in itertools.product((0, 1), (0, 1)):
            gradient_by = mx.grad(loss, argnum)
            second = mx.grad(lambda p, q, by=gradient_by: mx.sum(by(p, q) ** 2), last)(a, b)
            directions = [mx.full(a.shape, float(last == i), dtype=a.dtype) for i in (0, 1)]
            forward = mx.jvp(gradient_by, [a, b], directions)[1][0]
            assert np.isfinite(self.numbers(second)).all()
            assert np.isfinite(self.numbers(forward)).all()

    @every_reduction
    def test_rows_that_do_not_count_may_hold_anything(self, reduction: Any) -> None:
        x, y = logits((6, 5))
        counts = np.asarray([True, False, True, True, False, True])
        wanted = exact_results(x, y, 0.3, reduction, counts)
        x[~counts], y[~counts] = np.nan, np.inf
        a, b, where = self.array(x), self.array(y), self.mx.array(counts)
        actual = results(a, b, 0.3, reduction, self.array(np.ones(6)), where)
        by_autodiff = self.mx.grad(lambda p, q: self.mx.sum(self.loss(0.3, reduction, where)(p, q)), (0, 1))(a, b)
        all_close([self.numbers(array) for array in actual], wanted)
        all_close([self.numbers(array) for array in by_autodiff], wanted[1:])


class TestAutograd:
    autograd: Any

    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        self.autograd = pytest.importorskip("autograd")

    def loss(self, beta: float, reduction: Any = "sum", where: Any = None) -> Callable[[Any, Any], Any]:
        return lambda x, y: js_div_with_logits(x, y, beta, reduction, temperature=T, where=where)

    @every_beta
    @every_reduction
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("argnum", [0, 1], ids=["input", "target"])
    def test_the_gradient_is_exact_and_has_the_dtype_of_its_argument(
        self, argnum: int, dtype: str, reduction: Any, beta: float
    ) -> None:
        x, y = (z.astype(dtype) for z in logits((4, 7)))
        loss = self.loss(beta, reduction)
        value, gradient = self.autograd.value_and_grad(lambda *pair: self.autograd.numpy.sum(loss(*pair)), argnum)(x, y)
        wanted = exact_results(x.astype(np.float64), y.astype(np.float64), beta, reduction)
        eps = float(np.finfo(dtype).eps)
        assert gradient.dtype == dtype
        close(
            gradient, wanted[1 + argnum], rtol=max(0.502 * eps, 1e-13), atol=2.0**-25 if dtype == "float16" else 1e-16
        )
        close(value, wanted[0].sum(), rtol=4 * eps)

    @every_beta
    @pytest.mark.parametrize("argnum", [0, 1], ids=["input", "target"])
    def test_the_jacobian_of_the_rows_has_the_gradient_of_each_on_its_diagonal(self, argnum: int, beta: float) -> None:
        x, y = logits((3, 4))
        jacobian = self.autograd.jacobian(self.loss(beta, "none"), argnum)(x, y)
        wanted = np.zeros((3, 3, 4))
        wanted[np.arange(3), np.arange(3)] = exact.gradients(x, y, beta, T)[argnum]
        close(jacobian, wanted)

    @every_beta
    @pytest.mark.parametrize("argnum", [0, 1], ids=["input", "target"])
    def test_the_hessian_is_that_of_finite_differences(self, argnum: int, beta: float) -> None:
        given = logits((3, 4))
        hessian = self.autograd.hessian(self.loss(beta), argnum)(*given)
        direction = np.random.default_rng(1).normal(size=(3, 4))

        def moved(step: float) -> Any:
            x, y = (z + step * direction if i == argnum else z for i, z in enumerate(given))
            return exact.gradients(x, y, beta, T)[argnum]

        step = 1e-5
        along = np.einsum("abcd,cd->ab", hessian, direction)
        close(along, (moved(step) - moved(-step)) / (2 * step), rtol=1e-8, atol=1e-10)

    @some_betas
    def test_forward_mode_gives_the_directional_derivative(self, beta: float) -> None:
        x, y = logits((3, 4))
        direction = np.random.default_rng(1).normal(size=(3, 4))
        for argnum, wanted in enumerate(exact.gradients(x, y, beta, T)):
            along = self.autograd.make_jvp(self.loss(beta), argnum)
            close(along(x, y)(direction)[1], (wanted * direction).sum())

    @every_beta
    @pytest.mark.parametrize("case", IMPOSSIBLE)
    def test_derivatives_of_first_and_second_order_are_finite_wherever_the_loss_is_and_do_not_warn(
        self, case: str, beta: float
    ) -> None:
        x, y = (np.asarray([row]) for row in IMPOSSIBLE[case])
        (wanted,), *by_both = exact_results(x, y, beta, "none")
        for argnum, expected in enumerate(by_both):
            value, gradient = self.autograd.value_and_grad(self.loss(beta), argnum)(x, y)
            second = self.autograd.hessian(self.loss(beta), argnum)(x, y)
            close(value, wanted)
            if np.isfinite(wanted):
                close(gradient, expected)
                assert np.isfinite(second).all()

    @every_reduction
    def test_rows_that_do_not_count_have_derivatives_of_zero(self, reduction: Any) -> None:
        x, y = logits((3, 4))
        counts = np.asarray([True, False, True])
        wanted = exact_results(x, y, 0.3, reduction, counts)
        x[1] = np.nan
        loss = self.loss(0.3, reduction, counts)
        gradient = self.autograd.grad(lambda x: self.autograd.numpy.sum(loss(x, y)))(x)
        close(gradient, wanted[1])
        hessian = self.autograd.hessian(lambda x: self.autograd.numpy.sum(loss(x, y)))(x)
        assert np.isfinite(hessian).all()
        assert not hessian[1].any()


class TestSparse:
    sparse: Any

    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        self.sparse = pytest.importorskip("sparse")

    @pytest.mark.parametrize("format", ["coo", "gcxs"])
    @pytest.mark.parametrize("fill", [0.0, -np.inf])
    def test_logits_are_refused_because_a_softmax_of_them_is_dense(self, fill: float, format: str) -> None:
        x, y = (np.where(z < 1.0, fill, z) for z in logits((4, 6)))
        a, b = (self.sparse.COO.from_numpy(z, fill_value=fill).asformat(format) for z in (x, y))
        for call in (
            partial(kl_div_with_logits, a, b),
            partial(js_div_with_logits, a, b),
            partial(kl_div_with_logits_value_and_grad, a, b),
            partial(js_div_with_logits_value_and_grad, a, b, argnums=(0, 1)),
        ):
            with pytest.raises(
                TypeError, match=r"take no sparse\..*: a softmax .* convert the logits with todense\(\)"
            ):
                call()
        close(kl_div_with_logits(a.todense(), b.todense(), "none"), exact.rows(x, y, 0.0, 1.0))
