from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from ecograph.cost.calibration.calibrate import parts_of
from ecograph.cost.calibration.timing import Timed, describe, timing
from ecograph.cost.calibration.workloads import Workload
from ecograph.cost.calibration.workloads.convs import conv_workloads, convs
from ecograph.cost.calibration.workloads.images import on_images
from ecograph.cost.calibration.workloads.matmuls import batched_matmuls, linear
from ecograph.cost.calibration.workloads.optimizer import SEVERAL, in_optimizer
from ecograph.cost.calibration.workloads.rows import on_rows
from ecograph.cost.devices.device import Timing
from ecograph.cost.devices.rates import Rates
from ecograph.cost.steps.kinds import UNCOUNTED, kind_of

FORMATS = (torch.contiguous_format, torch.channels_last)


def cheap(dtype: torch.dtype) -> Iterator[Workload]:
    """Every kind of workload, at its smallest."""
    yield from [*linear(8, 64, 64, dtype)]
    yield from list(batched_matmuls(dtype))[:6]
    for name, run, operands, phase in (*on_rows(2**10, dtype), *on_images(2**10, dtype)):
        yield Workload(name, run, operands, phase)
    yield from in_optimizer(2**10, dtype)
    for format in FORMATS:
        kinds = {
            (conv.kernel, conv.stride, conv.groups > 1, conv.groups == conv.inputs): conv
            for conv in convs(format)
        }
        for conv in kinds.values():
            width = 32 if conv.inputs > 3 else 3
            groups = 1 if conv.groups == 1 else width if conv.groups == conv.inputs else 2
            outputs = width if groups > 1 else 32
            small = replace(conv, images=1, inputs=width, outputs=outputs, size=2 * conv.kernel, groups=groups)
            yield from conv_workloads(small, dtype, format)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_workload_is_one_operation_that_is_known(dtype: torch.dtype) -> None:
    seen = set()
    with torch.no_grad():
        for work in cheap(dtype):
            op = describe(work, work.make())
            assert op.kind != UNCOUNTED, work.label
            assert op.phase == work.phase and op.bytes > 0
            # A product is looked up by the gradient that a recorded step says it computes.
            assert op.grad == work.grad or op.kind == "matmul", work.label
            seen.add(op.kind)
    kinds = {
        "conv",
        "matmul",
        "attention",
        "attention_backward",
        "pointwise",
        "transcendental",
        "batch_norm",
        "layer_norm",
    }
    assert seen >= kinds | {
        "softmax",
        "reduction",
        "pooling",
        "resampling",
        "embedding",
        "loss",
        "copy",
        "indexing",
        "random",
        "fill",
    }


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_convolutions_cover_what_networks_have(format: torch.memory_format) -> None:
    found = convs(format)
    assert len(set(found)) == len(found) < 180
    assert max(conv.flops for conv in found) < 1e9
    plain = [conv for conv in found if conv.groups == 1]
    assert {min(conv.inputs, conv.outputs) for conv in plain} >= {3, 16, 32, 64, 128, 256, 512}
    assert max(conv.outputs for conv in plain) >= 1024
    assert {conv.kernel for conv in found} >= {1, 3, 5, 7, 16}
    assert {conv.images for conv in found} >= {1, 16}
    assert {conv.stride for conv in plain} >= {1, 2, 4}
    assert any(conv.groups == conv.inputs for conv in found) and any(1 < conv.groups < conv.inputs for conv in found)


def test_a_batched_product_of_the_backward_is_found() -> None:
    """Neither operand is a weight, so a recorded step has its gradients as grad_input."""
    works = [work for work in batched_matmuls(torch.float32) if "bmm" in work.label]
    assert {work.grad for work in works} == {"", "grad_input"}
    work = next(work for work in works if work.grad)
    op = describe(work, work.make())
    timing = Timing(
        op.name, op.kind, op.phase, work.grad, op.dtype, False, op.sizes, op.flops, op.bytes, op.strided, 1e-3
    )
    assert Rates((timing,)).seconds(replace(op, grad="grad_input")) == pytest.approx(1e-3)


def test_an_optimizer_has_averages_of_squares() -> None:
    """The root of a negative number takes twenty times as long as that of any other."""
    works = {work.label: work for work in in_optimizer(2**10, torch.float32)}
    for work in works.values():
        assert work.phase == "optimizer" and all((each > 0).all() for each in work.make())
    sqrt = next(operands for name, _, operands, _ in on_rows(2**10, torch.float32) if name == "sqrt")
    assert (sqrt()[0] >= 0).all()


def test_what_goes_through_several_tensors_is_timed_for_each() -> None:
    works = {work.label: work for work in in_optimizer(2**10, torch.float32)}
    work = works["AdamW of 1024"]
    op = describe(work, work.make())
    assert op.parts == SEVERAL and op.bytes > SEVERAL * 6 * 2**12
    found = timing([Timed(work, op, (8e-3,))])
    assert found.seconds == pytest.approx(1e-3) and found.bytes == op.bytes // SEVERAL
    # Of sixteen tensors it takes twice as long.
    twice = replace(op, parts=2 * SEVERAL, read=2 * op.read, written=2 * op.written)
    assert Rates((found,)).seconds(twice) == pytest.approx(16e-3)


def test_parts_share_the_time() -> None:
    parts = parts_of(torch.float32)
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    assert all(part.works for part in parts)


def test_the_kinds_that_are_timed_are_kinds_of_torch() -> None:
    assert kind_of(torch.ops.aten.convolution_backward.default) == "conv_backward"
