"""Who gets which samples, on two real ranks; and what cannot be shared out."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from two_ranks import needs_gloo, on_two_ranks

from ecograph.loop.distributed import Alone, set_epoch
from ecograph.loop.distributed.share import share

COMMON = """
import warnings
from pytest import raises, warns
from torch.utils.data import (
    BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler, TensorDataset, WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler
from ecograph.loop.distributed import InStep, Ranks, set_epoch

model = nn.Linear(1, 1)
ranks = Ranks(model, torch.optim.SGD(model.parameters()))

def numbers(count):
    return TensorDataset(torch.arange(count))

def loader(count=13, size=2, **options):
    return DataLoader(numbers(count), size, **options)

def given(loader):
    # What each rank gets, as lists of lists; and that as many come as were said to.
    found = [batch[0].tolist() for batch in loader]
    assert len(found) == len(loader), (len(found), len(loader))
    return ranks.everyone(found)

class Counting(IterableDataset):
    def __init__(self, numbers):
        self.numbers = numbers
    def __iter__(self):
        return iter(self.numbers)
"""

BODIES = {
    "samples_are_dealt_like_cards_and_begin_anew_to_come_out_even": """
first, second = given(ranks.share(loader()))
assert first == [[0, 2], [4, 6], [8, 10], [12]]
assert second == [[1, 3], [5, 7], [9, 11], [0]]
assert given(ranks.share(loader(1))) == [[[0]], [[0]]]
""",
    "those_to_evaluate_are_each_given_once": """
first, second = given(ranks.share(loader(), pad=False))
assert first == [[0, 2], [4, 6], [8, 10], [12]]
assert second == [[1, 3], [5, 7], [9, 11]]
one = ranks.share(loader(1), pad=False)
assert given(one) == [[[0]], []] and one.may_be_empty
assert not ranks.share(loader(0), pad=False).may_be_empty
assert ranks.share(None) is None
""",
    "drop_last_drops_samples_and_batches": """
first, second = given(ranks.share(loader(drop_last=True)))
assert first == [[0, 2], [4, 6], [8, 10]]
assert second == [[1, 3], [5, 7], [9, 11]]
first, second = given(ranks.share(loader(12, 4, drop_last=True)))
assert (first, second) == ([[0, 2, 4, 6]], [[1, 3, 5, 7]])
""",
    "the_order_is_the_one_of_rank_0": """
torch.manual_seed(100 + rank)
shared = ranks.share(loader(12, shuffle=True))
epochs = [given(shared) for _ in range(2)]
assert epochs[0] != epochs[1]
for hands in epochs:
    assert sorted(sum(sum(hands, []), [])) == list(range(12))

# With a generator, the very order that one process has with that of rank 0.
one = DataLoader(numbers(12), 2, shuffle=True, generator=torch.Generator().manual_seed(7))
order = torch.cat([batch[0] for batch in one]).tolist()
hands = given(ranks.share(loader(12, shuffle=True, generator=torch.Generator().manual_seed(7 + rank))))
assert [sum(hand, []) for hand in hands] == [order[0::2], order[1::2]]
""",
    "samplers_of_the_users_own": """
weighted = WeightedRandomSampler([1.0, 0.0, 2.0], 8, generator=torch.Generator().manual_seed(1))
expected = list(WeightedRandomSampler([1.0, 0.0, 2.0], 8, generator=torch.Generator().manual_seed(1)))
hands = given(ranks.share(loader(3, sampler=weighted)))
assert [sum(hand, []) for hand in hands] == [expected[0::2], expected[1::2]]

batches = [[3, 1], [0], [2, 4, 5]]
own = DataLoader(numbers(6), batch_sampler=batches)
assert given(ranks.share(own)) == [[[3, 1], [2, 4, 5]], [[0], [3, 1]]]
assert given(ranks.share(own, pad=False)) == [[[3, 1], [2, 4, 5]], [[0]]]

class Pairs(torch.utils.data.Dataset):
    # Makes batches itself.
    def __len__(self):
        return 3
    def __getitem__(self, index):
        return torch.tensor([[2 * index, 2 * index + 1]])
assert given(ranks.share(DataLoader(Pairs(), batch_size=None))) == [[[0, 1], [4, 5]], [[2, 3], [0, 1]]]
""",
    "the_users_loader_stays_as_it_is": """
class Own(DataLoader):
    def __init__(self, first, *more, **options):
        super().__init__(*more, **options)
        self.first = first

own = Own("its own", numbers(8), 2, collate_fn=lambda each: [torch.tensor(each).flatten() + 100])
before = dict(own.__dict__)
shared = ranks.share(own)
assert type(shared) is Own and shared.first == "its own"
assert given(shared) == [[[100, 102], [104, 106]], [[101, 103], [105, 107]]]
assert own.__dict__ == before
assert [batch[0].tolist() for batch in own] == [[100, 101], [102, 103], [104, 105], [106, 107]]
""",
    "workers_live_in_a_group_of_their_own": """
import os
class Where(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return torch.tensor([index, os.getpgid(0)])

seen = []
own = DataLoader(Where(), 2, num_workers=1, worker_init_fn=lambda worker: torch.manual_seed(worker))
found = torch.cat(list(ranks.share(own)))
assert found[:, 0].tolist() == [rank, 2 + rank]
assert os.getpgid(0) not in found[:, 1].tolist()
""",
    "a_distributed_sampler_is_used_as_it_is": """
sampler = DistributedSampler(numbers(13), seed=3)
own = loader(sampler=sampler)
assert ranks.share(own) is own
orders = []
for epoch in range(2):
    set_epoch(own, epoch)
    assert sampler.epoch == epoch
    orders.append(given(own))
assert orders[0] != orders[1]
# To evaluate, it would give one sample twice.
first, second = given(ranks.share(loader(sampler=DistributedSampler(numbers(13), shuffle=False)), pad=False))
assert first == [[0, 2], [4, 6], [8, 10], [12]] and second == [[1, 3], [5, 7], [9, 11]]
batches = DataLoader(numbers(8), batch_sampler=BatchSampler(DistributedSampler(numbers(8), shuffle=False), 3, False))
assert ranks.share(batches) is batches
of_three = DistributedSampler(numbers(13), 3, rank)
with raises(ValueError, match="between 3 processes, and here are 2: leave it out"):
    ranks.share(loader(sampler=of_three))
""",
    "lists": """
same = [(torch.tensor([each]),) for each in range(5)]
assert given(ranks.share(same)) == [[[0], [2], [4]], [[1], [3], [0]]]
assert given(ranks.share(tuple(same), pad=False)) == [[[0], [2], [4]], [[1], [3]]]
own = [(torch.tensor([10 * rank + each]),) for each in range(2)]
assert ranks.share(own) is own
uneven = own[: 2 - rank]
with raises(ValueError, match="train_loader has 2, 1 batches on the ranks, which must take as many steps"):
    ranks.share(uneven)
assert ranks.share(uneven, pad=False) is uneven
""",
    "streams_end_together": """
stream = DataLoader(Counting(range(100 * rank, 100 * rank + 5 + 2 * rank)), 2)
shared = ranks.share(stream)
for _ in range(2):
    assert ranks.everyone([batch.tolist() for batch in shared]) == [
        [[0, 1], [2, 3], [4]], [[100, 101], [102, 103], [104, 105]],
    ]
assert shared.dataset is stream.dataset
generated = ranks.share(each for each in ([torch.tensor([rank])], [torch.tensor([2])]))
assert [batch[0].item() for batch in generated] == [rank, 2]
uneven = ranks.share(Counting([torch.tensor([rank])] * (1 + 2 * rank)), pad=False)
assert len(list(uneven)) == 1 + 2 * rank
""",
    "the_same_stream_on_every_rank_is_told_of": """
shared = ranks.share(Counting([torch.tensor([1.0]), torch.tensor([2.0])]))
if rank == 0:
    with warns(UserWarning, match=r"every rank gets the same batches from train_loader \\(Counting\\)"):
        next(iter(shared))
else:
    next(iter(shared))
assert len(list(shared)) == 2
""",
    "loaders_of_several_kinds_are_refused_on_all_ranks": """
mine, others = ([torch.tensor([1])] * 3, loader()) if rank == 0 else (Counting([1, 2, 3]), None)
with raises(ValueError, match="train_loader is a list, a stream on the ranks: give each the same kind"):
    ranks.share(mine)
with raises(ValueError, match="val_loader is a DataLoader, None on the ranks"):
    ranks.share(others, pad=False)
""",
    "streams_of_which_one_has_a_length": """
class Long:
    def __len__(self):
        return 3
with raises(ValueError, match="train_loader has None, 3 batches on the ranks, which must take as many steps"):
    ranks.share(Long() if rank else iter([1, 2, 3]))
""",
    "in_step_a_rank_repeats_its_last_batch_which_does_not_count": """
loader = InStep([rank * 10 + each for each in range(3 - rank)], torch.device("cpu"))
for _ in range(2):
    found = [(batch, loader.counts) for batch in loader]
    assert found == ([(0, 1), (1, 1), (2, 1)] if rank == 0 else [(10, 1), (11, 1), (11, 0)]), found
with raises(ValueError, match="val_loader has no batch for some rank"):
    list(InStep([1, 2][: 1 - rank], torch.device("cpu")))
assert list(InStep([], torch.device("cpu"))) == []
""",
}


@needs_gloo
def test_on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> None:
    for rank in on_two_ranks(tmp_path_factory.mktemp("ranks"), COMMON, BODIES):
        assert rank == dict.fromkeys(BODIES, "")


def test_alone_everything_stays_as_it_is() -> None:
    data = TensorDataset(torch.arange(3))
    for loader in (None, [1, 2], DataLoader(data), iter([1])):
        assert share(loader, Alone(), pad=True) is loader


def test_the_epoch_is_told_to_whoever_wants_to_know() -> None:
    class Told:
        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    data = TensorDataset(torch.arange(4))
    sampler = DistributedSampler(data, 2, 0)
    loader = DataLoader(data, sampler=sampler)
    set_epoch(loader, 3)
    assert sampler.epoch == 3
    batches = DataLoader(data, batch_sampler=torch.utils.data.BatchSampler(sampler, 2, False))
    set_epoch(batches, 4)
    assert sampler.epoch == 4
    stream = Told()
    stream.dataset = Told()  # type: ignore[attr-defined]
    set_epoch(stream, 5)
    assert (stream.epoch, stream.dataset.epoch) == (5, 5)  # type: ignore[attr-defined]
    for without in (None, [1], iter([1])):
        set_epoch(without, 6)
