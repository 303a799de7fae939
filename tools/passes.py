"""Passes as the command line names them: ``sliceout:rate=0.25,starts=blocks``."""

from __future__ import annotations

import json
from typing import Any

from ecograph.tools.errors import UserError, user_errors


def find_pass(text: str) -> Any:
    """Returns the pass that ``NAME[:OPTION=VALUE,...]`` describes; values are JSON, or else strings.

    Raises:
        UserError: where there is no such pass or option, or the pass is not one for the loop.
    """
    from ecograph import registry

    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for option in filter(None, rest.split(",")):
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--pass {text!r}: {option!r} is no OPTION=VALUE, such as drop=0.5")
        options[key.strip()] = _value(value.strip())
    with user_errors(f"--pass {text!r}: "):
        return registry.from_dict({"name": name, **options})


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a word, such as the name of a schedule
        return text
