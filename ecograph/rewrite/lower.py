"""Lowering: from rewritten graphs to the user's own model, changed as little as possible.

A plain torch.nn layer has its class changed in place to the pass's subclass. For a product called in any other module,
that module's instance gets a routed forward (:mod:`.route`); its class stays. Both are undone by :func:`undo`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from ecograph.capture.graph import parameter_name
from ecograph.rewrite.calls import Calls
from ecograph.rewrite.passes import Choice, Plan
from ecograph.rewrite.route import Route, RoutedForward


@dataclass(frozen=True)
class Lowered:
    """One change to the model.

    Attributes:
        path: the changed module.
        original: the class it had, where its class was changed; None where it got a routed forward.
        replacement: the class it got.
        attribute: where the class was changed, the attribute that was added.
    """

    path: str
    original: type[nn.Module] | None = None
    replacement: type[nn.Module] | None = None
    attribute: str = ""


def lower(model: nn.Module, plan: Plan) -> list[Lowered]:
    """Changes ``model`` in place according to ``plan`` and returns what was changed."""
    changed: list[Lowered] = []
    routed: dict[str, list[Choice]] = {}
    seen: set[int] = set()
    for choice in plan.rewritten:
        module = model.get_submodule(choice.site.module)
        assert choice.pass_ is not None
        replacement = choice.pass_.replacements.get(type(module))
        if replacement is not None and choice.site.plain:
            seen.add(id(module))
            changed.append(Lowered(choice.site.module, type(module), replacement, choice.pass_.attribute))
            module.__class__ = replacement
            setattr(module, choice.pass_.attribute, choice.layer)
        elif id(module) not in seen:
            routed.setdefault(choice.site.module, []).append(choice)
    calls = _calls(plan)
    for norm in plan.norms:
        module = model.get_submodule(norm.cut.module)
        replacement = norm.pass_.replacements.get(type(module))
        if replacement is not None:
            changed.append(Lowered(norm.cut.module, type(module), replacement, norm.pass_.attribute))
            module.__class__ = replacement
            setattr(module, norm.pass_.attribute, norm.norm)
        elif id(module) not in seen:
            calls.setdefault(norm.cut.module, Calls()).norms.append((norm.cut.tensors, norm.norm))
            calls[norm.cut.module].slices.update(norm.norm.slices)
        seen.add(id(module))
    for path in dict.fromkeys([*routed, *calls]):
        module = model.get_submodule(path)
        routes = _routes(path, routed.get(path, []))
        module.forward = RoutedForward(module, routes, module.__dict__.get("forward"), calls.get(path))
        changed.append(Lowered(path))
    return changed


def _calls(plan: Plan) -> dict[str, Calls]:
    """Returns by module path what changes in the calls of its forward, but for products and batch norms."""
    calls: dict[str, Calls] = {}
    for cut, cutter in plan.cuts:
        inside = calls.setdefault(cut.module, Calls())
        inside.cuts[cut.name] = cutter
        inside.slices.update(cutter.slices)
    for change, sizes in plan.sizes:
        inside = calls.setdefault(change.module, Calls())
        inside.sizes.append(sizes)
        inside.slices.update(sizes.slices)
    return calls


def undo(model: nn.Module, changed: Sequence[Lowered]) -> None:
    """Takes back what :func:`lower` did. A module that the user has since replaced is left alone."""
    for change in reversed(changed):
        try:
            module = model.get_submodule(change.path)
        except AttributeError:
            continue
        if change.original is not None and change.replacement is not None:
            if change.attribute in module.__dict__:
                delattr(module, change.attribute)
                module.__class__ = _exchanged(type(module), change.replacement, change.original)
        elif isinstance(routed := module.__dict__.get("forward"), RoutedForward):
            if routed.before is None:
                del module.__dict__["forward"]
            else:
                module.forward = routed.before


def _exchanged(cls: type, replacement: type, original: type) -> type:
    """Returns ``cls`` with ``original`` where it is, or derives from, ``replacement``.

    A parametrization or FSDP, applied since, gives a module a class of its own that derives from the one it had.
    """
    if cls is replacement:
        return original
    if replacement not in cls.__mro__:
        return cls
    bases = tuple(_exchanged(base, replacement, original) for base in cls.__bases__)
    members = {key: value for key, value in cls.__dict__.items() if key not in ("__dict__", "__weakref__")}
    return type(cls)(cls.__name__.replace(replacement.__name__, original.__name__), bases, members)


def _routes(path: str, choices: Sequence[Choice]) -> list[Route]:
    routes: dict[tuple[str, ...], Route] = {}
    for choice in choices:
        assert choice.layer is not None
        names = tuple(name[len(path) + 1 :] if path else name for name in choice.site.parameters)
        routes.setdefault(names, Route(names, choice.layer, _transposed_attribute(choice.site.product.weight)))
    return list(routes.values())


def _transposed_attribute(weight: Any) -> bool:
    """Whether a graph's weight is ``parameter.T`` or ``parameter.mT``."""
    return (
        isinstance(weight, fx.Node)
        and weight.op == "call_function"
        and weight.target is getattr
        and weight.args[1] in ("T", "mT")
        and isinstance(weight.args[0], fx.Node)
        and parameter_name(weight.args[0]) is not None
    )
