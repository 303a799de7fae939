"""Passes for the model, passes for the loop, and those that are both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ecograph.rewrite.passes import GroupPass, Pass


def for_model(passes: Iterable[Any]) -> list[Any]:
    """Returns the passes that rewrite a model."""
    return [each for each in passes if isinstance(each, (Pass, GroupPass))]


def for_loop(passes: Iterable[Any]) -> list[Any]:
    """Returns the passes that put something into a loop."""
    return [each for each in passes if callable(getattr(each, "insert", None))]


def in_loop_alone(passes: Iterable[Any]) -> list[Any]:
    """Returns the passes that leave the model as it is."""
    return [each for each in for_loop(passes) if not for_model([each])]
