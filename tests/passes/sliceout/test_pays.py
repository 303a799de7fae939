"""On a CPU that nobody has measured, whose figures are in the repository."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ecograph
from ecograph.analysis.channels import find_channels
from ecograph.analysis.sites import find_sites
from ecograph.capture import capture
from ecograph.cost.devices import Roofline, find_device
from ecograph.cost.pays import Verdict
from ecograph.passes import SliceOut
from ecograph.passes.sliceout.draws import SliceRate
from ecograph.passes.sliceout.pays import _dropped, group_verdicts
from ecograph.record import records
from ecograph.rewrite.slicing import find_slicing


class Mlp(nn.Module):
    """A wide hidden layer, and a narrow one."""

    def __init__(self, wide: int = 1024, narrow: int = 32) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(256, wide), nn.Linear(wide, 256)
        self.first, self.second = nn.Linear(256, narrow), nn.Linear(narrow, 256)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.down(torch.relu(self.up(x)))
        return x + self.second(torch.relu(self.first(x)))


def decided(model: nn.Module, x: Tensor, **options: object) -> dict[str, str]:
    ecograph.optimize(model, example_inputs=x, passes=[SliceOut(0.5, **options)])
    return {group.name: group.reason for group in records(model)[0].groups}


def test_a_wide_group_pays_and_a_narrow_one_does_not() -> None:
    found = decided(Mlp(), torch.empty(64, 256))
    assert found["up"] == "" and found["first"].startswith("does not pay: saves ")
    assert decided(Mlp(), torch.empty(256, 256), when="always")["first"] == ""


@pytest.mark.filterwarnings("ignore::ecograph.NoEffectWarning")
def test_it_depends_on_the_batch() -> None:
    reasons = [decided(Mlp(64), torch.empty(rows, 256))["up"] for rows in (1, 100_000)]
    assert reasons[0].startswith("does not pay") and reasons[1] == ""


def test_explain_gives_the_figures() -> None:
    model = ecograph.optimize(Mlp(), example_inputs=torch.empty(64, 256), passes=[SliceOut(0.5)])
    reason = {layer.name: layer.reason for layer in ecograph.explain(model).layers}["first"]
    assert reason.startswith("in no group that is sliced: does not pay: saves ") and "costs" in reason


def test_where_nothing_pays_it_is_said() -> None:
    with pytest.warns(ecograph.NoEffectWarning, match="does not pay"):
        ecograph.optimize(Mlp(32), example_inputs=torch.empty(1, 256), passes=[SliceOut(0.5)])


class Dense(nn.Module):
    """Layers whose outputs are joined: what reads them reads many groups."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(64 * at + 3, 64, 3, padding=1) for at in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm2d(64) for _ in range(layers))
        self.head = nn.Conv2d(64 * layers + 3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.cat([x, torch.relu(norm(layer(x)))], 1)
        return self.head(x)


def test_what_the_groups_save_is_what_all_of_them_save_together() -> None:
    model, x = Dense(3), torch.empty(4, 3, 16, 16)
    captured = capture(model, x)
    sites = find_sites(captured, model)
    channels = find_channels(captured, sites, model)
    slicing = find_slicing(captured.graphs, channels, sites, model)
    rate = SliceRate(0.5, "constant")
    rate.without_data()
    slices = SliceOut(0.5)._slices(channels.groups, rate, None)
    assert len(slices) == 3
    found = group_verdicts(channels.groups, slices, slicing, model, Roofline(find_device("generic-cpu")))
    assert set(found) == set(slices)
    total = sum(found.values(), Verdict(0.0, 0.0))
    assert total.saves > total.costs > 0
    # The first of them is read by most layers, and saves most; each call is counted once.
    saves = [found[group.name].saves for group in channels.groups]
    assert saves == sorted(saves, reverse=True)
    for cut in slicing.products.values():
        parts = _dropped((cut.out, cut.inp, cut.groups), slices)
        assert sum(parts.values()) == pytest.approx(1.0)
