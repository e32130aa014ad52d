"""marray, whose masked arrays raise here: a mean would count masked elements."""

from kldiv_xp.backends._refused import Refused


class MArray(Refused):
    """Masked arrays of any library, each of which has its own class of them."""

    why = "and a mean would count its masked elements; pass its data, with targets of 0 where it is masked"

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Whether arrays of this type are masked ones."""
        return any(base.__module__.startswith("marray") and base.__name__ == "MArray" for base in kind.__mro__)
