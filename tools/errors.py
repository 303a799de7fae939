"""The boundary between a user's mistake, which gets one line, and ours, which gets a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can put right. Its text is the one line that is shown, and says how."""


@contextmanager
def user_errors(prefix: str = "") -> Iterator[None]:
    """Turns a ValueError of the library into a :class:`UserError`.

    To be put around the very calls that check what the user gave, so that a ValueError from anywhere
    else, which is a bug, keeps its traceback.

    Args:
        prefix: what the line begins with, such as ``"--input: "``.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(prefix + one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Returns what an exception says as a single line; its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
