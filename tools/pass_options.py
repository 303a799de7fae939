"""``--gradsamp every=4``: an option for every installed pass, beside ``--pass gradsamp:every=4``."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ecograph import registry
from ecograph.tools.passes import find_pass

METAVAR = "OPTION=VALUE,..."


def with_pass_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command with a parameter ``passes``, of texts for ``find_pass``, an option for each installed pass.

    A pass whose option the command has already for something else is left out: ``--pass`` takes it. The passes of
    ``--pass`` come first; the others follow in the order of their names.
    """
    own = inspect.signature(command, eval_str=True)
    added = {_parameter(name): name for name in registry.names() if _parameter(name) not in own.parameters}

    @wraps(command)
    def run(**values: Any) -> None:
        texts = [f"{name}:{text}" for parameter, name in added.items() for text in values.pop(parameter) or []]
        command(**{**values, "passes": [*(values.get("passes") or []), *texts]})

    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[list[str] | None, typer.Option(f"--{name.replace('_', '-')}", metavar=METAVAR)],
        )
        for name in added
    ]
    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own.parameters.values()]
    run.__signature__ = own.replace(parameters=[*keywords, *parameters])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in [*keywords, *parameters]}
    return run


class LoopCommand(TyperCommand):
    """A command whose pass options say in its help what the passes take: they are imported only then."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Looks the options of the passes up, and writes the help."""
        names = {_parameter(name): name for name in registry.names()}
        for parameter in self.params:
            if getattr(parameter, "metavar", None) == METAVAR and parameter.name in names:
                parameter.help = _help(names[parameter.name])  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def choose(texts: Sequence[str] | None) -> list[Any]:
    """Returns the passes that texts such as ``"gradsamp:every=4"`` describe."""
    return [find_pass(text) for text in texts or []]


def _parameter(name: str) -> str:
    return name.replace("-", "_")


def _help(name: str) -> str:
    kind = registry.find(name)
    options = [each.name for each in dataclasses.fields(kind) if each.name != "filter_fn"]
    return f"The pass {kind.__name__}, with some of {', '.join(options)}."
