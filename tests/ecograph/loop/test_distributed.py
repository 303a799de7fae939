"""Whole loops on two real ranks, against the same training written out by hand in one process."""

from __future__ import annotations

from pathlib import Path

from two_ranks import needs_gloo, on_two_ranks

pytestmark = needs_gloo

COMMON = """
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from by_hand import by_hand, cards, network, samples
from ecograph.loop import TrainingLoop
import copy
from pytest import approx, raises
import ecograph
from ecograph.loop import Callback
from ecograph.passes import Extrapolate, GradSamp, SliceOut, SparseBackward

TRAIN, VAL = samples(24), samples(13, seed=2)
KINDS = ("ddp", "fsdp")

def loader(data, batch=4, **options):
    return DataLoader(TensorDataset(*data), batch, **options)

def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

def adam(model):
    return torch.optim.AdamW(model.parameters(), lr=0.01)

def fit(model, kind, *, make=sgd, epochs=2, train=None, val=None, **options):
    optimizer = make(model)
    loop = TrainingLoop(epochs, distributed=kind, progress=False, **options)
    train = loader(TRAIN) if train is None else train
    return optimizer, loop.run(model, optimizer, F.cross_entropy, train, loader(VAL) if val is None else val)

def plain_sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)

def in_one_process(model, *, epochs=2, **options):
    # As large a batch as both have together: the same gradient, where nothing depends on a rank's share.
    loop = TrainingLoop(epochs, progress=False, **options)
    return loop.run(model, sgd(model), F.cross_entropy, loader(TRAIN, 8), loader(VAL))

def same_everywhere(tensor):
    other = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(other, tensor.detach().contiguous())
    return torch.equal(other[0], other[1])

def close(model, expected, **tolerance):
    found = model.state_dict()
    assert list(found) == list(expected.state_dict())
    for name, value in expected.state_dict().items():
        assert type(found[name]) is torch.Tensor, name
        assert same_everywhere(found[name]), name
        torch.testing.assert_close(found[name], value, **tolerance, msg=lambda text: f"{name}: {text}")

def check_history(history, expected, **tolerance):
    for name in ("train_loss", "val_loss"):
        found = [getattr(each, name) for each in history]
        torch.testing.assert_close(torch.tensor(found), torch.tensor(getattr(expected, name)), **tolerance)
        assert same_everywhere(torch.tensor(found))
"""

