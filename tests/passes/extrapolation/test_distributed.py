"""Two real processes with gloo. One pair runs all the bodies below, since starting it takes most of the time."""

from __future__ import annotations

import pytest
from two_ranks import needs_gloo, on_two_ranks

pytestmark = needs_gloo

COMMON = """
import copy, io, math
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel as DDP
from ecograph.loop import TrainingLoop
from ecograph.passes import Extrapolate
from ecograph.passes.extrapolation import Extrapolation

RADIUS, LR, STEPS = 0.3, 0.1, 5

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()

def batch(step, which):
    generator = torch.Generator().manual_seed(100 * step + which)
    x = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (4,), generator=generator)

def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)

def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}

def watch(model):
    # The weights at each forward.
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(weights(module)))
    return seen

def gradient(model, at, *batches):
    # The mean of the losses' gradients at some weights, without touching the model.
    leaves = {name: w.clone().requires_grad_() for name, w in at.items()}
    losses = [F.cross_entropy(functional_call(model, leaves, (x,)), y) for x, y in batches]
    found = torch.autograd.grad(sum(losses) / len(losses), list(leaves.values()))
    return dict(zip(leaves, found))

def same_everywhere(tensor):
    other = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(other, tensor.contiguous())
    return torch.equal(other[0], other[1])

def close(first, second):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=name)

def written_out(directions, batches_of=lambda step: [[(step, 0)], [(step, 1)]]):
    # Heavy-ball SGD by hand: `directions(rank, own gradients of the last step)` says where each worker goes.
    model = build()
    w = weights(model)
    velocity = {name: torch.zeros_like(v) for name, v in w.items()}
    last = [None, None]
    places = [[], []]
    for step in range(STEPS):
        own = []
        for worker in range(2):
            ahead = directions(worker, last)
            place = dict(w) if ahead is None else {n: w[n] - RADIUS * ahead[n] for n in w}
            places[worker].append(place)
            own.append(gradient(model, place, *(batch(*which) for which in batches_of(step)[worker])))
        last = own
        for name in w:
            velocity[name] = 0.9 * velocity[name] + (own[0][name] + own[1][name]) / 2
            w[name] = w[name] - LR * velocity[name]
    return w, places

def local(worker, last):
    return last[worker]

def mean(worker, last):
    return None if last[0] is None else {n: (last[0][n] + last[1][n]) / 2 for n in last[0]}

def train(wrapped, extrapolation, optimizer, steps=range(STEPS)):
    for step in steps:
        optimizer.zero_grad()
        with extrapolation.shifted():
            x, y = batch(step, rank)
            F.cross_entropy(wrapped(x), y).backward()
        extrapolation.update()
        optimizer.step()
        for parameter in wrapped.parameters():
            assert same_everywhere(parameter.detach())
"""


