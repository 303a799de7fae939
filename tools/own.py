"""What users wrote themselves: a function, class or object named as ``file.py:name`` or ``package.module:name``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from ecograph.tools.errors import UserError, one_line

FORMS = "package.module:callable, file.py:callable"

#: Files that were run, so that a model and a data set of one file come from one run of it.
_files: dict[Path, ModuleType] = {}


def load(spec: str, *, says: str, forms: str = FORMS) -> Any:
    """Returns what ``spec`` names.

    Args:
        spec: ``file.py:name`` or ``package.module:name``; the name may have dots.
        says: what an error begins with, such as ``"SPEC 'models.py:Net'"``.
        forms: what an error says could be given instead.

    Raises:
        UserError: where there is no such thing, and for whatever running the file raises.
    """
    place, _, name = spec.rpartition(":")  # a path may hold a colon of its own
    if not place or not name:
        raise UserError(f"{says}: give {forms}")
    module = _file(place, says) if place.endswith(".py") else _module(place, says, forms)
    try:
        return attrgetter(name)(module)
    except AttributeError as error:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        close = get_close_matches(name, public, 3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"{says}: {place} has no {name!r}{hint}") from error


def call(spec: str, target: Any, *, says: str, gives: str) -> Any:
    """Calls what :func:`load` returned, without arguments.

    Args:
        spec: as in :func:`load`.
        target: the function or class.
        says: as in :func:`load`.
        gives: what it should return, for an error: ``"the model"``.

    Raises:
        UserError: where it cannot be called so, and for whatever it raises.
    """
    name = name_in(spec)
    if not callable(target):
        raise UserError(f"{says}: {name} is a {type(target).__name__}, not a function or class")
    if needed := _required(target):
        raise UserError(
            f"{says}: {name} needs arguments ({', '.join(needed)}): name a function without any that returns {gives}"
        )
    try:
        return target()
    except UserError:  # of ours, where the target is
        raise
    except Exception as error:
        raise UserError(f"{says}: {name}() raised {where(error)}") from error


def name_in(spec: str) -> str:
    """Returns the part of ``file.py:name`` after the last colon."""
    return spec.rpartition(":")[2]


def where(error: BaseException) -> str:
    """Returns an exception and the line that raised it, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    if isinstance(error, SyntaxError):
        place = ""  # its text says where
    return f"{type(error).__name__}: {one_line(error)}{place}"


def _required(target: Callable[..., Any]) -> list[str]:
    """Returns the parameters that must be given."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:  # written in C, without a signature
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _file(place: str, says: str) -> ModuleType:
    path = Path(place).resolve()
    if not path.is_file():
        raise UserError(f"{says}: there is no file {place}")
    before = _files.get(path)
    if before is not None and sys.modules.get(before.__name__) is before:
        return before
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
        del sys.modules[name]
        raise UserError(f"{says}: {place} raised {where(error)}") from error
    _files[path] = module
    return module


def _module(place: str, says: str, forms: str) -> ModuleType:
    sys.path.insert(0, "")  # as for `python -m`; a script of ours begins with its own folder instead
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise UserError(f"{says}: there is no module {error.name!r}; give {forms}") from error
        raise UserError(f"{says}: {place} raised {where(error)}") from error
    except Exception as error:
        raise UserError(f"{says}: {place} raised {where(error)}") from error
