"""NumPy arrays as people have them: of any layout, byte order and error state."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from kldiv_xp import kl_div, kl_div_value_and_grad
from kldiv_xp.backends import find
from kldiv_xp.backends._blocks import InBlocks
from tests import exact
from tests.backends import CONVENTIONS, REDUCTIONS, array, numbers

Layout = Callable[[NDArray[Any], Path], NDArray[Any]]


def _read_only(x: NDArray[Any], _: Path) -> NDArray[Any]:
    x = x.copy()
    x.flags.writeable = False
    return x


def _fortran(x: NDArray[Any], _: Path) -> NDArray[Any]:
    return np.asfortranarray(x)


def _reversed(x: NDArray[Any], _: Path) -> NDArray[Any]:
    return x[::-1, ::-1].copy()[::-1, ::-1]


def _strided(x: NDArray[Any], _: Path) -> NDArray[Any]:
    return np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3]


def _unaligned(x: NDArray[Any], _: Path) -> NDArray[Any]:
    raw = np.zeros(x.nbytes + 1, np.uint8)
    result = raw[1:].view(x.dtype).reshape(x.shape)
    result[...] = x
    assert not result.flags.aligned
    return result


def _other_byte_order(x: NDArray[Any], _: Path) -> NDArray[Any]:
    return x.astype(x.dtype.newbyteorder("S"))


def _memory_mapped(x: NDArray[Any], folder: Path) -> NDArray[Any]:
    np.save(folder / "x.npy", x)
    # A file names no dtype but NumPy's own.
    result: NDArray[Any] = np.load(folder / "x.npy", mmap_mode="r").view(x.dtype)
    assert type(result) is np.memmap
    return result


LAYOUTS = [_read_only, _fortran, _reversed, _strided, _unaligned, _other_byte_order, _memory_mapped]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_layout_makes_no_difference(tmp_path: Path, dtype: str, reduction: Any, layout: Layout) -> None:
    x, y = (array(np, values, dtype) for values in np.random.default_rng(0).normal(size=(2, 6, 7)))
    (tmp_path / "input").mkdir()
    (tmp_path / "target").mkdir()
    a, b = layout(x, tmp_path / "input"), layout(y, tmp_path / "target")
    np.testing.assert_array_equal(a, x)
    cotangent = np.ones_like(x) if reduction == "none" else None
    for one, other in ((x, b), (a, y), (a, b)):
        loss, gradients = kl_div_value_and_grad(one, other, reduction, argnums=(0, 1), cotangent=cotangent)
        expected, expected_gradients = kl_div_value_and_grad(x, y, reduction, argnums=(0, 1), cotangent=cotangent)
        assert loss.dtype == x.dtype
        np.testing.assert_array_equal(kl_div(one, other, reduction), loss)
        wide = (one.astype(np.float64), other.astype(np.float64))
        exact.assert_within(
            loss,
            exact.reduced(exact.losses(*wide), x.shape, reduction),
            exact.total(exact.tolerances(*wide, np, dtype), x.shape, reduction),
            dtype,
        )
        for gradient, wanted, of in zip(gradients, expected_gradients, (one, other), strict=True):
            np.testing.assert_array_equal(gradient, wanted)
            assert gradient.dtype == of.dtype
        assert loss.shape == expected.shape
    np.testing.assert_array_equal(a, x)
    np.testing.assert_array_equal(b, y)


def test_a_broadcast_view_is_taken_as_the_array_it_stands_for() -> None:
    x = np.broadcast_to(np.asarray([-1.0, -2.0]), (1000, 2))  # strides (0, 8)
    y = np.broadcast_to(np.asarray(0.5), (1000, 2))  # strides (0, 0)
    np.testing.assert_array_equal(kl_div(x, y, "none"), kl_div(x.copy(), y.copy(), "none"))
    np.testing.assert_allclose(kl_div(x, y), 0.5 * (np.log(0.5) + 1.5), rtol=1e-14)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_nothing_is_written_to_the_arguments(convention: Any) -> None:
    edges = [0.0, -0.0, -1.0, 0.3, np.inf, -np.inf, np.nan]
    x, y = np.asarray([(a, b) for a in edges for b in edges]).T.copy()
    before = x.tobytes(), y.tobytes()
    kl_div_value_and_grad(x, y, "sum", convention=convention, argnums=(0, 1))
    kl_div(x, y, "none", True, convention=convention)
    assert (x.tobytes(), y.tobytes()) == before


def test_the_unreduced_loss_is_an_array_of_its_own() -> None:
    x, y = np.zeros(3), np.ones(3)
    loss = kl_div(x, y, "none")
    loss[...] = 7.0
    assert not np.shares_memory(loss, x)
    assert not np.shares_memory(loss, y)


@pytest.mark.parametrize("number", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_scalar_of_numpy_is_a_0d_array(number: Any, reduction: Any) -> None:
    loss = kl_div(number(-2.0), number(1.0), reduction)
    assert loss == 2.0
    assert loss.dtype == number
    assert loss.shape == ()
    assert kl_div(number(-2.0), np.asarray(1.0), reduction) == 2.0


@pytest.mark.parametrize("size", [60, 200_000], ids=["few", "many"])
@pytest.mark.parametrize(
    ("other", "result"),
    [
        (ml_dtypes.bfloat16, ml_dtypes.bfloat16),
        (np.float16, np.float32),  # as in PyTorch and JAX; NumPy has no dtype for the two
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.longdouble, np.longdouble),
    ],
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_bfloat16_is_computed_wider_and_rounded_once(reduction: Any, other: Any, result: Any, size: int) -> None:
    wide = np.promote_types(result, np.float32)
    x, y = np.random.default_rng(5).random((2, size))
    given: tuple[Any, Any] = (-x).astype(ml_dtypes.bfloat16), np.where(y < 0.1, 0.0, y).astype(other)
    cotangent = np.ones(size, given[0].dtype) if reduction == "none" else None
    for a, b in (given, given[::-1]):
        loss, gradients = kl_div_value_and_grad(a, b, reduction, argnums=(0, 1), cotangent=cotangent)
        widely, wide_gradients = kl_div_value_and_grad(
            a.astype(wide), b.astype(wide), reduction, argnums=(0, 1), cotangent=cotangent
        )
        assert loss.dtype == result
        np.testing.assert_array_equal(loss, widely.astype(result))
        np.testing.assert_array_equal(kl_div(a, b, reduction), loss)
        for gradient, wide_gradient, of in zip(gradients, wide_gradients, (a, b), strict=True):
            assert gradient.dtype == of.dtype
            np.testing.assert_array_equal(gradient, wide_gradient.astype(of.dtype))


def test_bfloat16_beside_an_array_of_jax_is_taken_as_jax_takes_it() -> None:
    jnp = pytest.importorskip("jax.numpy")
    x, y = jnp.asarray([-0.5, -1.0], jnp.bfloat16), jnp.asarray([0.5, 0.25], jnp.bfloat16)
    for one, other in ((np.asarray(x), y), (x, np.asarray(y))):
        loss = kl_div(one, other)
        assert loss.dtype == jnp.bfloat16
        assert loss == kl_div(x, y)


@pytest.mark.parametrize("other", [np.longdouble, np.float32])
def test_a_long_double_is_computed_as_one(other: Any) -> None:
    x: Any = -np.linspace(0.1, 3.0, 50, dtype=np.longdouble)
    y: Any = np.linspace(0.1, 1.0, 50).astype(other)
    loss, (by_x, by_y) = kl_div_value_and_grad(x, y, "sum", argnums=(0, 1))
    assert (loss.dtype, by_x.dtype, by_y.dtype) == (np.longdouble, np.longdouble, other)
    wide = y.astype(np.longdouble)
    terms = wide * (np.log(wide) - x)
    within = 8 * np.finfo(np.longdouble).eps * np.sum(wide * (np.abs(np.log(wide)) - x + 1))
    assert abs(loss - np.sum(terms)) <= within
    np.testing.assert_array_equal(by_x, -wide)


def _masked(x: NDArray[Any]) -> Any:
    return np.ma.masked_less(x, 0.3)


def _matrix(x: NDArray[Any]) -> Any:
    with warnings.catch_warnings(action="ignore", category=PendingDeprecationWarning):  # of NumPy, for this class
        return np.matrix(x)


def _of_own_class(x: NDArray[Any]) -> Any:
    class WithUnits(np.ndarray[Any, Any]):
        pass

    return x.view(WithUnits)


def _records(x: NDArray[Any]) -> Any:
    return x.view(np.recarray)


@pytest.mark.parametrize("position", [0, 1], ids=["input", "target"])
@pytest.mark.parametrize(
    ("make", "name"),
    [(_masked, "MaskedArray"), (_matrix, "matrix"), (_of_own_class, "WithUnits"), (_records, "recarray")],
)
def test_an_array_that_means_more_than_its_numbers_is_refused(
    make: Callable[[NDArray[Any]], Any], name: str, position: int
) -> None:
    arrays = [np.full((2, 2), 0.5), np.full((2, 2), 0.5)]
    arrays[position] = make(arrays[position])
    with pytest.raises(TypeError, match=name) as e:
        kl_div(arrays[0], arrays[1])
    assert ("input", "target")[position] in str(e.value)


class TestWarnings:
    EDGES = (0.0, -0.0, 5e-324, 1e-310, 0.3, 1e308, -1.0, np.inf, -np.inf, np.nan)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    @pytest.mark.parametrize("convention", CONVENTIONS)
    @pytest.mark.parametrize("log_target", [False, True])
    def test_the_edges_are_computed_in_silence(self, log_target: bool, convention: Any, dtype: str) -> None:
        with np.errstate(all="ignore"):
            x, y = (array(np, a, dtype) for a in np.asarray([(a, b) for a in self.EDGES for b in self.EDGES]).T)
        results = []
        for state in ("warn", "raise", "ignore"):
            with np.errstate(all=state):
                set_by_the_caller = np.geterr()
                for reduction in REDUCTIONS:
                    kl_div(x, y, reduction, log_target, convention=convention)
                    kl_div(x[:0], y[:0], reduction, log_target, convention=convention)
                results.append(
                    kl_div_value_and_grad(x, y, "none", log_target, convention=convention, argnums=(0, 1), cotangent=y)
                )
                assert np.geterr() == set_by_the_caller
        for loss, gradients in results[1:]:
            np.testing.assert_array_equal(numbers(loss), numbers(results[0][0]))
            np.testing.assert_array_equal(numbers(gradients), numbers(results[0][1]))

    def test_the_error_state_is_restored_after_an_error(self) -> None:
        with np.errstate(all="raise"):
            set_by_the_caller = np.geterr()
            with pytest.raises(ValueError, match="shape"):
                kl_div(np.zeros(2), np.zeros(3))
            assert np.geterr() == set_by_the_caller


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_are_rounded_to_float16_as_numpy_rounds_them(dtype: Any) -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)
    halves = np.unique(halves[np.isfinite(halves)])
    between, special = (halves[:-1] + halves[1:]) / 2, [-0.0, 65520.0, 1e9, np.inf, np.nan]
    numbers = np.concatenate([halves, between, special]).astype(dtype)
    numbers = np.concatenate([numbers, *(np.nextafter(numbers, dtype(end)) for end in (np.inf, -np.inf))])
    out = np.empty(numbers.shape, np.float16)
    with np.errstate(all="ignore"):
        in_blocks(numbers).store(numbers, out)
        wanted = numbers.astype(np.float16)
    known = ~np.isnan(numbers)
    np.testing.assert_array_equal(out.view(np.uint16)[known], wanted.view(np.uint16)[known])
    assert np.isnan(out[~known]).all()


def test_the_gradient_in_float16_is_rounded_once() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(50), (2, 200)).astype(np.float16)
    x, y = np.log(np.maximum(p, np.float16(1e-4))), q
    _, gradient = kl_div_value_and_grad(x, y, "mean")
    np.testing.assert_array_equal(gradient, (y.astype(np.float32) * np.float32(-1 / x.size)).astype(np.float16))


def in_blocks(x: Any) -> InBlocks:
    backend = find(x, x)
    assert isinstance(backend, InBlocks)
    return backend
