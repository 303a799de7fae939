"""What ``optimize`` leaves on a model: enough to explain it, to schedule it and to undo it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from ecograph.cost.flops import Flops
    from ecograph.rewrite.lower import Lowered
    from ecograph.rewrite.passes import Layer
    from ecograph.schedule import Rate

#: The attribute of the model that holds its record. A plain attribute: not part of the state_dict.
ATTRIBUTE = "_ecograph"
#: The attribute of a rewritten graph that holds the model it was made from.
ORIGINAL = "_ecograph_original"


@dataclass
class SiteRecord:
    """What was found out and decided about one product.

    Attributes:
        name: the layer's name.
        module: path of the module in whose forward it is called.
        type: class name of that module.
        call: 0 for its first call in a step, 1 for the second, ...
        passes: the passes that rewrote it, the outermost first.
        reason: why it was left alone, or "".
        output_shape: of the example, or None.
        channels: output channels, per group, or None where they are unknown.
        flops: of the plain step, or None where shapes are unknown.
        layer: what the pass put in place, which knows the rest at run time; None where nothing was rewritten.
    """

    name: str
    module: str
    type: str
    call: int
    passes: tuple[str, ...] = ()
    reason: str = ""
    output_shape: tuple[int, ...] | None = None
    channels: int | None = None
    flops: Flops | None = None
    layer: Layer | None = None


@dataclass
class GroupRecord:
    """What was found out and decided about one channel group, or about a layer that is in none.

    Attributes:
        name: of the group: the first layer that makes it.
        members: the layers and tensors that belong to it.
        units: channels, heads or groups of a convolution; 0 for a layer that is in no group.
        width: elements.
        activation_bytes: of the example's tensors that it makes smaller; views count once.
        pass_name: the pass that slices it, or "".
        reason: why it stays whole, or "".
        slice: what is in force on it at run time.
    """

    name: str
    members: tuple[str, ...] = ()
    units: int = 0
    width: int = 0
    activation_bytes: int = 0
    pass_name: str = ""
    reason: str = ""
    slice: Any = None


@dataclass
class Record:
    """Everything ``optimize`` did to a model.

    Attributes:
        passes: the JSON form of each pass.
        rates: the rate of each pass, shared with its layers.
        mixes: for each rate, the share of the training's steps at each of its values.
        sites: every product of the model.
        other_flops: of products without a parameter weight, such as attention; None where shapes are unknown.
        sliced_flops: those of them that slices make smaller, each with the slices of its dimensions.
        parts: how each part of the model was captured: (path, method, note).
        lowered: what was changed in the model, in order.
        groups: every channel group that a pass was asked about, and the layers that are in none.
        notes: what the user should know about how to train now.
        switched: what ``recipe="auto"`` switched on in the model: ``"channels_last"``, ``"compile"``.
        judged_for: for which device, and how that is known, it was decided what pays; "" where that was not asked.
    """

    passes: tuple[dict[str, Any], ...]
    rates: list[Rate]
    mixes: list[dict[float, float]]
    sites: list[SiteRecord]
    other_flops: Flops | None
    parts: list[tuple[str, str, str]]
    lowered: list[Lowered] = field(default_factory=list)
    sliced_flops: list[tuple[Flops, tuple[Any, ...]]] = field(default_factory=list)
    groups: list[GroupRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    switched: tuple[str, ...] = ()
    judged_for: str = ""


def records(model: Any) -> list[Record]:
    """Returns the records in ``model``: its own, or those of the parts that were optimized (or of what it wraps).

    What trains a model without being a module, such as an exported one, has its record itself.
    """
    if not isinstance(model, nn.Module):
        found = getattr(model, "__dict__", {}).get(ATTRIBUTE)
        return [] if found is None else [found]
    return [module.__dict__[ATTRIBUTE] for module in model.modules() if ATTRIBUTE in module.__dict__]
