"""The page: everything about an inspected model in one HTML file that asks for nothing from the network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ecograph.tools.console import finite
from ecograph.tools.report.tree import Item, grow

if TYPE_CHECKING:
    from ecograph.cost.estimate import Amount, Estimate
    from ecograph.cost.flops import Flops
    from ecograph.schedule import Rate
    from ecograph.tools.inspected import Inspected

#: The scripts of the page, in the order in which they need each other.
SCRIPTS = ("dom.js", "model.js", "details.js", "tree.js", "treemap.js", "flow.js", "facts.js", "main.js")
#: Epochs over which the schedule is drawn: a stand-in, as a schedule by epoch spans those that are planned.
EPOCHS = 30


def page(inspected: Inspected, step: str = "") -> str:
    """Returns the page's HTML.

    Args:
        inspected: a model that was compiled with its graphs kept.
        step: what the estimated step is, in words.
    """
    import jinja2
    from markupsafe import Markup

    import ecograph

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_read("template.html")).render(
        title=f"{inspected.report.model} ({inspected.spec})",
        version=ecograph.__version__,
        # Our own files; what comes from a model is in the data alone.
        style=Markup(_read("style.css")),
        script=Markup("\n".join(map(_read, SCRIPTS))),
        data=Markup(embedded(data(inspected, step))),
    )


def embedded(value: Any) -> str:
    """Returns JSON that can stand in a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def data(inspected: Inspected, step: str = "") -> dict[str, Any]:
    """Returns what the page shows, as JSON types."""
    tree = grow(inspected)
    report, estimate = inspected.report, inspected.estimate
    judged = [f"what pays was decided for {report.judged_for}"] if report.judged_for else []
    found = {
        "model": report.model,
        "spec": inspected.spec,
        "about": inspected.about(),
        "step": step,
        "built": inspected.device,
        "items": [_item(item) for item in tree.items],
        "edges": [list(edge) for edge in tree.edges],
        "inputs": list(tree.inputs),
        "outputs": list(tree.outputs),
        "passes": _passes(inspected),
        "groups": _groups(inspected),
        "schedule": [_schedule(name, rate) for name, rate in inspected.rates.items()],
        "epochs": EPOCHS,
        "flops": [report.before.total, report.after.total],
        "notes": [*report.notes, *judged, *(estimate.notes if estimate else ())],
        "capture": [{"path": path, "method": method, "note": note} for path, method, note in report.parts],
    }
    return dict(finite(found | (_estimate(estimate) if estimate else {})))


def _item(item: Item) -> dict[str, Any]:
    """Returns an item, what is not known or empty left out: there are thousands."""
    found: dict[str, Any] = {"parent": item.parent, "kind": item.kind, "name": item.name, "type": item.type}
    if item.kind != "node":
        found["path"] = item.path
    if item.cost is not None:
        found["before"], found["after"] = _amounts(item.cost.before), _amounts(item.cost.after)
    if item.products:
        found["products"] = [
            {
                "name": product.name,
                "shape": product.output_shape,
                "passes": list(product.passes),
                "reason": product.reason,
                "before": _flops(product.before),
                "after": _flops(product.after),
            }
            for product in item.products
        ]
    if item.facts is not None:
        found |= {"shape": item.facts.shape, "source": item.facts.source}
    if item.line is not None:
        found |= {"code": item.line.code.strip(), "added": item.line.added_by, "removed": item.line.removed_by}
    return {key: value for key, value in found.items() if value not in (None, "", [], {})}


def _amounts(amounts: Mapping[str, Amount]) -> dict[str, list[float]]:
    """Returns for each phase seconds, joules, FLOPs, bytes and operations, to five digits."""
    return {
        phase: [float(f"{value:.5g}") for value in (each.seconds, each.joules, each.flops, each.bytes, each.calls)]
        for phase, each in amounts.items()
    }


def _flops(flops: Flops | None) -> dict[str, int] | None:
    if flops is None:
        return None
    return {"forward": flops.forward, "grad_input": flops.grad_input, "grad_weight": flops.grad_weight}


def _passes(inspected: Inspected) -> list[dict[str, Any]]:
    """Returns each pass with its options, and what it saves."""
    estimate = inspected.estimate
    costs = {each.name: each for each in estimate.passes} if estimate else {}
    found = []
    for options in inspected.report.passes:
        name = options["name"]
        cost = costs.get(name)
        found.append(
            {
                "name": name,
                "options": {key: str(value) for key, value in options.items() if key not in ("name", "mean_rate")},
                "mean_rate": options["mean_rate"],
                "layers": sum(name in layer.passes for layer in inspected.report.layers),
                "flops": inspected.report.saved_by(name),
                "saved": cost.saved.to_dict() if cost else None,
                "peak": cost.peak.to_dict() if cost else None,
            }
        )
    return found


def _groups(inspected: Inspected) -> list[dict[str, Any]]:
    """Returns the channel groups that have members."""
    return [
        {
            "name": group.name,
            "members": list(group.members),
            "width": group.width,
            "slice": group.slice_width,
            "pass": group.sliced_by,
            "reason": group.reason,
        }
        for group in inspected.report.groups
        if group.members
    ]


def _schedule(name: str, rate: Rate) -> dict[str, Any]:
    values = [round(rate.at(epoch, EPOCHS), 4) for epoch in range(EPOCHS)]
    return {"pass": name, "kind": rate.schedule, "peak": rate.peak, "values": values}


def _estimate(estimate: Estimate) -> dict[str, Any]:
    from ecograph.cost.estimate.result import device_dict

    device = device_dict(estimate.device)
    return {
        "device": {
            "title": estimate.device.title,
            "name": estimate.device.name,
            "calibrated": estimate.device.calibrated,
            "timings": device["timings"],
            "figures": _figures(device),
        },
        "source": estimate.source,
        "memory": {
            when: {"activations": m.activations, "parameters": m.parameters, "optimizer": m.optimizer}
            for when, m in (("before", estimate.memory_before), ("after", estimate.memory_after))
        },
        "uncounted": dict(estimate.uncounted),
    }


#: figure of a device -> its name for people and its unit
_UNITS = {
    "flops": ("peak", "FLOP/s"),
    "bandwidth": ("memory bandwidth", "B/s"),
    "reached": ("share of the peak that products reach", ""),
    "call": ("least time of an operation", "s"),
    "overhead": ("time beside each operation", "s"),
    "swept": ("the same, longer with full caches", "s"),
    "new_memory": ("first use of memory", "s/B"),
    "reused": ("largest allocation that is reused", "B"),
    "watts_static": ("static power", "W"),
    "joules_per_flop": ("energy of a FLOP", "J"),
    "joules_per_byte": ("energy of a byte", "J"),
}


def _figures(device: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns every figure of a device with its unit and source."""
    found = []
    for key, value in device.items():
        if not isinstance(value, Mapping):
            continue
        title, unit = _UNITS.get(key, (key.replace("_", " "), ""))
        parts: Sequence[tuple[str, Any]] = [("", value)] if "value" in value else list(value.items())
        kinds: dict[tuple[float, str], list[str]] = {}  # those with the same figure share a row
        for kind, figure in parts:
            kinds.setdefault((figure["value"], figure["source"]), []).append(kind)
        for (number, source), names in kinds.items():
            name = ", ".join(filter(None, [title, *names]))
            found.append({"name": name, "value": number, "unit": unit, "source": source})
    return found


def _read(name: str) -> str:
    return files("ecograph.tools.report").joinpath(name).read_text(encoding="utf-8")
