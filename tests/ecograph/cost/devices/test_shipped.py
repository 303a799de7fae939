from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any

import pytest

from ecograph.cost.devices.shipped import generic_cpu, gpu, gpu_like, names, tables

GPUS = [name for name in names() if name != "generic-cpu"]


def figures(table: dict[str, Any], at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in table.items():
        if isinstance(value, dict):
            if "value" in value:
                yield f"{at}.{name}", value
            else:
                yield from figures(value, f"{at}.{name}")


@pytest.mark.parametrize(("at", "figure"), list(figures(tables())))
def test_every_figure_has_a_source(at: str, figure: dict[str, Any]) -> None:
    assert set(figure) == {"value", "source"} and figure["value"] >= 0
    assert figure["source"].startswith(("https://", "assumed: "))


def test_the_devices_that_were_asked_for() -> None:
    assert set(names()) == {"generic-cpu", "h100", "h200", "a100", "l4", "rtx4090", "t4", "v100"}


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_at_full_load_draws_its_limit(name: str) -> None:
    device = gpu(name)
    assert set(device.flops) >= {"float32", "float16", "bfloat16", "float64"}
    for dtype, figure in device.flops.items():
        work = figure.value * device.joules_per_flop[dtype].value
        moving = device.bandwidth.value * device.joules_per_byte.value
        assert device.watts_static.value + work + moving == pytest.approx(tables()["devices"][name]["watts"]["value"])


def test_what_a_gpu_has_no_units_for_is_no_faster_than_float32() -> None:
    for name in ("t4", "v100"):
        flops = gpu(name).flops
        assert flops["bfloat16"].value == flops["float32"].value < flops["float16"].value / 5


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA L40", None),
        ("NVIDIA L40S", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4080", None),
        ("NVIDIA T400", None),
        ("NVIDIA A10", None),
    ],
)
def test_what_a_driver_calls_it(title: str, name: str | None) -> None:
    found = gpu_like(title)
    assert (found and found.name) == name


def test_a_cpu_has_as_many_cores_as_threads() -> None:
    one, four = generic_cpu(1), generic_cpu(4)
    assert four.flops["float32"].value == 4 * one.flops["float32"].value
    assert four.bandwidth.value == 4 * one.bandwidth.value
    assert four.watts_static.value == 4 * one.watts_static.value
    assert (one.title[-8:], four.title[-9:]) == ("1 thread", "4 threads")
    assert isfinite(one.reused.value) and not one.calibrated
    assert one.source == "modelled:generic-cpu, from datasheets"
