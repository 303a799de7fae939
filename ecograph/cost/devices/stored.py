"""Devices that were calibrated on this machine: one JSON file each, in the user's cache folder."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from ecograph.cost.devices.device import Device, Figure, Timing

#: Of the file's form. Files of another are not read: they are made again in two minutes.
VERSION = 1


def folder() -> Path:
    """Returns where profiles are kept; ``ECOGRAPH_CACHE`` names another place."""
    import platformdirs

    return Path(os.environ.get("ECOGRAPH_CACHE") or platformdirs.user_cache_dir("ecograph")) / "devices"


def name_of(type: str, threads: int) -> str:
    """Returns the name under which this machine's device of a type is kept."""
    title = torch.cuda.get_device_name() if type == "cuda" else f"{cpu_name()} {threads} threads"
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def save(device: Device) -> Path:
    """Writes a device, and returns the file."""
    path = folder() / f"{device.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {each.name: getattr(device, each.name) for each in fields(Device)}
    table["timings"] = [list(asdict(timing).values()) for timing in device.timings]
    data = {"version": VERSION, "torch": torch.__version__, "device": table}
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(data) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return path


def load(name: str) -> Device | None:
    """Returns a device by its name; None where it was not calibrated, or by another version."""
    path = folder() / f"{name}.json"
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is no device profile ({error}): delete it, or run ecograph calibrate again"
        ) from error
    return _device(data["device"]) if data.get("version") == VERSION else None


def _device(table: dict[str, Any]) -> Device:
    made = dict(table)
    for name, value in table.items():
        if isinstance(value, list) and name != "timings":
            made[name] = Figure(*value)
        elif isinstance(value, dict):
            made[name] = {key: Figure(*each) for key, each in value.items()}
    timings = []
    for row in table["timings"]:
        values = dict(zip((each.name for each in fields(Timing)), row, strict=True))
        values["sizes"] = tuple(values["sizes"])
        timings.append(Timing(**values))
    made["timings"] = tuple(timings)
    return Device(**made)


def cpu_name() -> str:
    """Returns what the CPU calls itself."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()