BODIES = {
    "past_is_what_one_process_does_on_the_joint_batch": """
model = build()
places = watch(model)
wrapped = DDP(model)
optimizer = sgd(wrapped)
train(wrapped, Extrapolation(wrapped, optimizer, radius=RADIUS), optimizer)
expected, expected_places = written_out(mean)
close(weights(model), expected)
for found, place in zip(places, expected_places[rank], strict=True):
    close(found, place)
    assert all(same_everywhere(w) for w in found.values())
""",
    "noise_is_the_same_on_all_ranks_and_in_one_process": """
model = build()
places = watch(model)
wrapped = DDP(model)
optimizer = sgd(wrapped)
torch.manual_seed(rank)
torch.rand(3 + rank)
train(wrapped, Extrapolation(wrapped, optimizer, radius=0.1, direction="noise", seed=5), optimizer)
single = build()
seen = watch(single)
optimizer = sgd(single)
extrapolation = Extrapolation(single, optimizer, radius=0.1, direction="noise", seed=5)
for step in range(STEPS):
    optimizer.zero_grad()
    x, y = (torch.cat(parts) for parts in zip(batch(step, 0), batch(step, 1)))
    with extrapolation.shifted():
        F.cross_entropy(single(x), y).backward()
    extrapolation.update()
    optimizer.step()
close(weights(model), weights(single))
assert len(places) == len(seen) == STEPS
for found, place in zip(places, seen):
    close(found, place)
    assert all(same_everywhere(w) for w in found.values())
""",
    "local_moves_each_worker_by_its_own_gradient": """
model = build()
places = watch(model)
wrapped = DDP(model)
optimizer = sgd(wrapped)
train(wrapped, Extrapolation(wrapped, optimizer, radius=RADIUS, direction="local"), optimizer)
expected, expected_places = written_out(local)
close(weights(model), expected)
for step, (found, place) in enumerate(zip(places, expected_places[rank], strict=True)):
    close(found, place)
    assert same_everywhere(found["0.weight"]) is (step == 0)
""",
    "local_with_gradients_that_are_views_of_buckets": """
model = build()
wrapped = DDP(model, gradient_as_bucket_view=True, bucket_cap_mb=0.0002)
optimizer = sgd(wrapped)
train(wrapped, Extrapolation(wrapped, optimizer, radius=RADIUS, direction="local"), optimizer)
close(weights(model), written_out(local)[0])
""",
    "local_accumulates_with_and_without_synchronizing": """
pairs = lambda step: [[(2 * step, 0), (2 * step + 1, 0)], [(2 * step, 1), (2 * step + 1, 1)]]
expected, places = written_out(local, pairs)
for synchronize in (False, True):
    for view in (False, True):
        model = build()
        seen = watch(model)
        wrapped = DDP(model, gradient_as_bucket_view=view)
        optimizer = sgd(wrapped)
        extrapolation = Extrapolation(wrapped, optimizer, radius=RADIUS, direction="local")
        for step in range(STEPS):
            optimizer.zero_grad(set_to_none=not view)
            with extrapolation.shifted():
                for number, (s, which) in enumerate(pairs(step)[rank]):
                    x, y = batch(s, which)
                    if number == 0 and not synchronize:
                        with wrapped.no_sync():
                            (F.cross_entropy(wrapped(x), y) / 2).backward()
                    else:
                        (F.cross_entropy(wrapped(x), y) / 2).backward()
            extrapolation.update()
            optimizer.step()
        close(weights(model), expected)
        for found, place in zip(seen[::2], places[rank], strict=True):
            close(found, place)
        for first, second in zip(seen[::2], seen[1::2], strict=True):
            assert all(torch.equal(first[n], second[n]) for n in first)
""",
    "local_hook_averages_as_ddp_does_without_it": """
plain, hooked = DDP(build()), DDP(build())
Extrapolation(hooked, sgd(hooked), radius=0.0, direction="local")
x, y = batch(0, rank)
for wrapped in (plain, hooked):
    F.cross_entropy(wrapped(x), y).backward()
for a, b in zip(plain.parameters(), hooked.parameters()):
    assert torch.equal(a.grad, b.grad)
""",
    "local_composes_with_another_hook": """
calls = []
def reduce(bucket):
    calls.append(bucket.index())
    return fp16_compress_hook(None, bucket)
plain = DDP(build().float())
plain.register_comm_hook(None, fp16_compress_hook)
wrapped = DDP(build().float())
optimizer = sgd(wrapped)
extrapolation = Extrapolation(wrapped, optimizer, radius=RADIUS, direction="local", reduce=reduce)
x, y = batch(0, rank)
F.cross_entropy(plain(x.float()), y).backward()
with extrapolation.shifted():
    F.cross_entropy(wrapped(x.float()), y).backward()
extrapolation.update()
assert calls
for a, b in zip(plain.parameters(), wrapped.parameters()):
    assert torch.equal(a.grad, b.grad)
own = gradient(build(), weights(build()), batch(0, rank))
for name, g in zip(own, extrapolation.state_dict()["gradients"].values()):
    assert g.shape == (2, *own[name].shape)  # of both workers
    # this worker's, and not compressed
    torch.testing.assert_close(g.to_local()[0].double(), own[name], rtol=1e-4, atol=1e-6)
try:
    Extrapolation(plain, sgd(plain), radius=1.0, direction="local")
except ValueError as error:
    assert "reduce" in str(error), error
else:
    raise AssertionError("not refused")
""",
    "local_again_on_the_same_model": """
wrapped = DDP(build())
optimizer = sgd(wrapped)
first = Extrapolation(wrapped, optimizer, radius=RADIUS, direction="local")
train(wrapped, first, optimizer, range(2))
first.stop()
train(wrapped, first, optimizer, range(2, 4))
second = Extrapolation(wrapped, optimizer, radius=RADIUS, direction="local")
train(wrapped, second, optimizer, range(2))
assert len(second.state_dict()["gradients"]) == 4 and not first.state_dict()["gradients"]
""",
    "local_with_a_scaler_skips_for_all_where_one_overflows": """
model = build().float()
seen = watch(model)
wrapped = DDP(model)
optimizer = sgd(wrapped)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
extrapolation = Extrapolation(wrapped, optimizer, radius=RADIUS, direction="local")
before = []
for step in range(4):
    before.append(weights(model))
    x, y = batch(step, rank)
    x = x.float() * (math.inf if step == 1 and rank == 1 else 1)
    optimizer.zero_grad()
    with extrapolation.shifted():
        scaler.scale(F.cross_entropy(wrapped(x), y)).backward()
    extrapolation.update(loss_scale=scaler.get_scale())
    scaler.step(optimizer)
    scaler.update()
moved = [any(not torch.equal(at[n], w[n]) for n in w) for at, w in zip(seen, before)]
assert moved == [False, True, False, True], moved
assert all(torch.equal(before[1][n], before[2][n]) for n in before[1])  # step 1 was left out
own = gradient(model, before[0], (batch(0, rank)[0].float(), batch(0, rank)[1]))
for name, w in before[1].items():
    torch.testing.assert_close(seen[1][name], w - RADIUS * own[name])
for parameter in model.parameters():
    assert same_everywhere(parameter.detach())
""",
    "the_emitted_loop": """
for direction, expected in (("past", written_out(mean)[0]), ("local", written_out(local)[0])):
    model = build()
    wrapped = DDP(model)
    loop = TrainingLoop(1, passes=[Extrapolate(radius=RADIUS, direction=direction)], progress=False)
    loop.run(wrapped, sgd(wrapped), F.cross_entropy, [batch(step, rank) for step in range(STEPS)])
    close(weights(model), expected)
""",
    "fully_sharded_weights_are_those_of_one_process": """
for direction in ("past", "noise"):
    single, model = build(), build()
    mesh = init_device_mesh("cpu", (2,))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizers = sgd(single), sgd(model)
    both = [Extrapolation(m, o, radius=RADIUS, direction=direction) for m, o in zip((single, model), optimizers)]
    for step in range(STEPS):
        for optimizer in optimizers:
            optimizer.zero_grad()
        with both[0].shifted():
            x, y = (torch.cat(parts) for parts in zip(batch(step, 0), batch(step, 1)))
            F.cross_entropy(single(x), y).backward()
        with both[1].shifted():
            x, y = batch(step, rank)
            F.cross_entropy(model(x), y).backward()
        for extrapolation, optimizer in zip(both, optimizers):
            extrapolation.update()
            optimizer.step()
    for (name, a), b in zip(single.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), b.detach().full_tensor(), msg=name)
""",
    "resumed_training_is_the_same_bit_for_bit": """
def made(kind):
    model = build()
    if kind == "sharded":
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        wrapped = model
    else:
        wrapped = DDP(model)
    optimizer = sgd(wrapped)
    direction = kind if kind in ("local", "noise") else "past"
    return model, wrapped, optimizer, Extrapolation(wrapped, optimizer, radius=RADIUS, direction=direction)

def run(model, wrapped, optimizer, extrapolation, steps):
    for step in steps:
        optimizer.zero_grad()
        x, y = batch(step, rank)
        with extrapolation.shifted():
            F.cross_entropy(wrapped(x), y).backward()
        extrapolation.update()
        optimizer.step()

def whole(state):
    full = lambda each: each.full_tensor() if hasattr(each, "device_mesh") else each
    return {**state, "gradients": {index: full(each) for index, each in state["gradients"].items()}}

for kind in ("local", "past", "noise", "sharded"):
    first = made(kind)
    run(*first, range(3))
    file = io.BytesIO()
    parts = {"optimizer": first[2].state_dict(), "extrapolation": first[3].state_dict(), "model": first[0].state_dict()}
    torch.save(copy.deepcopy(parts), file)
    gathered = whole(parts["extrapolation"])
    for gradient in gathered["gradients"].values():
        assert same_everywhere(gradient)  # so that a checkpoint of rank 0 is one of all
    run(*first, range(3, 6))
    for form in ("parts", "whole"):
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        second = made(kind)
        run(*second, [9])
        second[0].load_state_dict(loaded["model"])
        second[2].load_state_dict(loaded["optimizer"])
        second[3].load_state_dict(loaded["extrapolation"] if form == "parts" else gathered)
        run(*second, range(3, 6))
        for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True):
            a, b = (p.detach() if kind != "sharded" else p.detach().full_tensor() for p in (a, b))
            assert torch.equal(a, b), (kind, form)
""",
    "an_overflow_in_one_shard_counts_on_all": """
model = build()
fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
optimizer = sgd(model)
extrapolation = Extrapolation(model, optimizer, radius=RADIUS)
x, y = batch(0, rank)
with extrapolation.shifted():
    F.cross_entropy(model(x), y).backward()
if rank == 1:
    model[0].weight.grad.to_local()[0, 0] = math.inf
extrapolation.update()
assert all(not g.to_local().any() for g in extrapolation.state_dict()["gradients"].values())
""",
    "sharded_parameters_are_refused_for_local": """
model = build()
fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
try:
    Extrapolation(model, sgd(model), radius=RADIUS, direction="local")
except ValueError as error:
    assert "sharded" in str(error) and "past" in str(error), error
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
