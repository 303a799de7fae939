from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ecograph.cost.devices import Device, Timing, find_device, stored
from ecograph.cost.devices.shipped import generic_cpu

TIMING = Timing("aten.mm", "matmul", "forward", "", "float32", False, (1, 8, 8, 8), 1024, 768, False, 1e-6)


def calibrated(threads: int = 0) -> Device:
    threads = threads or torch.get_num_threads()
    return replace(generic_cpu(threads), name=stored.cpu(threads), timings=(TIMING,), spread=0.02)


def test_a_cpu_that_was_not_calibrated() -> None:
    found = find_device()
    assert (found.name, found.threads) == ("generic-cpu", torch.get_num_threads())
    assert find_device("generic-cpu") == found


def test_a_calibrated_cpu_is_found_as_it_was_stored(cache: Path) -> None:
    device = calibrated()
    path = stored.save(device)
    assert path.parent == cache and list(cache.iterdir()) == [path]
    assert find_device() == find_device(device.name) == device
    assert device.source == f"modelled:{device.name}, calibrated here"


def test_each_number_of_threads_has_its_own() -> None:
    other = calibrated(torch.get_num_threads() + 1)
    stored.save(other)
    assert find_device().name == "generic-cpu"
    assert find_device(other.name) == other


def test_a_name_that_is_not_known() -> None:
    with pytest.raises(ValueError, match=r"device 'H10' is not known: give auto or one of .*; did you mean h100\?"):
        find_device("H10")
    stored.save(calibrated())
    with pytest.raises(ValueError, match=re.escape(calibrated().name)):
        find_device("../../profile")


DAMAGED: dict[str, Any] = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[1, 2]",
    "another file": lambda text: '{"name": "x"}',
    "no device": lambda text: json.dumps({**json.loads(text), "device": 3}),
    "a figure is missing": lambda text: text.replace('"bandwidth"', '"width"'),
    "a timing is short": lambda text: text.replace(", false, 1e-06]", "]"),
    "another version": lambda text: text.replace(f'"version": {stored.VERSION}', '"version": 99'),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("by_name", [False, True])
def test_a_damaged_profile_is_one_clear_error(damage: Any, by_name: bool) -> None:
    device = calibrated()
    path = stored.save(device)
    before = path.read_text()
    path.write_text(damage(before))
    assert path.read_text() != before
    with pytest.raises(ValueError, match=rf"^{path.name} .*: run ecograph calibrate again, or delete {path}$"):
        find_device(device.name if by_name else "auto")


def test_a_profile_that_cannot_be_written_leaves_the_old_one(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    stored.save(calibrated())

    def fail(self: Path, *arguments: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        stored.save(replace(calibrated(), spread=0.5))
    assert find_device().spread == 0.02 and len(list(cache.iterdir())) == 1


def test_the_gpu_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert find_device(type="cuda") == find_device("h100")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L40S")
    with pytest.raises(ValueError, match=r"no profile is for the GPU 'NVIDIA L40S': name the one .* l4, "):
        find_device(type="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="there is no GPU here"):
        find_device(type="cuda")
