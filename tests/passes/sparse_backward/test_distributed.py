"""Two real processes with gloo. One pair runs all the bodies below, since starting it takes most of the time."""

from __future__ import annotations

import pytest
from two_ranks import needs_gloo, on_two_ranks

pytestmark = needs_gloo

COMMON = """
import ecograph
from ecograph.passes import SparseBackward
from ecograph.record import records

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, groups=2)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 5)
    def forward(self, x):
        x = torch.relu(self.body(torch.relu(self.conv(x)))).flatten(2).transpose(1, 2)
        return self.head(self.attend(x, x, x)[0].mean(1))

def build(**options):
    torch.manual_seed(0)
    settings = dict(schedule="constant", when="always", skip_first=False, skip_last=False, min_channels=1)
    return ecograph.optimize(Net(), passes=[SparseBackward(0.75, **{**settings, **options})])

def batch(step, which):
    generator = torch.Generator().manual_seed(100 * step + which)
    return torch.randn(4, 3, 6, 6, generator=generator)

def same_everywhere(tensor):
    other = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(other, tensor.contiguous())
    return torch.equal(other[0], other[1])
"""


BODIES = {
    "ddp_gradients_are_the_mean_of_each_ranks_sparse_ones": """
model = build(schedule="alternate")
reference = build(schedule="alternate")
wrapped = nn.parallel.DistributedDataParallel(model)   # find_unused_parameters is off
scheduler = ecograph.Scheduler(wrapped, epochs=4, steps_per_epoch=1)
ecograph.Scheduler(reference, epochs=1, steps_per_epoch=1)
optimizer = torch.optim.Adam(wrapped.parameters(), lr=0.01)
for step in range(4):
    reference.load_state_dict(model.state_dict())
    (rate,), (own,) = records(model)[0].rates, records(reference)[0].rates
    own.set(rate.now)
    assert rate.now == (0.75 if step % 2 else 0.0)
    means = {}
    for which in range(2):
        reference.zero_grad()
        reference(batch(step, which)).square().mean().backward()
        for name, parameter in reference.named_parameters():
            means[name] = means.get(name, 0) + parameter.grad / 2
    optimizer.zero_grad()
    wrapped(batch(step, rank)).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, means[name])
        assert same_everywhere(parameter.grad), name
        assert parameter.grad.stride() == parameter.stride()
    optimizer.step()
    scheduler.step()
for parameter in model.parameters():
    assert same_everywhere(parameter)
assert ecograph.explain(wrapped).layers[0].rewritten_by
try:
    ecograph.optimize(wrapped)
except ValueError as error:
    assert "optimize first, then wrap it" in str(error)
else:
    raise AssertionError
""",
    "ddp_ticks_on_its_own_and_accumulates": """
model = build(schedule="alternate")
wrapped = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
(rate,) = records(model)[0].rates
seen = []
for step in range(2):
    model.zero_grad()
    with wrapped.no_sync():
        wrapped(batch(2 * step, rank)).square().mean().backward()
        seen.append(rate.now)
    wrapped(batch(2 * step + 1, rank)).square().mean().backward()
    seen.append(rate.now)
    for parameter in model.parameters():
        assert same_everywhere(parameter.grad)
assert seen == [0.0, 0.75, 0.0, 0.75], seen
""",
    "random_channels_differ_by_rank_and_parameters_stay_equal": """
model = build(select="random")
wrapped = nn.parallel.DistributedDataParallel(model)
torch.manual_seed(rank)
optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.01)
for step in range(3):
    optimizer.zero_grad()
    wrapped(batch(step, rank)).square().mean().backward()
    optimizer.step()
for parameter in model.parameters():
    assert same_everywhere(parameter)
""",
    "fully_sharded_gradients_are_those_of_one_process": """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

reference, model = build(), build()
mesh = init_device_mesh("cpu", (2,))
for layer in (model.conv, model.body, model.head):
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
means = {}
for which in range(2):
    reference.zero_grad()
    reference(batch(0, which)).square().mean().backward()
    for name, parameter in reference.named_parameters():
        means[name] = means.get(name, 0) + parameter.grad / 2
model(batch(0, rank)).square().mean().backward()
for name, parameter in model.named_parameters():
    torch.testing.assert_close(parameter.grad.full_tensor(), means[name], msg=name)
assert means["head.bias"].count_nonzero() <= 2
ecograph.restore(model)
assert not any("Sparse" in str(type(m).__mro__) for m in model.modules())
assert type(model.conv).__name__ == "FSDPConv2d"
model(batch(0, rank)).square().mean().backward()
""",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    return on_two_ranks(tmp_path_factory.mktemp("ranks"), COMMON, BODIES)


@pytest.mark.parametrize("name", BODIES)
def test_on_two_ranks(name: str, results: list[dict[str, str]]) -> None:
    for rank in results:
        assert rank[name] == "", rank[name]
