"""What cannot be meant is refused, before any arithmetic, with an error that names what was given."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kldiv_xp import KLDivLoss, kl_div, kl_div_value_and_grad
from kldiv_xp.backends._standard import Backend
from tests import backends
from tests.backends import REDUCTIONS, array


def _loss(
    input: Any, target: Any, reduction: Any = "mean", log_target: Any = False, convention: Any = "oneflow"
) -> Any:
    return kl_div(input, target, reduction, log_target, convention=convention)


def _gradient(
    input: Any, target: Any, reduction: Any = "mean", log_target: Any = False, convention: Any = "oneflow"
) -> Any:
    return kl_div_value_and_grad(input, target, reduction, log_target, convention=convention)


def _value(
    input: Any, target: Any, reduction: Any = "mean", log_target: Any = False, convention: Any = "oneflow"
) -> Any:
    return KLDivLoss(reduction, log_target, convention=convention)(input, target)


every_form = pytest.mark.parametrize("call", [_loss, _gradient, _value])
Form = Callable[..., Any]


class TestOptions:
    @every_form
    @pytest.mark.parametrize("given", ["median", "Mean", "", None, 0, ["mean"]])
    def test_an_unknown_reduction_is_answered_with_the_choices(self, call: Form, given: Any) -> None:
        with pytest.raises(ValueError, match=r"reduction must be one of 'none', 'mean', 'sum', 'batchmean'; got ") as e:
            call(np.zeros(2), np.ones(2), reduction=given)
        assert repr(given) in str(e.value)

    @every_form
    @pytest.mark.parametrize("given", ["pytorch", "Torch", "", None, 0])
    def test_an_unknown_convention_is_answered_with_the_choices(self, call: Form, given: Any) -> None:
        with pytest.raises(ValueError, match=r"convention must be one of 'oneflow', 'torch', 'limit'; got ") as e:
            call(np.zeros(2), np.ones(2), convention=given)
        assert repr(given) in str(e.value)

    @every_form
    @pytest.mark.parametrize("given", [None, 0, 1, "False", np.True_])
    def test_log_target_is_a_bool_and_nothing_like_it(self, call: Form, given: Any) -> None:
        with pytest.raises(TypeError, match=r"log_target must be True or False, got ") as e:
            call(np.zeros(2), np.ones(2), log_target=given)
        assert repr(given) in str(e.value)
        assert type(given).__name__ in str(e.value)

    @pytest.mark.parametrize("given", [{"reduction": "sun"}, {"convention": "onnx"}, {"log_target": 1}])
    def test_a_loss_refuses_its_options_when_it_is_made(self, given: Any) -> None:
        with pytest.raises((ValueError, TypeError), match=next(iter(given))):
            KLDivLoss(**given)


class TestShapes:
    @every_form
    @pytest.mark.parametrize(
        ("shape", "other"),
        [
            ((5, 1), (5,)),
            ((5,), (5, 1)),
            ((2, 3), (3,)),
            ((2, 3), (1, 3)),
            ((2, 3), (3, 2)),
            ((4,), (5,)),
            ((), (1,)),
            ((0, 2), (2, 0)),
            ((0,), (1,)),
        ],
    )
    def test_shapes_are_never_broadcast(
        self, xp: Any, call: Form, shape: tuple[int, ...], other: tuple[int, ...]
    ) -> None:
        with pytest.raises(ValueError, match="same shape") as e:
            call(array(xp, np.zeros(shape)), array(xp, np.ones(other)))
        assert f"{shape} and {other}" in str(e.value)


def _of_numpy(dtype: str) -> Any:
    dtypes: dict[str, Any] = {"StringDType": np.dtypes.StringDType(), "('p', '<f4')": [("p", np.float32)]}
    return np.ones(2, np.int64).astype(dtypes.get(dtype, getattr(ml_dtypes, dtype, dtype)))


def _of_jax(dtype: str) -> Any:
    jax = pytest.importorskip("jax")
    return jax.random.split(jax.random.key(0)) if dtype == "key<fry>" else jax.numpy.asarray(_of_numpy(dtype))


def _of_torch(dtype: str) -> Any:
    torch = pytest.importorskip("torch")
    return torch.empty(2, dtype=getattr(torch, dtype))


def _of_dask(dtype: str) -> Any:
    return pytest.importorskip("dask.array").from_array(_of_numpy(dtype), chunks=1)


def _of_sparse(dtype: str) -> Any:
    return pytest.importorskip("sparse").COO.from_numpy(_of_numpy(dtype))


FOREIGN: dict[str, tuple[Callable[[str], Any], Callable[[str], Any], tuple[str, ...]]] = {
    "numpy": (
        _of_numpy,
        _of_numpy,
        (
            *("float8_e4m3fn", "float8_e5m2", "float6_e3m2fn", "float4_e2m1fn", "int4"),
            *("datetime64[D]", "timedelta64[s]", "<U3", "|S3", "object", "|V4", "StringDType", "('p', '<f4')"),
        ),
    ),
    "jax": (_of_jax, _of_jax, ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "int4", "key<fry>")),
    "numpy beside jax": (
        _of_numpy,
        _of_jax,
        ("float8_e5m2", "int4", "datetime64[D]", "<U3", "object", "('p', '<f4')"),
    ),
    "torch": (
        _of_torch,
        _of_torch,
        ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn_x2", "uint16", "bits8"),
    ),
    "dask": (_of_dask, _of_dask, ("float8_e4m3fn", "float8_e5m2", "datetime64[D]", "<U3", "('p', '<f4')")),
    "sparse": (_of_sparse, _of_sparse, ("float8_e4m3fn", "float8_e5m2", "int4", "bfloat16")),
}
"""How an array is made of such a dtype, and one beside it of another; and the dtypes."""

every_foreign_dtype = pytest.mark.parametrize(
    ("make", "make_other", "dtype"),
    [
        pytest.param(make, other, dtype, id=f"{name}-{dtype}")
        for name, (make, other, dtypes) in FOREIGN.items()
        for dtype in dtypes
    ],
)


class TestDtypes:
    @every_form
    @pytest.mark.parametrize("position", [0, 1], ids=["input", "target"])
    @pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool", "complex64", "complex128"])
    def test_only_real_floating_numbers_are_taken(self, xp: Any, call: Form, dtype: str, position: int) -> None:
        arrays = [array(xp, [0.5, 0.5]), array(xp, [0.5, 0.5])]
        arrays[position] = xp.asarray(np.ones(2, dtype))
        with pytest.raises(TypeError, match="real floating") as e:
            call(*arrays)
        assert ("input", "target")[position] in str(e.value)
        assert dtype in str(e.value)

    @every_form
    @every_foreign_dtype
    @pytest.mark.parametrize("wrong", [(0,), (1,), (0, 1)], ids=["input", "target", "both"])
    def test_a_dtype_of_another_kind_is_refused_by_its_name(
        self, call: Form, wrong: tuple[int, ...], make: Any, make_other: Any, dtype: str
    ) -> None:
        given = [make(dtype) if i in wrong else make_other("float32") for i in (0, 1)]
        shown = str(given[wrong[0]].dtype)
        assert dtype in shown
        with pytest.raises(TypeError) as e:
            call(*given)
        name = ("input", "target")[wrong[0]]
        start = f"{name} must have a real floating-point dtype of 16 bits or more, got {shown}; convert "
        assert str(e.value).startswith(start + ("class indices" if name == "target" else "it first"))

    def test_so_is_a_byte_order_that_jax_does_not_take(self) -> None:
        x = _of_jax("float32")
        with pytest.raises(TypeError, match=r"target must have a real floating-point dtype .*, got >f4"):
            kl_div(x, np.ones(2, ">f4"))

    @every_foreign_dtype
    def test_so_is_that_of_a_cotangent(self, make: Any, make_other: Any, dtype: str) -> None:
        x = make_other("float32")
        with pytest.raises(TypeError, match="cotangent must have a real floating-point dtype of 16 bits or more, got"):
            kl_div_value_and_grad(x, x, "none", cotangent=make(dtype))


class TestWhatIsNoArray:
    @every_form
    @pytest.mark.parametrize("position", [0, 1], ids=["input", "target"])
    @pytest.mark.parametrize(
        ("given", "name"),
        [
            ([0.5, 0.5], "list"),
            ((0.5, 0.5), "tuple"),
            (0.5, "float"),
            (1, "int"),
            (None, "NoneType"),
            ("0.5", "str"),
            (memoryview(b"ab"), "memoryview"),
        ],
    )
    def test_it_is_refused_by_the_name_of_its_type(
        self, xp: Any, call: Form, given: Any, name: str, position: int
    ) -> None:
        arrays = [array(xp, [0.5, 0.5]), array(xp, [0.5, 0.5])]
        arrays[position] = given
        with pytest.raises(TypeError, match=f"{('input', 'target')[position]} must be an array.*got {name};"):
            call(*arrays)

    def test_two_scalars_are_not_two_arrays(self) -> None:
        with pytest.raises(TypeError, match=r"input must be an array.*got float"):
            kl_div(-1.0, 0.5)  # type: ignore[type-var]


INSTALLED = [name for name in backends.NAMES if not isinstance(backends.load(name), str)]
MIXED = [
    (one, other)
    for one in INSTALLED
    for other in INSTALLED
    if one != other and {one, other} != {"numpy", "jax.numpy"}  # the one mixture that is taken
]


class TestLibraries:
    @every_form
    @pytest.mark.parametrize(("one", "other"), MIXED)
    def test_two_of_them_are_not_mixed(self, call: Form, one: str, other: str) -> None:
        x, y = (array(backends.load(name), [0.5, 0.5], "float32") for name in (one, other))
        with pytest.raises(TypeError, match="input and target must come from one array library") as e:
            call(x, y)
        for given in (x, y):
            assert f"{type(given).__module__}.{type(given).__qualname__}" in str(e.value)

    @pytest.mark.parametrize("position", [0, 1], ids=["input", "target"])
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_numpy_beside_jax_is_taken_as_jax_takes_it(self, position: int, reduction: Any) -> None:
        jax = pytest.importorskip("jax")
        of_numpy = [np.asarray([-0.5, -1.0], np.float32), np.asarray([0.5, 0.25], np.float32)]
        of_jax = [jax.numpy.asarray(x) for x in of_numpy]
        x, y = (of_numpy[i] if i == position else of_jax[i] for i in (0, 1))
        loss = kl_div(x, y, reduction)
        assert isinstance(loss, jax.Array)
        np.testing.assert_array_equal(loss, kl_div(of_jax[0], of_jax[1], reduction))


class TestArgnums:
    @pytest.mark.parametrize(
        "given",
        [2, -1, (), (0, 0), (0, 1, 0), (0, 2), None, "0", (None,), 0.0, (1.0,), [0, 1], {0}, np.asarray([0, 1])],
    )
    def test_it_is_0_or_1_or_a_tuple_of_these(self, given: Any) -> None:
        with pytest.raises(ValueError, match="argnums must be 0") as e:
            kl_div_value_and_grad(np.zeros(2), np.ones(2), argnums=given)
        assert repr(given) in str(e.value)


class TestCotangent:
    def test_an_unreduced_loss_needs_one(self, xp: Any) -> None:
        x = array(xp, np.zeros((2, 3)))
        with pytest.raises(ValueError, match=r"cotangent must have the loss's shape, \(2, 3\) .* got no cotangent"):
            kl_div_value_and_grad(x, x, "none")

    @pytest.mark.parametrize(
        ("reduction", "shape"),
        [("none", (3, 2)), ("none", (3,)), ("none", (1, 3)), ("none", ()), ("sum", (2, 3)), ("mean", (1,))],
    )
    def test_it_has_the_shape_of_the_loss(self, xp: Any, reduction: Any, shape: tuple[int, ...]) -> None:
        x = array(xp, np.zeros((2, 3)))
        with pytest.raises(ValueError, match="cotangent must have the loss's shape") as e:
            kl_div_value_and_grad(x, x, reduction, cotangent=array(xp, np.ones(shape)))
        assert str((2, 3) if reduction == "none" else ()) in str(e.value)
        assert f"got {shape}" in str(e.value)

    def test_a_number_does_not_fit_an_unreduced_loss(self, xp: Any) -> None:
        x = array(xp, np.zeros((2, 3)))
        with pytest.raises(ValueError, match="cotangent"):
            kl_div_value_and_grad(x, x, "none", cotangent=1.0)

    @pytest.mark.parametrize("given", [[1.0], "1", 1j])
    def test_it_is_an_array_or_a_real_number(self, xp: Any, given: Any) -> None:
        x = array(xp, np.zeros((2, 3)))
        with pytest.raises(TypeError, match=f"cotangent must be an array.*got {type(given).__name__}"):
            kl_div_value_and_grad(x, x, "sum", cotangent=given)

    @pytest.mark.parametrize("dtype", ["int64", "bool", "complex128"])
    def test_it_is_real_and_floating(self, xp: Any, dtype: str) -> None:
        x = array(xp, np.zeros((2, 3)))
        with pytest.raises(TypeError, match=f"cotangent must have a real floating-point dtype .*, got .*{dtype}"):
            kl_div_value_and_grad(x, x, "none", cotangent=xp.asarray(np.ones((2, 3), dtype)))

    def test_it_comes_from_the_same_library(self, xp: Any) -> None:
        name = "numpy" if xp.__name__ == "torch" else "torch"
        other = backends.load(name)
        if isinstance(other, str):
            pytest.skip(other)
        x, cotangent = array(xp, np.zeros(2)), array(other, np.ones(2))
        with pytest.raises(TypeError, match="input, target and cotangent must come from one array library"):
            kl_div_value_and_grad(x, x, "none", cotangent=cotangent)


class TestDevices:
    def test_pytorch(self) -> None:
        torch = pytest.importorskip("torch")
        with pytest.raises(ValueError, match="on one device, got meta and cpu"):
            kl_div(torch.zeros(2, device="meta"), torch.ones(2))

    def test_array_api_strict(self) -> None:
        xp = pytest.importorskip("array_api_strict")
        here, there = (xp.ones(2, device=xp.Device(name)) for name in ("device1", "device2"))
        with pytest.raises(ValueError, match=r"on one device, got .*'device1'.* and .*'device2'"):
            kl_div(here, there)
        with pytest.raises(ValueError, match="input, target and cotangent must be on one device"):
            kl_div_value_and_grad(here, here, "none", cotangent=there)


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": (4,)},
        {"target": 0.5},
        {"dtype": "int64"},
        {"reduction": "median"},
        {"convention": "onnx"},
        {"log_target": 1},
        {"argnums": 2},
        {"reduction": "none"},
        {"cotangent": (4,)},
        {"cotangent": "1"},
    ],
    ids=str,
)
def test_nothing_is_computed_before_all_arguments_are_accepted(wrong: dict[str, Any]) -> None:
    # PyTorch can be asked to report every operation, and what is refused first for its tensors is so for all.
    torch = pytest.importorskip("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    class Forbid(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert not any(isinstance(argument, torch.Tensor) for argument in args), f"{operation} was called"
            return operation(*args, **(kwargs or {}))  # a question about dtypes

    made = {name: torch.ones(value) if isinstance(value, tuple) else value for name, value in wrong.items()}
    target = torch.ones(3, dtype=getattr(torch, made.pop("dtype", "float32")))
    given = {"input": torch.zeros(3), "target": target, **made}
    with Forbid():  # type: ignore[no-untyped-call]
        if wrong.keys() <= {"cotangent", "argnums"} or wrong == {"reduction": "none"}:
            with pytest.raises(AssertionError, match="was called"):  # the trap works: this much is accepted
                kl_div(torch.zeros(3), torch.ones(3))
        else:
            with pytest.raises((ValueError, TypeError)):
                kl_div(**given)
        with pytest.raises((ValueError, TypeError)):
            kl_div_value_and_grad(**given)


def test_unknown_sizes_are_refused_where_no_computation_could_compare_them() -> None:
    unknown: Any = SimpleNamespace(shape=(None, 2))
    with pytest.raises(ValueError, match=r"arrays of \w+ must have known sizes, got \(None, 2\) and \(3, 2\)"):
        Backend(np).of_equal_shape(unknown, SimpleNamespace(shape=(3, 2)))
