"""``file.py:function``: the user's own data set."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, Dataset

from ecograph.tools import own
from ecograph.tools.data.kind import Data
from ecograph.tools.errors import UserError

FORMS = ("file.py:function", "package.module:function")
SAYS = "your own: returns train, or (train, validation), each a Dataset of samples or a loader of batches"


def find(spec: str, forms: str) -> Data:
    """Returns what the user's function returns, or the object where it is none.

    Raises:
        UserError: where there is no such function, and where it returns something else.
    """
    says = f"data {spec!r}"
    target = own.load(spec, says=says, forms=forms)
    if not _is_data(target):
        target = own.call(spec, target, says=says, gives="(train, validation)")
    parts = target if isinstance(target, tuple) else (target, None)
    if len(parts) != 2 or not _is_data(parts[0]) or not (parts[1] is None or _is_data(parts[1])):
        found = f"a tuple of {len(parts)}" if isinstance(target, tuple) and len(parts) != 2 else _kinds(target)
        raise UserError(
            f"{says}: {own.name_in(spec)} gives {found}: return train, or (train, validation), each a "
            "torch.utils.data.Dataset of samples or a loader of batches"
        )
    return Data(spec, *parts)


def _is_data(value: Any) -> bool:
    """Whether it is a data set, or gives batches again for every epoch: a generator does not."""
    if isinstance(value, (Dataset, DataLoader)):
        return True
    if isinstance(value, (tuple, dict, str, type)) or callable(value):
        return False
    return hasattr(value, "__iter__") and not hasattr(value, "__next__")


def _kinds(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(type(each).__name__ for each in value)})"
    return f"a {type(value).__name__}"
