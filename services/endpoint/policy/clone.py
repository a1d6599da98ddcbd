"""Copies of state on which something can be tried. Pure.

State here is containers (dict, set, list, nested as it may be) of values that never change. A copy needs new containers
and the same values, which `copy.deepcopy` can't know: it would walk through every label of every selector.
"""

from copy import copy
from typing import Any, Self


class Cloneable:
    """State that can be copied."""

    def clone(self) -> Self:
        """Return an independent copy."""
        other = copy(self)
        for name, value in vars(self).items():
            setattr(other, name, _cloned(value))
        return other


def _cloned(value: Any) -> Any:
    if isinstance(value, Cloneable):
        return value.clone()
    if isinstance(value, dict):
        other = value.copy()  # of the same kind, a Counter or a defaultdict with its factory
        for key, one in value.items():
            if isinstance(one, dict | set | list | Cloneable):
                other[key] = _cloned(one)
        return other
    return value.copy() if isinstance(value, set | list) else value