BODIES = {
    "it_is_the_training_of_one_process": """
for kind in KINDS:
    for norm, make in ((True, sgd), (False, adam)):
        # Whatever weights the others begin with: those of rank 0 count.
        model, single = network(rank, norm=norm), network(norm=norm)
        before = list(model.parameters())
        optimizer, history = fit(model, kind, make=make, metric="accuracy")
        expected = by_hand(single, make(single), [cards(TRAIN, 4)] * 2, val=VAL)
        close(model, single)
        check_history(history, expected)
        assert [each.values["val_accuracy"] for each in history] == approx(expected.val_accuracy)
        assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
        assert all(a is b for a, b in zip(before, optimizer.param_groups[0]["params"], strict=True))
        assert type(model) is nn.Sequential and type(model[0]) is nn.Linear
""",
    "options_of_the_loop": """
for kind in KINDS:
    for options in (dict(ema=0.8), dict(clip=0.05, accumulate=2), dict(clip=0.05, ema=0.8, accumulate=2)):
        model, single = network(), network()
        # 28 samples: 14 on each rank, in batches of 4, 4, 4 and 2.
        data = samples(28)
        epoch = cards(data, 4)
        if "accumulate" in options:
            epoch = [[[*a, *b] for a, b in zip(*two)] for two in (epoch[:2], epoch[2:])]
        _, history = fit(model, kind, train=loader(data), **options)
        options.pop("accumulate", None)
        expected = by_hand(single, sgd(single), [epoch] * 2, val=VAL, **options)
        close(model, expected.average or single)
        check_history(history, expected)
""",
    "mixed_precision": """
for kind in KINDS:
    options = dict(ema=0.8, clip=0.05)
    model, single = network().float(), network().float()
    data = TRAIN[0].float(), TRAIN[1]
    _, history = fit(model, kind, train=loader(data), val=loader((VAL[0].float(), VAL[1])), amp="bf16", **options)
    expected = by_hand(single, sgd(single), [cards(data, 4)] * 2, amp=True, **options)
    close(model, expected.average or single, rtol=1e-4, atol=1e-5)
    assert [each.train_loss for each in history] == approx(expected.train_loss, 1e-4)
""",
    "gradsamp_skips_the_same_epochs_with_the_same_noise": """
for kind in KINDS:
    for mode in ("gaussian", "extrapolate"):
        gradsamp = GradSamp(every=3, mode=mode, seed=4)
        model, single = network(rank, norm=False), network(norm=False)
        _, history = fit(model, kind, epochs=4, passes=[gradsamp])
        expected = in_one_process(single, epochs=4, passes=[gradsamp])
        close(model, single)
        assert [each.note for each in history] == [each.note for each in expected]
        assert [each.epoch for each in history if "skipped" in each.note] == [2]
        assert [each.val_loss for each in history] == approx([each.val_loss for each in expected])
""",
    "extrapolation_past_and_noise": """
for kind in KINDS:
    for direction in ("past", "noise"):
        extrapolate = Extrapolate(radius=0.2, direction=direction, until=1, seed=3)
        model, single = network(rank, norm=False), network(norm=False)
        fit(model, kind, passes=[extrapolate], clip=1.0)
        in_one_process(single, passes=[extrapolate], clip=1.0)
        close(model, single)
""",
    "extrapolation_by_the_own_gradient_of_each_rank": """
model, single = network(rank, norm=False), network(norm=False)
fit(model, "ddp", make=plain_sgd, passes=[Extrapolate(radius=0.2, direction="local")])
parameters = list(single.parameters())
own = [None, None]
for step in cards(TRAIN, 4) * 2:
    weights = [each.detach().clone() for each in parameters]
    for worker, ((x, y),) in enumerate(step):
        with torch.no_grad():
            for each, weight, ahead in zip(parameters, weights, own[worker] or [0.0] * len(weights)):
                each.copy_(weight - 0.2 * ahead)
        own[worker] = torch.autograd.grad(F.cross_entropy(single(x), y), parameters)
    with torch.no_grad():
        for each, weight, first, second in zip(parameters, weights, *own, strict=True):
            each.copy_(weight - 0.1 * (first + second) / 2)
close(model, single)

model = network()
whole = list(model.parameters())
with raises(ValueError, match="direction='past', or DistributedDataParallel"):
    fit(model, "fsdp", passes=[Extrapolate(radius=0.2, direction="local")])
""",
    "sparse_backward": """
def sparse(model):
    passes = [SparseBackward(0.5, schedule="constant", when="always", skip_first=False, min_channels=4)]
    return ecograph.optimize(model, example_inputs=TRAIN[0][:4], passes=passes), passes

for kind in KINDS:
    model, _ = sparse(network(rank))
    single, _ = sparse(network())
    fit(model, kind)
    by_hand(single, sgd(single), [cards(TRAIN, 4)] * 2)
    close(model, single)
    dense = network()
    by_hand(dense, sgd(dense), [cards(TRAIN, 4)] * 2)
    assert not torch.equal(dense[0].weight, single[0].weight)
""",
    "sliceout": """
def sliced(model, **options):
    passes = [SliceOut(0.5, min_width=4, align=1, when="always", **options)]
    return ecograph.optimize(model, example_inputs=TRAIN[0][:4], passes=passes), passes

for kind in KINDS:
    for ema in (None, 0.8):
        torch.manual_seed(rank)
        model, passes = sliced(network(rank, norm=False))
        single, _ = sliced(network(norm=False))
        fit(model, kind, passes=passes, ema=ema)
        in_one_process(single, passes=passes, ema=ema)
        close(model, single)
model, passes = sliced(network(), update="slice")
before = copy.deepcopy(model.state_dict())
with raises(ValueError, match='update="autograd"|update=.autograd.'):
    fit(model, "fsdp", passes=passes)
""",
    "data_of_every_kind": """
class Numbers(IterableDataset):
    # A share of its own for each rank: 11 samples and 13, in 3 batches and 4.
    def __iter__(self):
        return iter([(x, y) for x, y in zip(*TRAIN)][rank * 11 : 11 + rank * 13])

def hands(sampler, epochs):
    # What the samplers of both ranks give, in batches of 4.
    for epoch in range(epochs):
        both = [sampler(each) for each in range(2)]
        for each in both:
            each.set_epoch(epoch)
        order = [index for pair in zip(*both, strict=True) for index in pair]
        yield cards(TRAIN, 4, order=order)

def of(number):
    return DistributedSampler(range(24), 2, number, seed=5)

def part(first, last):
    return TRAIN[0][first:last], TRAIN[1][first:last]

batches = [part(at, at + 4) for at in range(0, 24, 4)]
own = [part(at, at + 2) for at in range(rank * 8, rank * 8 + 8, 2)]
padded = samples(21)
TRAININGS = {
    "sampler": (loader(TRAIN, sampler=of(rank)), list(hands(of, 2))),
    "stream": (
        DataLoader(Numbers(), 4),
        [[[[part(0, 4)], [part(11, 15)]], [[part(4, 8)], [part(15, 19)]], [[part(8, 11)], [part(19, 23)]]]] * 2,
    ),
    "list": (batches, [[[[batches[at]], [batches[at + 1]]] for at in (0, 2, 4)]] * 2),
    "own list": (own, [cards(TRAIN, 2, order=[0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15])] * 2),
    "padded": (loader(padded), [cards(padded, 4, order=[*range(21), 0])] * 2),
    "drop_last": (loader(padded, drop_last=True), [cards(padded, 4, order=range(16))] * 2),
}
for kind, names in (("ddp", TRAININGS), ("fsdp", ("stream", "padded"))):
    for train, epochs in (TRAININGS[name] for name in names):
        model, single = network(norm=False), network(norm=False)
        val = [VAL] if rank == 0 else [(VAL[0][:3], VAL[1][:3]), (VAL[0][3:], VAL[1][3:])]
        _, history = fit(model, kind, train=train, val=val)  # each rank has all of it, in batches of its own
        expected = by_hand(single, sgd(single), epochs, val=VAL)
        close(model, single)
        check_history(history, expected)
""",
    "callbacks_stop_and_schedules": """
class Watch(Callback):
    def __init__(self):
        self.epochs, self.steps = [], 0
    def on_step_end(self, epoch, model, loss):
        self.steps += 1
    def on_epoch_end(self, epoch, model, record):
        self.epochs.append(record.epoch)

for kind in KINDS:
    watch, model = Watch(), network(norm=False)
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.9, patience=0, threshold=10.0)
    loop = TrainingLoop(
        9, distributed=kind, lr_step="val_loss", stop="val_loss > 1.4", callbacks=[watch], progress=False
    )
    history = loop.run(model, optimizer, F.cross_entropy, loader(TRAIN), loader(VAL), schedule)
    assert history[-1].val_loss > 1.4 > history[-2].val_loss and len(history) < 9
    assert watch.epochs == list(range(len(history))) and watch.steps == 3 * len(history)
    rates = torch.tensor([each.lr for each in history], dtype=torch.float64)
    assert len(set(rates.tolist())) > 1 and same_everywhere(rates)
""",
}


def test_on_two_ranks(tmp_path: Path) -> None:
    for rank in on_two_ranks(tmp_path, COMMON, BODIES):
        assert rank == dict.fromkeys(BODIES, "")
