"""Two real processes with gloo. One pair runs all the bodies below, since starting it takes most of the time."""

from __future__ import annotations

import pytest
from two_ranks import needs_gloo, on_two_ranks

pytestmark = needs_gloo

COMMON = """
import copy, io
from ecograph.passes import GradSamp
from ecograph.passes.gradsamp import EpochSampler

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, 7), nn.Linear(7, 1),
    )

def train(sampler, model, optimizer, epochs, *, same_data=False, start=0):
    for epoch in range(start, epochs):
        if not sampler.on_epoch_start(model):
            generator = torch.Generator().manual_seed(2 * epoch + (0 if same_data else rank))
            optimizer.zero_grad()
            model(torch.randn(4, 3, 6, 6, generator=generator)).square().mean().backward()
            optimizer.step()
        with torch.no_grad():  # an evaluation
            model.eval()(torch.ones(2, 3, 6, 6))
            model.train()

def whole(parameter):
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter

def same(first, second):
    return all(torch.equal(whole(a), whole(b)) for a, b in zip(first.parameters(), second.parameters(), strict=True))

def same_everywhere(tensor):
    tensor = tensor.detach().contiguous()
    other = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(other, tensor)
    return torch.equal(other[0], other[1])

def adam(model):
    return torch.optim.Adam(model.parameters(), lr=0.01)
"""

SHARD = """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
mesh = init_device_mesh("cpu", (2,))
def shard(model):
    fully_shard(model[4], mesh=mesh)
    return fully_shard(model, mesh=mesh)
"""

BODIES = {
    "ddp_moves_every_rank_to_the_same_weights": """
model = build()
wrapped = nn.parallel.DistributedDataParallel(model)
torch.manual_seed(rank)  # whatever the ranks' own random numbers are
for granularity in ("tensor", "channel", "model", "element"):
    sampler = EpochSampler(GradSamp(every=3, granularity=granularity))
    train(sampler, wrapped, adam(wrapped), 2)
    before, state = copy.deepcopy(model), sampler.state_dict()
    assert sampler.on_epoch_start(wrapped)
    for parameter, other in zip(model.parameters(), before.parameters(), strict=True):
        assert not torch.equal(parameter, other)
        assert same_everywhere(parameter)
    alone = EpochSampler(GradSamp(every=3, granularity=granularity))
    alone.load_state_dict(state)  # a checkpoint of the wrapped model fits the model that is not
    assert alone.on_epoch_start(before)
    assert same(before, model)
""",
    "ddp_stays_together_over_a_training": """
wrapped = nn.parallel.DistributedDataParallel(build())
train(EpochSampler(GradSamp(probability=0.5, seed=1)), wrapped, adam(wrapped), 9)
assert all(same_everywhere(parameter) for parameter in wrapped.parameters())
""",
    "fully_sharded_it_is_the_training_of_one_process": SHARD
    + """
for granularity in ("tensor", "channel", "model", "element"):
    for where in ("device", "cpu"):
        gradsamp = GradSamp(every=3, granularity=granularity, snapshot=where)
        reference, model = build(), shard(build())
        optimizer = adam(model)
        train(EpochSampler(gradsamp), reference, adam(reference), 5, same_data=True)
        train(EpochSampler(gradsamp), model, optimizer, 5, same_data=True)
        assert same(reference, model), (granularity, where)
        assert all(isinstance(p, DTensor) for p in optimizer.param_groups[0]["params"])
""",
    "fully_sharded_resumes_from_the_state_of_each_rank": SHARD
    + """
model = shard(build())
optimizer = adam(model)
sampler = EpochSampler(GradSamp(every=3))
train(sampler, model, optimizer, 2)
before, state = copy.deepcopy(model.state_dict()), sampler.state_dict()
assert sampler.on_epoch_start(model)
moved = [whole(parameter).clone() for parameter in model.parameters()]
model.load_state_dict(before)
resumed = EpochSampler(GradSamp(every=3))
resumed.load_state_dict(state)
assert resumed.on_epoch_start(model)
assert all(torch.equal(whole(a), b) for a, b in zip(model.parameters(), moved, strict=True))
""",
    "tensor_parallel_it_is_the_training_of_one_process": """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

def build_pair():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

reference, model = build_pair(), build_pair()
parallelize_module(model, init_device_mesh("cpu", (2,)), {"0": ColwiseParallel(), "2": RowwiseParallel()})
for each in (reference, model):
    sampler = EpochSampler(GradSamp(every=3, granularity="channel"))
    sampler.on_epoch_start(each, 1)
    with torch.no_grad():
        for parameter in each.parameters():
            parameter.mul_(parameter)
    assert sampler.on_epoch_start(each, 2)
assert same(reference, model)
""",
    "the_older_fsdp_is_refused": """
from torch.distributed.fsdp import FullyShardedDataParallel
model = FullyShardedDataParallel(build(), device_id=torch.device("cpu"))
sampler = EpochSampler(GradSamp(every=3))
sampler.on_epoch_start(model, 0)
try:
    sampler.on_epoch_start(model, 1)
except ValueError as error:
    assert "fully_shard" in str(error) and "FullyShardedDataParallel" in str(error), error
else:
    raise AssertionError("not refused")
""",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    return on_two_ranks(tmp_path_factory.mktemp("ranks"), COMMON, BODIES)


@pytest.mark.parametrize("name", BODIES)
def test_on_two_ranks(name: str, results: list[dict[str, str]]) -> None:
    for rank in results:
        assert rank[name] == "", rank[name]
