"""The options of the sparse backward, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from ecograph.schedule import SCHEDULES


@dataclass(frozen=True)
class Options:
    """The options of :class:`SparseBackward`; see there."""

    name: ClassVar[str] = "sparse_backward"
    numerics: ClassVar[str] = "approximate"
    source: ClassVar[str] = "ssProp, arXiv 2408.12561; for linear layers meProp, arXiv 1706.06197"

    drop: float = 0.8
    _: dataclasses.KW_ONLY
    schedule: Literal["alternate", "constant", "linear", "cosine", "bar"] = "alternate"
    select: Literal["topk", "random"] = "topk"
    unbiased: bool = False
    grads: tuple[str, ...] = ("input", "weight")
    align: int = 1
    min_channels: int = 16
    filter_fn: Callable[[nn.Module, str], bool] | None = None
    skip_first: bool = True
    skip_last: bool = True
    when: Literal["pays", "always"] = "pays"

    def __post_init__(self) -> None:
        """Validates; raises ValueError with the option's name and the fix."""
        if isinstance(self.grads, (str, list)):
            object.__setattr__(self, "grads", (self.grads,) if isinstance(self.grads, str) else tuple(self.grads))
        if isinstance(self.drop, bool) or not isinstance(self.drop, (int, float)) or not 0 <= self.drop < 1:
            raise ValueError(f"drop={self.drop!r}: give a number from 0 (dense) to below 1, such as 0.8")
        _one_of("schedule", self.schedule, tuple(SCHEDULES))
        _one_of("select", self.select, ("topk", "random"))
        _one_of("when", self.when, ("pays", "always"))
        if not isinstance(self.grads, tuple) or not {*self.grads} <= {"input", "weight"} or not self.grads:
            raise ValueError(f"grads={self.grads!r}: give ('input', 'weight'), ('input',) or ('weight',)")
        for name in ("align", "min_channels"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}: give a whole number, 1 or more")
        for name in ("unbiased", "skip_first", "skip_last"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r}: give True or False")
        if self.unbiased and self.select != "random":
            raise ValueError("unbiased=True: give select='random' too; the top channels are a biased choice")
        if self.filter_fn is not None and not callable(self.filter_fn):
            raise ValueError(f"filter_fn={self.filter_fn!r}: give a function (module, name) -> bool, or None")

    def to_dict(self) -> dict[str, Any]:
        """Returns the options as JSON types, with the pass's name. A ``filter_fn`` is a function and not among them."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "filter_fn"}
        return {"name": self.name, **fields, "grads": list(self.grads)}

    def to_json(self) -> str:
        """Returns the options as a JSON object.

        Raises:
            ValueError: where there is a ``filter_fn``, which JSON cannot hold.
        """
        if self.filter_fn is not None:
            raise ValueError("filter_fn is a Python function: it cannot be written to JSON. Set it after reading")
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Any:
        """Returns the pass from :meth:`to_dict`.

        Raises:
            ValueError: for an option that does not exist.
        """
        options = {key: value for key, value in data.items() if key != "name"}
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(options) - known):
            raise ValueError(f"{cls.__name__} has no option {unknown[0]!r}; it has {sorted(known)}")
        return cls(**options)

    @classmethod
    def from_json(cls, text: str) -> Any:
        """Returns the pass from :meth:`to_json`."""
        return cls.from_dict(json.loads(text))


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: give one of {', '.join(map(repr, allowed))}")
