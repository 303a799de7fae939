"""Two real processes with gloo. One pair runs all the bodies below, since starting it takes most of the time."""

from __future__ import annotations

import pytest
from two_ranks import needs_gloo, on_two_ranks

pytestmark = needs_gloo

COMMON = """
import ecograph
from ecograph.passes import SliceOut
from ecograph.record import records

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.body = nn.Conv2d(32, 16, 3)
        self.attend = nn.MultiheadAttention(16, 4, batch_first=True)
        self.up, self.head = nn.Linear(16, 64), nn.Linear(64, 5)
    def forward(self, x):
        x = self.body(F.relu(self.norm(self.conv(x)))).flatten(2).transpose(1, 2)
        return self.head(F.gelu(self.up((x + self.attend(x, x, x)[0]).mean(1))))

def build(seed=0, **options):
    torch.manual_seed(seed)
    settings = dict(min_width=8, starts="any", align=1, when="always")
    model = ecograph.optimize(Net(), example_inputs=torch.randn(4, 3, 6, 6), passes=[SliceOut(**settings | options)])
    assert len(starts(model)) >= 2, starts(model)
    return model

def starts(model):
    return [g.slice.start for g in records(model)[0].groups if g.slice is not None]

def batch(step, which):
    generator = torch.Generator().manual_seed(100 * step + which)
    return torch.randn(4, 3, 6, 6, generator=generator)

def same_everywhere(tensor):
    other = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(other, tensor.contiguous())
    return torch.equal(other[0], other[1])
"""


BODIES = {
    "ddp_slices_are_the_same_and_gradients_the_mean": """
model = build(schedule="alternate")
wrapped = nn.parallel.DistributedDataParallel(model)   # find_unused_parameters is off
reference = build(schedule="alternate")
scheduler = ecograph.Scheduler(wrapped, epochs=6, steps_per_epoch=1)
plan = ecograph.Scheduler(reference, epochs=6, steps_per_epoch=1)
optimizer = torch.optim.AdamW(wrapped.parameters(), lr=0.01)
seen = set()
for step in range(6):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    means = {}
    for which in range(2):
        reference.load_state_dict(state)
        reference.zero_grad()
        reference(batch(step, which)).square().mean().backward()
        for name, parameter in reference.named_parameters():
            means[name] = means.get(name, 0) + parameter.grad / 2
    optimizer.zero_grad()
    wrapped(batch(step, rank)).square().mean().backward()
    assert starts(model) == starts(reference)
    assert same_everywhere(torch.tensor(starts(model)))
    seen.add(tuple(starts(model)))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, means[name], msg=name)
        assert same_everywhere(parameter.grad), name
        assert parameter.grad.stride() == parameter.stride()
    assert bool(model.up.bias.grad.eq(0).any()) is (step % 2 == 1)
    optimizer.step()
    scheduler.step()
    plan.step()
assert len(seen) > 2
for parameter in model.parameters():
    assert same_everywhere(parameter)
assert "sliceout" in ecograph.explain(wrapped).layers[0].rewritten_by
""",
    "ddp_without_a_scheduler_whatever_the_ranks_random_numbers": """
model = build(seed=0)
wrapped = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
torch.manual_seed(rank)
torch.rand(3 + rank)
optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.01, momentum=0.9)
seen = set()
for step in range(5):
    optimizer.zero_grad()
    wrapped(batch(step, rank)).square().mean().backward()
    optimizer.step()
    assert same_everywhere(torch.tensor(starts(model)))
    seen.add(tuple(starts(model)))
assert len(seen) > 2
for parameter in model.parameters():
    assert same_everywhere(parameter)
""",
    "ddp_accumulates_without_synchronizing": """
model = build()
wrapped = nn.parallel.DistributedDataParallel(model)
scheduler = ecograph.Scheduler(wrapped, epochs=3, steps_per_epoch=1)
for step in range(3):
    model.zero_grad()
    with wrapped.no_sync():
        wrapped(batch(2 * step, rank)).square().mean().backward()
    before = starts(model)
    assert not same_everywhere(model.head.bias.grad)
    wrapped(batch(2 * step + 1, rank)).square().mean().backward()
    assert starts(model) == before
    for parameter in model.parameters():
        assert same_everywhere(parameter.grad)
    assert model.up.bias.grad.eq(0).sum() == 32
    scheduler.step()
""",
    "ddp_with_steps_kept_to_the_slice": """
model = build(update="slice")
wrapped = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.AdamW(wrapped.parameters(), lr=0.01, weight_decay=0.1)
for step in range(4):
    before = model.up.weight.detach().clone()
    optimizer.zero_grad()
    wrapped(batch(step, rank)).square().mean().backward()
    optimizer.step()
    assert (model.up.weight != before).any(1).sum() == 32
for parameter in model.parameters():
    assert same_everywhere(parameter)
""",
    "fully_sharded_gradients_are_those_of_one_process": """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

reference, model = build(), build()
mesh = init_device_mesh("cpu", (2,))
for layer in (model.conv, model.body, model.up, model.head):
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
state = {k: v.clone() for k, v in reference.state_dict().items()}
means = {}
ecograph.Scheduler(reference, epochs=1, steps_per_epoch=9)
ecograph.Scheduler(model, epochs=1, steps_per_epoch=9)
for which in range(2):
    reference.load_state_dict(state)
    reference.zero_grad()
    reference(batch(0, which)).square().mean().backward()
    for name, parameter in reference.named_parameters():
        means[name] = means.get(name, 0) + parameter.grad / 2
model(batch(0, rank)).square().mean().backward()
assert starts(model) == starts(reference)
for name, parameter in model.named_parameters():
    torch.testing.assert_close(parameter.grad.full_tensor(), means[name], msg=name)
ecograph.restore(model)
assert not any("Sliced" in str(type(m).__mro__) for m in model.modules())
model(batch(0, rank)).square().mean().backward()
""",
    "sharded_parameters_are_refused_where_steps_are_kept_to_the_slice": """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

model = build(update="slice")
fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(batch(0, rank)).square().mean().backward()
try:
    optimizer.step()
except ValueError as error:
    assert 'sharded' in str(error) and 'update="autograd"' in str(error), error
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
