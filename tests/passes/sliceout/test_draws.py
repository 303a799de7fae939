from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from ecograph.passes.sliceout.draws import BITS, SliceRate, draw, group_key, scramble
from ecograph.schedule import Ticker


def drawn(steps: int, *names: str, seed: int = 0) -> Tensor:
    """``(steps, names)``."""
    keys = torch.tensor([group_key(seed, name) for name in names])
    return torch.stack([draw(torch.tensor(step), keys) for step in range(steps)])


def chi_square(values: Tensor, cells: int) -> float:
    counts = torch.bincount(values * cells >> BITS, minlength=cells).double()
    expected = values.numel() / cells
    return float(((counts - expected) ** 2 / expected).sum())


def test_scramble_is_one_to_one_and_stays_within_31_bits() -> None:
    x = torch.randint(0, 1 << BITS, (200_000,)).unique()
    y = scramble(x)
    assert y.unique().numel() == x.numel()
    assert 0 <= int(y.min()) <= int(y.max()) < 1 << BITS
    assert [scramble(int(v)) for v in x[:100]] == y[:100].tolist(), "the same on ints, which cannot overflow"


def test_one_changed_bit_changes_half_of_all_bits() -> None:
    x = torch.randint(0, 1 << BITS, (2000,))
    for bit in range(BITS):
        changed = scramble(x) ^ scramble(x ^ (1 << bit))
        share = sum(int((changed >> i & 1).sum()) for i in range(BITS)) / (BITS * x.numel())
        assert 0.4 < share < 0.6, bit


# 0.1% of true uniforms exceed these.
@pytest.mark.parametrize(("cells", "limit"), [(3, 13.8), (7, 22.5), (17, 39.3), (100, 149.0)])
def test_draws_are_uniform_over_steps_and_over_names(cells: int, limit: float) -> None:
    for seed in (0, 1, 12345):
        assert chi_square(drawn(5000, "blocks.0.mlp.fc1", seed=seed).flatten(), cells) < limit
        names = [f"blocks.{i}.mlp.fc1" for i in range(5000)]
        assert chi_square(drawn(1, *names, seed=seed).flatten(), cells) < limit
    seeds = torch.stack([drawn(1, "fc1", seed=seed).flatten() for seed in range(5000)])
    assert chi_square(seeds.flatten(), cells) < limit


def test_draws_of_groups_steps_and_seeds_are_independent() -> None:
    values = drawn(4000, "a", "b", "blocks.1.fc", "blocks.2.fc").double() / 2**BITS
    for other in (drawn(4000, "a", seed=1).double() / 2**BITS, values[:, 1:2], values.roll(1, 0)[:, :1]):
        both = torch.corrcoef(torch.cat((values[:, :1], other), 1).T)[0, 1]
        assert abs(both) < 0.06
    assert abs(torch.corrcoef(values[:, 2:].T)[0, 1]) < 0.06


def test_a_group_draws_the_same_whatever_other_groups_there_are() -> None:
    alone, among = SliceRate(0.5, "constant", 3), SliceRate(0.5, "constant", 3)
    first = alone.register("fc")
    among.register("other")
    second = among.register("fc")
    among.register("last")
    assert (first, second, among.register("fc")) == (0, 1, 1)
    for _ in range(5):
        alone.tick()
        among.tick()
        assert alone.draws[0] == among.draws[1]


def test_the_same_draws_in_another_process() -> None:
    program = (
        "from ecograph.passes.sliceout.draws import SliceRate\n"
        "rate = SliceRate(0.5, 'constant', 11)\n"
        "rate.register('layers.0.fc1'); rate.register('layers.1.fc1'); rate.move_to(1234)\n"
        "print(rate.draws.tolist())"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    rate = SliceRate(0.5, "constant", 11)
    rate.register("layers.0.fc1")
    rate.register("layers.1.fc1")
    for _ in range(1234):
        rate.tick()
    assert found.stdout.strip() == str(rate.draws.tolist())


def test_ticks_and_moves_reach_the_same_draws() -> None:
    rate, moved = SliceRate(0.5, "alternate"), SliceRate(0.5, "alternate")
    for each in (rate, moved):
        each.register("a")
    seen = [int(rate.draws)]
    for step in range(1, 6):
        rate.tick()
        moved.move_to(step)
        assert torch.equal(rate.draws, moved.draws)
        assert int(rate.step) == int(moved.step) == step
        seen.append(int(rate.draws))
    assert len(set(seen)) == 6
    assert rate.now == 0.0, "the schedule ticks too: five ticks of a round of two, dense first"


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on_by_themselves(how: str) -> None:
    rate = SliceRate(0.5, "constant", 5)
    rate.register("a")
    rate.tick()
    twin = copy.deepcopy(rate) if how == "deepcopy" else pickle.loads(pickle.dumps(rate))
    assert torch.equal(twin.draws, rate.draws)
    before = rate.draws.clone()
    twin.tick()
    assert torch.equal(rate.draws, before)
    rate.tick()
    assert torch.equal(twin.draws, rate.draws)
    assert (twin.register("a"), twin.register("b")) == (0, 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_forwards_draw_as_eager_ones_do() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.rate = SliceRate(0.5, "constant", 2)
            for name in ("a", "b", "c"):
                self.rate.register(name)
            self.register_forward_pre_hook(Ticker([self.rate]))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) + self.rate.draws[:3] % 5

    torch._dynamo.reset()
    eager, other = Net(), Net()
    other.load_state_dict(eager.state_dict())
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(other, backend=counter, fullgraph=True)
    x, compilations = torch.randn(2, 3), 0
    for step in range(1, 21):
        assert torch.equal(eager(x), compiled(x))
        assert torch.equal(eager.rate.draws, other.rate.draws)
        assert int(other.rate.step) == step
        compilations = counter.frame_count if step == 1 else compilations
    assert counter.frame_count == compilations <= 2, "Dynamo compiles the hook by itself"
