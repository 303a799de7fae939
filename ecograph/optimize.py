"""The front door: capture, find sites, let passes decide, rewrite, lower, remember.

Read :func:`optimize` from top to bottom: it is the compiler's data flow.
"""

from __future__ import annotations

import copy as copying
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from torch import fx, nn

from ecograph import registry
from ecograph.analysis import Site, find_sites
from ecograph.capture import Capture, capture
from ecograph.capture.graph import example
from ecograph.cost.devices.find import AUTO
from ecograph.cost.flops import Flops, graph_flops, product_flops
from ecograph.cost.pays import planned_for
from ecograph.cost.pays.prices import Planned
from ecograph.errors import NoEffectWarning
from ecograph.guards import check_model, check_names
from ecograph.record import ATTRIBUTE, ORIGINAL, GroupRecord, Record, SiteRecord, records
from ecograph.rewrite.lower import lower as lower_plan
from ecograph.rewrite.lower import undo
from ecograph.rewrite.passes import GroupPass, Pass, Plan, plan, rewrite_graphs
from ecograph.schedule import Ticker

if TYPE_CHECKING:
    from ecograph.advice.auto import Switches

M = TypeVar("M", bound=nn.Module)

#: Names of the passes in each recipe, strongest last. A recipe uses those that are installed.
RECIPES: dict[str, tuple[str, ...]] = {
    "exact": (),
    "balanced": ("sparse_backward",),
    "aggressive": ("sparse_backward", "sliceout"),
}


def optimize(
    model: M,
    *,
    example_inputs: Any = None,
    passes: Sequence[Any] | None = None,
    recipe: str = "balanced",
    skip: Sequence[str] = (),
    copy: bool = False,
    lower: Literal["model", "graph"] = "model",
    device: str = AUTO,
    amp: str | None = None,
) -> M:
    """Rewrites ``model`` so that training it costs less, and returns it.

    The model keeps its class, its Parameters, its buffers, its state_dict keys and its hooks; it can be trained with
    any loop and optimizer, wrapped in DDP or compiled afterwards. :func:`restore` undoes it.

    Args:
        model: any module, before DDP, FSDP or ``torch.compile``. On any device, ``meta`` included.
        example_inputs: what the model is called with: a tensor, a tuple ``(x, ...)``, a dict of keyword inputs, or a
            pair ``(args, kwargs)``. Only shapes matter. Without them, decisions that depend on shapes are made at the
            first training batch.
        passes: the passes to apply, in order, such as ``[ecograph.passes.SparseBackward(drop=0.8)]``, or names of
            installed passes. Overrides ``recipe``.
        recipe: ``"exact"``, ``"balanced"`` or ``"aggressive"``. ``"auto"``: the passes of ``"balanced"``, and what
            ``ecograph.advise`` found best of the exact switches of torch: memory format and ``torch.compile``. Where
            ``advise`` was not asked about this model yet, memory formats are measured now, on the example inputs, for
            about fifteen seconds.
        skip: names of layers, or of modules with all that is in them, to leave alone.
        copy: leave ``model`` alone and return an optimized deep copy.
        lower: ``"model"`` changes the user's own model. ``"graph"`` returns the rewritten ``torch.fx.GraphModule`` in
            its place, for training only; needs example inputs and a model that is captured in one graph.
        device: that the model will be trained on, if it is moved there later: what pays is decided for it. A name that
            ``ecograph inspect --device`` takes, such as ``"h100"``; ``"auto"``: the device that the model is on now.
        amp: ``"bf16"`` or ``"fp16"`` where the model will be trained under autocast: that, too, decides what pays.

    Returns:
        The model (or its copy, or the graph module).

    Raises:
        ValueError: for a user's mistake; the message names the layer or option and the fix.

    Warns:
        NoEffectWarning: where nothing was rewritten.
    """
    check_model(model)
    check_names(model, skip)
    auto = recipe == "auto" and passes is None
    chosen = _passes(passes, "balanced" if auto else recipe)
    if auto and lower == "graph":
        raise ValueError(
            "recipe='auto' switches things on in your own model: leave lower='graph' out, or name a recipe"
        )
    if lower not in ("model", "graph"):
        raise ValueError(f"lower={lower!r}: give 'model' or 'graph'")
    switches = _auto(model, example_inputs) if auto else None
    if copy:
        model = copying.deepcopy(model)
    restore_quietly(model)  # so that optimizing twice is optimizing once

    captured = capture(model, example_inputs)
    sites = find_sites(captured, model)
    with planned_for(device, amp) as training:
        made = plan(chosen, sites, model, skip, captured)
    record = _record(made, captured)
    record.judged_for = _judged_for(training)
    if not made.rewritten:
        if switches is None or not switches.of_the_model:
            _warn_no_effect(made, captured)
    elif made.channels is not None and not made.sliced:
        name = next(p.name for p in made.passes if isinstance(p, GroupPass))
        warnings.warn(f"the pass {name!r} had no effect: {_why_whole(made)}", NoEffectWarning, stacklevel=2)
    if lower == "graph":
        from ecograph.rewrite.graph_module import to_graph_module

        return cast(M, to_graph_module(model, captured, made, record))

    record.lowered = lower_plan(model, made)
    if made.rates:
        model.register_forward_pre_hook(Ticker(made.rates))
    model.__dict__[ATTRIBUTE] = record
    if switches is not None:
        switches.apply(model, record)
    return model


