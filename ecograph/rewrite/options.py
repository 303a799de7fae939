"""What the options of all passes have in common: their checks, and their way to JSON and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class PassOptions:
    """Base of a pass's options: a frozen dataclass whose fields are JSON types, and maybe a ``filter_fn``."""

    name: ClassVar[str]
    numerics: ClassVar[str]
    source: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Returns the options as JSON types, with the pass's name. A ``filter_fn`` is a function and not among them."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "filter_fn"}
        return {"name": self.name, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}

    def to_json(self) -> str:
        """Returns the options as a JSON object.

        Raises:
            ValueError: where there is a ``filter_fn``, which JSON cannot hold.
        """
        if getattr(self, "filter_fn", None) is not None:
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


def share_below_one(name: str, value: Any, zero: str, example: float) -> None:
    """Raises ValueError unless ``value`` is a number from 0, which means ``zero``, to below 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{name}={value!r}: give a number from 0 ({zero}) to below 1, such as {example}")


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raises ValueError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: give one of {', '.join(map(repr, allowed))}")


def whole_number(name: str, value: Any, least: int) -> None:
    """Raises ValueError unless ``value`` is a whole number, ``least`` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: give a whole number, {least} or more")


def true_or_false(name: str, value: Any) -> None:
    """Raises ValueError unless ``value`` is a bool."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: give True or False")


def filter_function(name: str, value: Any) -> None:
    """Raises ValueError unless ``value`` is a function or None."""
    if value is not None and not callable(value):
        raise ValueError(f"{name}={value!r}: give a function (module, name) -> bool, or None")
