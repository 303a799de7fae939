"""``SPEC``: what model a user means by ``file.py:build``, ``timm:resnet50`` or ``hf:bert``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ecograph.tools import zoo
from ecograph.tools.errors import UserError, one_line
from ecograph.tools.inputs import Input

if TYPE_CHECKING:
    from torch import nn

FORMS = "package.module:callable, file.py:callable, timm:NAME, torchvision:NAME or hf:NAME"


@dataclass(frozen=True)
class Subject:
    """A model that can be built.

    Attributes:
        spec: as the user wrote it.
        build: makes it, with random weights, on torch's default device.
        inputs: the inputs that fit a built model; an empty list where they are unknown.
    """

    spec: str
    build: Callable[[], nn.Module]
    inputs: Callable[[nn.Module], Sequence[Input]]


def find(spec: str) -> Subject:
    """Returns what ``spec`` names. Nothing is downloaded.

    Raises:
        UserError: where there is no such thing, with what to write instead.
    """
    from ecograph.tools.torchvision_ops import declare_missing

    declare_missing()
    kind, colon, name = spec.partition(":")
    if not colon or not name:
        hint = f"; a model of that name may be torchvision:{spec} or timm:{spec}" if spec.isidentifier() else ""
        raise UserError(f"SPEC {spec!r}: give {FORMS}{hint}")
    if kind in zoo.KINDS:
        build, inputs = zoo.KINDS[kind](name)
        return Subject(spec, build, inputs)
    place, _, name = spec.rpartition(":")  # a path may hold a colon of its own
    return Subject(spec, _own(spec, place, name), lambda model: ())


def _own(spec: str, place: str, name: str) -> Callable[[], nn.Module]:
    """Returns the user's own callable, wrapped so that whatever it raises is told in one line."""
    module = _file(spec, place) if place.endswith(".py") else _module(spec, place)
    try:
        target = attrgetter(name)(module)
    except AttributeError as error:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        from difflib import get_close_matches

        close = get_close_matches(name, public, 3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"SPEC {spec!r}: {place} has no {name!r}{hint}") from error
    return lambda: _call(spec, name, target)


def _call(spec: str, name: str, target: Any) -> nn.Module:
    from torch import nn

    if isinstance(target, nn.Module):
        return target
    if not callable(target):
        raise UserError(f"SPEC {spec!r}: {name} is a {type(target).__name__}, not a function or class")
    if needed := _required(target):
        raise UserError(
            f"SPEC {spec!r}: {name} needs arguments ({', '.join(needed)}): name a function without any that "
            "returns the model"
        )
    try:
        model = target()
    except Exception as error:
        raise UserError(f"SPEC {spec!r}: {name}() raised {_where(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"SPEC {spec!r}: {name}() returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _required(target: Callable[..., Any]) -> list[str]:
    """Returns the parameters that must be given."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:  # written in C, without a signature
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _file(spec: str, place: str) -> ModuleType:
    path = Path(place).resolve()
    if not path.is_file():
        raise UserError(f"SPEC {spec!r}: there is no file {place}")
    sys.path.insert(0, str(path.parent))  # what stands beside it can be imported, as for a script
    # The user's types.py must not become everybody's `types`.
    name = path.stem if path.stem not in sys.modules else f"{path.stem} (SPEC)"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"SPEC {spec!r}: {place} raised {_where(error)}") from error
    return module


def _module(spec: str, place: str) -> ModuleType:
    sys.path.insert(0, "")  # as for `python -m`; a script of ours begins with its own folder instead
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise UserError(f"SPEC {spec!r}: there is no module {error.name!r}; give {FORMS}") from error
        raise UserError(f"SPEC {spec!r}: {place} raised {_where(error)}") from error
    except Exception as error:
        raise UserError(f"SPEC {spec!r}: {place} raised {_where(error)}") from error


def _where(error: Exception) -> str:
    """Returns an exception and the line that raised it, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    if isinstance(error, SyntaxError):
        place = ""  # its text says where
    return f"{type(error).__name__}: {one_line(error)}{place}"