def restore(model: M) -> M:
    """Undoes :func:`optimize`: plain torch.nn layers again, in place.

    Args:
        model: an optimized model, or one that holds or wraps an optimized model.

    Returns:
        The model; for the graph module of ``lower="graph"``, the model it was made from.

    Warns:
        NoEffectWarning: where the model is not optimized.
    """
    original = model.__dict__.get(ORIGINAL)
    if original is not None:
        return original  # type: ignore[no-any-return]
    if not records(model):
        warnings.warn(f"{type(model).__name__} is not optimized: nothing to restore", NoEffectWarning, stacklevel=2)
    restore_quietly(model)
    return model


def restore_quietly(model: nn.Module) -> None:
    """Undoes every optimization in ``model``, if there is one."""
    for module in list(model.modules()):
        record = module.__dict__.pop(ATTRIBUTE, None)
        if record is not None:
            undo(module, record.lowered)
            for rate in record.rates:
                rate.close()
            if "channels_last" in record.switched:
                module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            if "compile" in record.switched:
                module._compiled_call_impl = None
            hooks = module._forward_pre_hooks
            for key in [key for key, hook in hooks.items() if isinstance(hook, Ticker)]:
                del hooks[key]


def compile_graphs(
    model: nn.Module,
    *,
    example_inputs: Any = None,
    passes: Sequence[Any] | None = None,
    recipe: str = "balanced",
    device: str = AUTO,
    amp: str | None = None,
) -> tuple[Capture, Plan, list[tuple[str, str]]]:
    """Runs the compiler without touching the model: for ``ecograph inspect --graph``.

    Returns:
        The capture, now with rewritten graphs, the plan, and for every graph its code before and after.
    """
    check_model(model)
    captured = capture(model, example_inputs)
    sites = find_sites(captured, model)
    before = [graph.module.code for graph in captured.graphs]
    with planned_for(device, amp):
        made = plan(_passes(passes, recipe), sites, model, captured=captured)
    rewrite_graphs(made, captured)
    after = [graph.module.code for graph in captured.graphs]
    return captured, made, list(zip(before, after, strict=True))


def _auto(model: nn.Module, example_inputs: Any) -> Switches:
    """Returns the exact switches that were, or are now, found to pay on this machine."""
    from ecograph.advice.auto import find_switches

    return find_switches(model, example_inputs)


def _passes(passes: Sequence[Any] | None, recipe: str) -> list[Pass | GroupPass]:
    if passes is None:
        if recipe not in RECIPES:
            raise ValueError(f"recipe={recipe!r}: give one of {', '.join(map(repr, (*RECIPES, 'auto')))}")
        installed = registry.names()
        for name in RECIPES[recipe]:
            if name not in installed:
                warnings.warn(
                    f"recipe {recipe!r} goes without the pass {name!r}, which is not installed",
                    NoEffectWarning,
                    stacklevel=3,
                )
        return [registry.find(name)() for name in RECIPES[recipe] if name in installed]
    if isinstance(passes, (str, bytes)) or not isinstance(passes, Sequence):
        raise ValueError(f"passes={passes!r}: give a list, such as [ecograph.passes.SparseBackward()]")
    chosen = [registry.find(item)() if isinstance(item, str) else item for item in passes]
    for item in chosen:
        if isinstance(item, type) or not isinstance(item, (Pass, GroupPass)):
            if callable(getattr(item, "insert", None)) and not isinstance(item, type):
                kind = type(item).__name__
                raise ValueError(f"{kind} changes the training loop: give it to TrainingLoop(passes=[{kind}(...)])")
            raise ValueError(f"{item!r} in passes is not a pass: give an instance, such as SparseBackward(drop=0.8)")
    return chosen


