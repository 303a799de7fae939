from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ecograph
from ecograph.cost.devices import Timing, stored
from ecograph.cost.devices.shipped import generic_cpu
from ecograph.cost.estimate import Amount, Estimate, estimate
from ecograph.cost.estimate.estimate import MOST_RATES, few
from ecograph.cost.steps import record_step
from ecograph.passes import SliceOut, SparseBackward

Make = Callable[[], nn.Module]
X = torch.zeros(4, 3, 8, 8)


def close(first: Amount, second: Amount) -> bool:
    return all(
        getattr(first, each.name) == pytest.approx(getattr(second, each.name), rel=1e-6) for each in fields(Amount)
    )


def total(parts: Any) -> Amount:
    return sum(parts, Amount())


def test_a_plain_model_is_the_same_before_and_after(plain: Estimate) -> None:
    assert plain.before == plain.after and plain.total_before == plain.total_after
    assert plain.memory_before == plain.memory_after and not plain.passes
    assert set(plain.before) == {"forward", "backward", "optimizer"}
    assert all(value > 0 for value in plain.total_before.to_dict().values())
    assert plain.source == "modelled:generic-cpu, from datasheets"


def test_layers_sum_to_phases_and_phases_to_the_step(sparse: Estimate) -> None:
    assert close(total(layer.total_before for layer in sparse.layers), sparse.total_before)
    assert close(total(layer.total_after for layer in sparse.layers), sparse.total_after)
    assert close(total(sparse.before.values()), sparse.total_before)
    assert [layer.name for layer in sparse.layers if layer.name] == ["0", "1", "2", "3", "4", "5"]


def test_layers_have_the_names_of_their_plain_classes(sparse: Estimate, plain: Estimate) -> None:
    types = {layer.name: layer.type for layer in sparse.layers}
    assert types["0"] == types["3"] == "Conv2d" and types["5"] == "Linear"
    assert types == {layer.name: layer.type for layer in plain.layers}


def test_the_plain_step_is_the_model_without_passes(sparse: Estimate, plain: Estimate) -> None:
    assert sparse.total_before.flops == plain.total_before.flops
    assert sparse.total_before.seconds == pytest.approx(plain.total_before.seconds, rel=0.1)


def test_flops_are_those_that_are_recorded(net: Make, plain: Estimate) -> None:
    assert plain.total_before.flops == record_step(net(), X, optimizer=torch.optim.AdamW).flops


def test_alternating_epochs_cost_the_mean_of_dense_and_peak(net: Make, options: SparseBackward) -> None:
    model = ecograph.optimize(net(), example_inputs=X, passes=[options])
    found = estimate(model, X, device="generic-cpu")
    dense, peak = (record_step(model, X, rates={"sparse_backward": rate}).flops for rate in (0.0, options.drop))
    assert found.total_after.flops == pytest.approx((dense + peak) / 2)
    (only,) = found.passes
    assert only.peak.flops == pytest.approx(dense - peak)
    assert close(only.saved * 2, only.peak)
    assert close(found.total_after + only.saved, found.total_before)


def test_two_passes_share_what_is_saved(net: Make, options: SparseBackward) -> None:
    model = ecograph.optimize(net(), example_inputs=X, passes=[options, SliceOut(rate=0.5, when="always")])
    found = estimate(model, X, device="generic-cpu")
    assert [each.name for each in found.passes] == [options["name"] for options in _passes(model)]
    assert close(found.total_after + total(each.saved for each in found.passes), found.total_before)
    assert all(each.saved.flops > 0 for each in found.passes)


def _passes(model: nn.Module) -> Any:
    from ecograph.record import records

    return records(model)[0].passes


def test_memory_is_that_of_steps_that_are_taken(net: Make, options: SparseBackward) -> None:
    always = ecograph.optimize(net(), example_inputs=X, passes=[SliceOut(rate=0.5, when="always")])
    found = estimate(always, X, device="generic-cpu")
    assert found.memory_after.activations < found.memory_before.activations
    alternating = ecograph.optimize(net(), example_inputs=X, passes=[options])
    found = estimate(alternating, X, device="generic-cpu")
    assert found.memory_after.activations >= found.memory_before.activations  # dense epochs are among them


