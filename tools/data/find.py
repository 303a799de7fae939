"""From a spec to a data set."""

from __future__ import annotations

from difflib import get_close_matches

from ecograph.tools.data import digits, noise, text, users, vision
from ecograph.tools.data.kind import Data, Kind
from ecograph.tools.errors import UserError

#: What may stand before the first colon.
KINDS: dict[str, Kind] = {"digits": digits.KIND, "text": text.KIND, "random": noise.KIND, "torchvision": vision.KIND}

FORMS = [*(kind.form for kind in KINDS.values()), *users.FORMS]


def find(spec: str) -> Data:
    """Returns the data set that ``spec`` names. Nothing is downloaded; the same spec gives the same data.

    Raises:
        UserError: where there is no such thing, naming the spec and all that can be given.
    """
    kind, colon, rest = spec.partition(":")
    if kind in KINDS:
        return KINDS[kind].make(rest)
    if not colon:
        close = get_close_matches(spec, list(KINDS), 1)
        hint = f"; did you mean {KINDS[close[0]].form}?" if close else ""
        raise UserError(f"data {spec!r}: give one of {', '.join(FORMS)}{hint}")
    return users.find(spec, forms=", ".join(FORMS))


def describe() -> str:
    """Returns a list of the kinds, a line each."""
    lines = [(kind.form, kind.says) for kind in KINDS.values()]
    lines.append((" or ".join(users.FORMS), users.SAYS))
    return "\n".join(f"{form}: {says}" for form, says in lines)


def epilog(name: str) -> str:
    """Returns the list of the kinds for the end of a command's help.

    Args:
        name: of what they are for, such as ``"DATA"``.
    """
    from rich.markup import escape

    kinds = escape(describe()).replace("\n", "\n\n")  # typer breaks lines where one is empty
    return f"[bold]{escape(name)}[/bold] is one of\n\n{kinds}"
