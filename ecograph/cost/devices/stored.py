"""Devices that were calibrated on this machine: one JSON file each, in the user's cache folder."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ecograph.cost.devices.device import Device, Figure, Timing
from ecograph.cost.devices.shipped import in_words

#: Of the file's form. Files of another are not read: they are made again in two minutes.
VERSION = 6


def folder() -> Path:
    """Returns where profiles are kept; ``ECOGRAPH_CACHE`` names another place."""
    import platformdirs

    return Path(os.environ.get("ECOGRAPH_CACHE") or platformdirs.user_cache_dir("ecograph")) / "devices"


def path_of(name: str) -> Path:
    """Returns the file in which a device is kept."""
    return folder() / f"{name}.json"


def names() -> list[str]:
    """Returns the names of all devices that were calibrated here."""
    return sorted(path.stem for path in folder().glob("*.json"))


def cpu(threads: int) -> str:
    """Returns the name under which this machine's CPU is kept, with a number of threads."""
    return re.sub(r"[^a-z0-9]+", "-", f"{cpu_name()} {in_words(threads)}".lower()).strip("-")


def save(device: Device) -> Path:
    """Writes a device, whole or not at all, and returns the file.

    Raises:
        OSError: where that is not possible.
    """
    path = path_of(device.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {each.name: getattr(device, each.name) for each in fields(Device)}
    table["timings"] = [list(asdict(timing).values()) for timing in device.timings]
    data = {"version": VERSION, "torch": torch.__version__, "device": table}
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        unfinished.write_text(json.dumps(data) + "\n", encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def load(name: str) -> Device | None:
    """Returns a device by its name; None where none of that name was calibrated.

    Raises:
        ValueError: for a file that holds no device, or one of another version of ecograph.
    """
    path = path_of(name)
    if name not in names():  # which no name with a path in it is
        return None
    again = f"run ecograph calibrate again, or delete {path}"
    try:
        device = _read(path, path.stat().st_mtime_ns)
        if device is not None:
            return device
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path.name} holds no device that was calibrated ({type(error).__name__}): {again}"
        ) from error
    raise ValueError(f"{path.name} was written by another version of ecograph: {again}")


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> Device | None:
    """Returns the device in a file that was last changed then; None where another version wrote it."""
    data = json.loads(path.read_text(encoding="utf-8"))
    version = data["version"]
    return _device(data["device"]) if version == VERSION else None


def _device(table: Mapping[str, Any]) -> Device:
    made: dict[str, Any] = dict(table)
    for name, value in table.items():
        if isinstance(value, list) and name != "timings":
            made[name] = Figure(*value)
        elif isinstance(value, dict):
            made[name] = {key: Figure(*each) for key, each in value.items()}
    made["timings"] = tuple(map(_timing, table["timings"]))
    return Device(**made)


def _timing(row: list[Any]) -> Timing:
    values = dict(zip((each.name for each in fields(Timing)), row, strict=True))
    return Timing(**values | {"sizes": tuple(values["sizes"])})


def cpu_name() -> str:
    """Returns what the CPU calls itself; the type of the machine where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()