@pytest.mark.parametrize("count", [1, MOST_RATES, MOST_RATES + 1, 30])
def test_few_rates_have_the_mean_of_many(count: int) -> None:
    mix = {index / count: 1 / count for index in range(count)}
    found = few(mix)
    assert len(found) <= MOST_RATES
    assert sum(found.values()) == pytest.approx(1.0)
    assert sum(rate * share for rate, share in found.items()) == pytest.approx(
        sum(rate * share for rate, share in mix.items())
    )
    if count <= MOST_RATES:
        assert found == mix


def test_the_peak_of_a_gradual_schedule_is_its_highest_rate(net: Make, options: SparseBackward) -> None:
    gradual = replace(options, schedule="linear")
    model = ecograph.optimize(net(), example_inputs=X, passes=[gradual])
    ecograph.Scheduler(model, epochs=12, steps_per_epoch=1)
    (found,) = estimate(model, X, device="generic-cpu").passes
    dense, peak = (record_step(model, X, rates={"sparse_backward": rate}).flops for rate in (0.0, gradual.drop))
    assert found.peak.flops == dense - peak > found.saved.flops > 0


def test_a_device_by_name(net: Make) -> None:
    times = {name: estimate(net(), X, device=name).total_before.seconds for name in ("h100", "t4", "generic-cpu")}
    assert times["h100"] <= times["t4"] and times["h100"] < times["generic-cpu"]
    found = estimate(net(), X, device=generic_cpu(3))
    assert found.device.threads == 3
    with pytest.raises(ValueError, match="device 'h1000' is not known"):
        estimate(net(), X, device="h1000")


def test_json_has_no_number_that_json_does_not_have(sparse: Estimate, net: Make) -> None:
    for found in (sparse, estimate(net(), X, device="h100")):
        data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert data == found.to_dict()
        assert data["device"]["bandwidth"]["source"] == found.device.bandwidth.source
    assert data["device"]["reused"]["value"] is None


def test_a_model_that_is_larger_than_memory() -> None:
    transformers = pytest.importorskip("transformers")
    options = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8}
    config = transformers.LlamaConfig(**options, num_hidden_layers=2, vocab_size=32000)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    ids = torch.zeros(1, 16, dtype=torch.long)
    found = estimate(model, {"input_ids": ids, "labels": ids}, device="h100", optimizer=torch.optim.AdamW)
    parameters = sum(each.numel() for each in model.parameters())
    embedding = 32000 * 8192
    assert found.memory_before.parameters >= 4 * parameters
    assert found.total_before.flops == pytest.approx(6 * 16 * (parameters - embedding), rel=0.05)


def test_notes_say_what_is_rough(net: Make, plain: Estimate) -> None:
    (note,) = plain.notes
    assert "was not measured with" in note and "run ecograph calibrate" in note
    assert not estimate(net(), X, device="h100").notes
    threads = torch.get_num_threads()
    timing = Timing("aten.mm", "matmul", "forward", "", "float32", False, (1, 8, 8, 8), 1024, 768, False, 1e-6)
    device = replace(generic_cpu(threads), name=stored.cpu(threads), timings=(timing,), spread=0.5)
    stored.save(device)
    found = estimate(net(), X, amp="bf16")
    assert found.device == device and found.source.endswith("calibrated here")
    assert found.notes == [
        "products in bfloat16 were not measured, so their times are rough",
        "the calibration was disturbed (spread 50%): run ecograph calibrate again",
    ]


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(x @ self.weight)


def test_what_is_not_counted_is_listed() -> None:
    found = estimate(Odd(), torch.zeros(4, 4), device="h100")
    assert found.uncounted.get("aten.linalg_matrix_exp")
    assert any("aten.linalg_matrix_exp (" in note for note in found.notes)
