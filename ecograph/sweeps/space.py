"""What may vary: a range or list of values for each thing, some of them only where another has a certain value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

#: name -> value
Values = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones where both are.

    Attributes:
        low: the least.
        high: the most.
        log: whether equal factors count as equal steps, as for learning rates.
        step: distance between values; None for any.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        """Validates."""
        for name in ("low", "high"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{name}={value!r}: give a number")
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}: exchange them")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low} with log=True: give a number above 0")
        if self.step is not None and (self.log or not self.step > 0):
            raise ValueError(f"step={self.step!r}: give a number above 0, and not with log=True")

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Returns a value for a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether a value is in it."""
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def to_json(self) -> Any:
        """Returns it as JSON types."""
        return {key: value for key, value in vars(self).items() if value not in (None, False)}


@dataclass(frozen=True)
class Choice:
    """One of some values, which may be anything; a search knows them by their text.

    Attributes:
        values: to choose from.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        """Validates."""
        if not self.values:
            raise ValueError("no value to choose from: give one or more")
        if len(set(self.labels)) < len(self.values):
            raise ValueError(f"the values {', '.join(self.labels)} are not all different: give each once")

    @property
    def labels(self) -> list[str]:
        """The text of each value."""
        return [label(value) for value in self.values]

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Returns a value for a trial."""
        return self.values[self.labels.index(trial.suggest_categorical(name, self.labels))]

    def holds(self, value: Any) -> bool:
        """Whether a value is among them."""
        return label(value) in self.labels

    def to_json(self) -> Any:
        """Returns it as JSON types."""
        return self.labels


@dataclass(frozen=True)
class Space:
    """All that may vary.

    Attributes:
        parameters: by name, in the order in which they are drawn. ``NAME@VALUE`` stands for ``NAME``, where what it
            depends on has this value.
        active: whether a parameter counts, given the values that were drawn before it.
    """

    parameters: Mapping[str, Range | Choice]
    active: Callable[[str, Values], bool] = lambda name, values: True

    def suggest(self, trial: optuna.Trial) -> Values:
        """Draws a value for each parameter that counts; by plain names."""
        found: Values = {}
        for name, parameter in self._in_order():
            if self.active(name, found):
                found[plain(name)] = parameter.suggest(trial, name)
        return found

    def params(self, values: Values) -> dict[str, Any] | None:
        """Returns what optuna knows a setting by; None for one that is not in the space."""
        found: dict[str, Any] = {}
        for name, parameter in self._in_order():
            if not self.active(name, values):
                continue
            value = values.get(plain(name))
            if plain(name) not in values or not parameter.holds(value):
                return None
            found[name] = label(value) if isinstance(parameter, Choice) else value
        return found

    def values(self, params: Mapping[str, Any]) -> Values:
        """Returns the setting that optuna's parameters stand for."""
        found: Values = {}
        for name, parameter in self.parameters.items():
            if name in params:
                value = params[name]
                found[plain(name)] = (
                    parameter.values[parameter.labels.index(value)] if isinstance(parameter, Choice) else value
                )
        return found

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON types."""
        return {name: parameter.to_json() for name, parameter in self.parameters.items()}

    def _in_order(self) -> list[tuple[str, Range | Choice]]:
        """Returns what others may depend on first."""
        return sorted(self.parameters.items(), key=lambda each: "@" in each[0])


def parse_space(
    space: Mapping[str, Any], active: Callable[[str, Values], bool] = lambda name, values: True, *, says: str = "space"
) -> Space:
    """Returns the space that plain Python, or TOML, describes.

    Args:
        space: name -> a list of values, a ``Range``, or ``{"low": ..., "high": ..., "log": ..., "step": ...}``.
        active: see ``Space``.
        says: what an error begins with.

    Raises:
        ValueError: for an empty space, and for what is neither of these.
    """
    if not isinstance(space, Mapping) or not space:
        raise ValueError(f'{says} is empty: say what may vary, such as lr = {{"low": 1e-3, "high": 1.0, "log": True}}')
    found: dict[str, Range | Choice] = {}
    for name, given in space.items():
        try:
            found[name] = _parameter(given)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{says}[{name!r}]: {error}") from error
    return Space(found, active)


def _parameter(given: Any) -> Range | Choice:
    if isinstance(given, (Range, Choice)):
        return given
    if isinstance(given, Mapping):
        unknown = [key for key in given if key not in Range.__dataclass_fields__]
        if unknown or "low" not in given or "high" not in given:
            raise ValueError(f"{dict(given)!r}: give low and high, and log or step where needed")
        return Range(**given)
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        return Choice(tuple(given))
    raise ValueError(f"{given!r} is neither a list of values nor a range with low and high")


def plain(name: str) -> str:
    """Returns a parameter's name without its condition."""
    return name.partition("@")[0]


def label(value: Any) -> str:
    """Returns the text by which a value is known: the same in every process."""
    if hasattr(value, "to_dict"):  # a pass
        options = ", ".join(f"{key}={each!r}" for key, each in value.to_dict().items() if key != "name")
        return f"{value.name}({options})"
    if isinstance(value, type) or callable(value):
        return str(getattr(value, "__qualname__", type(value).__name__))
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(label, value)) + "]"
    return str(value)