def _record(made: Plan, captured: Capture) -> Record:
    """Returns what explain, Scheduler and restore need to know."""
    return Record(
        passes=tuple(p.to_dict() for p in made.passes),
        rates=made.rates,
        mixes=[rate.mix for rate in made.rates],
        sites=[
            SiteRecord(
                name=choice.site.name,
                module=choice.site.module,
                type=choice.site.type,
                call=choice.site.call,
                passes=choice.names,
                reason=choice.reason,
                output_shape=choice.site.output_shape,
                channels=choice.site.out_channels and choice.site.out_channels // choice.site.groups,
                flops=_site_flops(choice.site),
                layer=choice.layer,
            )
            for choice in made.choices
        ],
        other_flops=_other_flops(captured, [choice.site for choice in made.choices]),
        parts=[(part.path, part.method, part.note) for part in captured.parts],
        sliced_flops=_sliced_flops(captured, made),
        groups=_groups(made),
        notes=made.notes,
    )


def _judged_for(training: Planned) -> str:
    """Returns for which device, known how, and in which precision it was decided what pays; "" where it was not."""
    device = training.asked
    if device is None:
        return ""
    precision = "" if training.amp is None else f", {str(training.amp).removeprefix('torch.')}"
    return f"{device.title}{precision} ({device.source.replace(':', ', ', 1)})"


def _groups(made: Plan) -> list[GroupRecord]:
    """Returns what was decided about the channel groups, and which layers are in none."""
    if made.channels is None:
        return []
    found = [
        GroupRecord(
            name=choice.group.name,
            members=tuple(choice.group.members),
            units=choice.group.units,
            width=choice.group.width,
            activation_bytes=_bytes(choice.group.activations),
            pass_name=choice.pass_.name if choice.pass_ else "",
            reason=choice.reason,
            slice=choice.slice,
        )
        for choice in made.groups
    ]
    return found + [GroupRecord(s.name, width=s.width, reason=s.reason) for s in made.channels.stopped]


def _sliced_flops(captured: Capture, made: Plan) -> list[tuple[Flops, tuple[Any, ...]]]:
    """Returns the FLOPs of products without a parameter weight that slices make smaller, such as those of heads."""
    if made.channels is None or not made.sliced:
        return []
    slices = {choice.group.name: choice.slice for choice in made.sliced}
    own = {choice.site.node for choice in made.choices}
    found = []
    for graph in captured.graphs:
        for node, flops in graph_flops(graph).items():
            layouts = () if node in own else made.channels.layouts(node)
            concerned = tuple(slices[s.group] for layout in layouts for s in layout if s.group)
            if concerned:
                found.append((flops, concerned))
    return found


def _bytes(nodes: Sequence[fx.Node]) -> int:
    """Returns the memory behind the example tensors of some nodes."""
    storages = {value.untyped_storage()._cdata: value for node in nodes if (value := example(node)) is not None}
    return sum(value.numel() * value.element_size() for value in storages.values())


def _site_flops(site: Site) -> Flops | None:
    return product_flops(site.product, site.needs_grad)


def _other_flops(captured: Capture, sites: Sequence[Site]) -> Flops | None:
    """Returns the FLOPs of products without a parameter weight, such as attention."""
    if not captured.shapes:
        return None
    own = {site.node for site in sites if _site_flops(site) is not None}
    total = Flops()
    for graph in captured.graphs:
        for node, flops in graph_flops(graph).items():
            if node not in own:
                total += flops
    return total


def _why_whole(made: Plan) -> str:
    assert made.channels is not None
    whole = [(c.group.name, c.reason) for c in made.groups] + [(s.name, s.reason) for s in made.channels.stopped]
    return f"no channel group is sliced: {_each(whole) or 'the model has no convolution or linear layer'}"


def _each(reasons: Sequence[tuple[str, str]], most: int = 12) -> str:
    """Returns what stopped each of some candidates, those with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons:
        by_reason.setdefault(reason, []).append(name)
    told = [f"{', '.join(names[:most])}{' ...' * (len(names) > most)}: {why}" for why, names in by_reason.items()]
    return "; ".join(told)


def _warn_no_effect(made: Plan, captured: Capture) -> None:
    reasons = list(dict.fromkeys(choice.reason for choice in made.choices if choice.reason))
    failed = next((part for part in captured.parts if part.method == "none"), None)
    if made.choices:
        why = f"of {len(made.choices)} layers none was rewritten: {'; '.join(reasons[:3])}"
    elif failed is not None:
        why = f"{failed.path or 'the model'} could not be captured ({failed.note}): give example_inputs"
    else:
        why = "the model has no convolution or linear layer"
    if made.channels is not None and len(made.passes) == 1:
        why = _why_whole(made)
    if not made.passes:
        why = "there is no pass to apply"
    warnings.warn(f"ecograph.optimize had no effect: {why}", NoEffectWarning, stacklevel=3)
