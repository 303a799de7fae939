"""``SPEC``: what model a user means by ``file.py:build``, ``timm:resnet50`` or ``hf:bert``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecograph.tools import own, zoo
from ecograph.tools.errors import UserError
from ecograph.tools.inputs import Input

if TYPE_CHECKING:
    from torch import nn

FORMS = f"{own.FORMS}, timm:NAME, torchvision:NAME, hf:NAME or demo:NAME"


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
    target = own.load(spec, says=f"SPEC {spec!r}", forms=FORMS)
    return Subject(spec, lambda: _call(spec, target), lambda model: ())


def _call(spec: str, target: Any) -> nn.Module:
    from torch import nn

    if isinstance(target, nn.Module):
        return target
    model = own.call(spec, target, says=f"SPEC {spec!r}", gives="the model")
    if not isinstance(model, nn.Module):
        name = own.name_in(spec)
        raise UserError(f"SPEC {spec!r}: {name}() returned a {type(model).__name__}, not a torch.nn.Module")
    return model
