"""What is sharded, block by block; and that a model is afterwards what it was."""

from __future__ import annotations

import pytest
from torch import nn
from two_ranks import needs_gloo, on_two_ranks

from ecograph.loop.distributed import blocks

COMMON = """
import copy
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from ecograph.loop.distributed import Sharding, blocks, of_parts

mesh = init_device_mesh("cpu", (2,))

class Tied(nn.Module):
    # A language model in small: the head has the weights of the embedding.
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)) for _ in range(2))
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x):
        x = self.embedding(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x * self.scale)

def build(seed=0):
    torch.manual_seed(seed)
    return Tied().double()

def step(model, optimizer):
    x = torch.arange(7).roll(rank)
    optimizer.zero_grad()
    F.cross_entropy(model(x), x).backward()
    optimizer.step()

def shard(model, optimizer):
    sharding = Sharding(model, optimizer)
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    sharding.point_optimizer()
    return sharding

def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}
"""

BODIES = {
    "sharded_and_whole_again": """
model = build(rank)
model.register_forward_hook(lambda module, args, output: None)
before = {name: dict(module.__dict__) for name, module in model.named_modules()}
hooks = {name: len(module._forward_pre_hooks) for name, module in model.named_modules()}
types = {name: type(module) for name, module in model.named_modules()}
parameters = dict(model.named_parameters(remove_duplicate=False))
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
sharding = shard(model, optimizer)
assert all(isinstance(each, DTensor) for each in model.parameters())
assert all(isinstance(each, DTensor) for each in optimizer.param_groups[0]["params"])
assert isinstance(model.layers[0], FSDPModule) and not isinstance(model.head, FSDPModule)
assert model.head.weight is model.embedding.weight
for each in parameters.values():
    assert each.numel() == 0, "its memory is free"
step(model, optimizer)
expected = {name: getattr(value, "full_tensor", lambda: value)() for name, value in weights(model).items()}
sharding.undo()
assert {name: type(module) for name, module in model.named_modules()} == types
for name, module in model.named_modules():
    assert list(module.__dict__) == list(before[name]), name
    assert len(module._forward_pre_hooks) == hooks[name]
after = dict(model.named_parameters(remove_duplicate=False))
assert list(after) == list(parameters) and all(after[name] is parameters[name] for name in after)
assert model.head.weight is model.embedding.weight and not model.scale.requires_grad
assert all(torch.equal(value, expected[name]) for name, value in weights(model).items())
assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], model.parameters(), strict=True))
assert all(each.grad is None for each in model.parameters()) and not optimizer.state

# It can be trained, copied and sharded again.
step(copy.deepcopy(model), torch.optim.SGD(model.parameters(), lr=0.1))
step(model, optimizer)
again = shard(model, optimizer)
step(model, optimizer)
again.undo()
""",
    "the_state_of_an_optimizer_goes_along": """
one, other = build(), build()
optimizers = [torch.optim.Adam(model.parameters(), lr=0.1) for model in (one, other)]
def whole_step(model, optimizer):
    optimizer.zero_grad()
    for which in range(2):
        x = torch.arange(7).roll(which)
        (F.cross_entropy(model(x), x) / 2).backward()
    optimizer.step()
for model, optimizer in zip((one, other), optimizers):
    whole_step(model, optimizer)
sharding = shard(other, optimizers[1])
state = optimizers[1].state[other.embedding.weight]
assert isinstance(state["exp_avg"], DTensor) and not isinstance(state["step"], DTensor)
whole_step(one, optimizers[0])
step(other, optimizers[1])
sharding.undo()
for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
    torch.testing.assert_close(a, b, msg=name)
""",
    "a_model_that_is_sharded_already_stays_so": """
model = fully_shard(build(), mesh=mesh)
assert list(blocks(model)) == []
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
sharding = shard(model, optimizer)
step(model, optimizer)
sharding.undo()
assert isinstance(model, FSDPModule) and all(isinstance(each, DTensor) for each in model.parameters())
""",
    "an_average_of_parts": """
model, single = build(), build()
averages = [AveragedModel(each, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True) for each in (model, single)]
averages[0].multi_avg_fn = of_parts(averages[0].multi_avg_fn)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
sharding = shard(model, optimizer)
for block in blocks(averages[0].module):
    fully_shard(block, mesh=mesh)
for _ in range(3):
    step(model, optimizer)
    with torch.no_grad():
        for (name, value), part in zip(single.state_dict().items(), model.state_dict().values(), strict=True):
            value.copy_(part.full_tensor() if isinstance(part, DTensor) else part)
    for average, each in zip(averages, (model, single)):
        average.update_parameters(each)
for (name, value), part in zip(averages[1].state_dict().items(), averages[0].state_dict().values(), strict=True):
    torch.testing.assert_close(part.full_tensor() if isinstance(part, DTensor) else part, value, msg=name)
""",
}


@needs_gloo
def test_on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> None:
    for rank in on_two_ranks(tmp_path_factory.mktemp("ranks"), COMMON, BODIES):
        assert rank == dict.fromkeys(BODIES, "")


def found(model: nn.Module) -> list[str]:
    names = {module: name for name, module in model.named_modules()}
    return [names[block] for block in blocks(model)]


def test_blocks_are_the_entries_of_the_outermost_lists() -> None:
    layer = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model = nn.ModuleDict({"stem": nn.Linear(2, 2), "body": nn.ModuleList([layer, nn.Linear(2, 2), nn.ReLU()])})
    assert found(model) == ["body.0", "body.1", ""]
    assert found(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Sequential(nn.Linear(2, 2)))) == ["0", "2", ""]
    assert found(nn.Linear(2, 2)) == [""]
    stages = nn.ModuleDict({"stages": nn.ModuleList([nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])])})
    assert found(stages) == ["stages.0.0", "stages.0.1", ""]


def test_a_block_that_shares_a_weight_belongs_to_the_rest() -> None:
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    tied[2].weight = tied[0].weight
    assert found(tied) == ["1", ""]
    twice = nn.Linear(2, 2)
    assert found(nn.Sequential(twice, nn.Linear(2, 2), twice)) == ["1", ""]
