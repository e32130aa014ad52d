"""What the libraries that compute with NumPy have in common."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from kldiv_xp._options import Options
from kldiv_xp.backends._standard import Array, Backend, DType


class OnNumPy(Backend):
    """A library that computes with NumPy."""

    lazy = False
    """Whether the library computes only on request."""
    in_memory = False
    """Whether every element of every array is in memory."""
    has_bfloat16 = False
    """Whether an array may hold ``ml_dtypes.bfloat16``, which NumPy does not count as floating."""

    def supports(self, dtype: DType) -> bool:
        """Whether a dtype is real floating with 16 bits or more."""
        return self._is_bfloat16(dtype) or super().supports(dtype)

    def result_dtype(self, x: Array, y: Array) -> DType:
        """Promoted dtype; float32 for bfloat16 with float16, which NumPy does not promote, as in PyTorch and JAX."""
        one, other = x.dtype, y.dtype
        if not (self._is_bfloat16(one) or self._is_bfloat16(other)):
            return super().result_dtype(x, y)
        if self._is_bfloat16(one) is not self._is_bfloat16(other):
            one, other = self.computing_dtype(one), self.computing_dtype(other)
        return sys.modules["numpy"].promote_types(one, other)  # in the byte order of this machine

    def computing_dtype(self, dtype: DType) -> DType:
        """Dtype to compute in: at least float32."""
        return self.xp.float32 if self._is_bfloat16(dtype) else super().computing_dtype(dtype)

    def adding_dtype(self, dtype: DType, x: Array) -> DType:
        """float64 on the plain path: terms of close distributions cancel, and NumPy's float32 logarithm is biased."""
        return self.xp.result_type(self.computing_dtype(dtype), self.xp.float64)

    def plain_loss(self, x: Array, y: Array, options: Options, where: Array = None) -> Array:
        """The loss of checked arrays in array API calls alone."""
        if self.in_memory:
            self.notice(y, options, where)
        return super().plain_loss(x, y, options, where)

    def quiet(self) -> AbstractContextManager[Any]:
        """Context without floating-point warnings: any NaN is intended."""
        if self.lazy:
            return nullcontext()
        errstate: AbstractContextManager[Any] = sys.modules["numpy"].errstate(all="ignore")
        return errstate

    def _is_bfloat16(self, dtype: DType) -> bool:
        # By its name, so that ml_dtypes is not imported here.
        return self.has_bfloat16 and getattr(dtype, "name", "") == "bfloat16"
