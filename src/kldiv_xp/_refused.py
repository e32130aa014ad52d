"""Arrays that speak of the standard, or nearly, but of which the loss would be an error far off or a wrong number."""

from kldiv_xp._options import type_name

_WHY = {
    ("blosc2", "NDArray"): "whose lazy expressions do not follow the standard; decompress it with [:] first",
    ("blosc2", "LazyArray"): "which does not follow the standard; decompress it with [:] first",
    (
        "marray",
        "MArray",
    ): "of which a mean would count what is masked; pass its data, with targets of 0 for that",
    ("sparse", "DOK"): "which has no reductions; convert it with asformat('coo') first",
}
"""By the package and the name of the class."""


def refuse(name: str, x: object) -> None:
    """Raise for an array that cannot be computed with."""
    for kind in type(x).__mro__:
        why = _WHY.get((kind.__module__.partition(".")[0], kind.__name__))
        if why is not None:
            raise TypeError(f"{name} is a {type_name(x)}, {why}")
