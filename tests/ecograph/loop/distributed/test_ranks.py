"""What ranks tell each other, how they fail together, and what they refuse; on two real ranks and on none."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from two_ranks import needs_gloo, on_two_ranks

from ecograph.loop import TrainingLoop
from ecograph.loop.distributed import Ranks

COMMON = """
from pytest import raises
from ecograph.loop.distributed import Ranks
from ecograph.loop.distributed.tensors import broadcast

model = nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters())
ranks = Ranks(model, optimizer)

class Unportable(Exception):
    def __init__(self, one, other):
        super().__init__(one)
"""

BODIES = {
    "they_know_and_tell_each_other": """
assert (ranks.rank, ranks.count, ranks.first) == (rank, 2, rank == 0)
assert ranks.tell(("from", rank)) == ("from", 0)
assert ranks.everyone(10 * rank) == [0, 10]
assert ranks.collect(10 * rank) == ([0, 10] if rank == 0 else [])
assert ranks.deal(["zero", "one"] if rank == 0 else []) == ("zero", "one")[rank]
assert ranks.highest(5 - rank) == 5
assert ranks.mesh.size() == 2
""",
    "tensors_are_spread_from_the_first_as_they_are": """
from collections import OrderedDict
tree = OrderedDict(
    a=torch.arange(6.0).view(2, 3).t(),
    b=[torch.tensor(True), (torch.empty(0), 3)],
    c={"d": torch.ones(2, dtype=torch.bfloat16)},
) if rank == 0 else None
paths = []
def keep(path, tensor):
    paths.append(path)
    return tensor
found = ranks.spread(tree, keep)
assert paths == [("a",), ("b", "0"), ("b", "1", "0"), ("c", "d")]
assert type(found) is OrderedDict
assert torch.equal(found["a"], torch.arange(6.0).view(2, 3).t())
assert found["b"][0].item() is True and found["b"][1][0].numel() == 0 and found["b"][1][1] == 3
assert torch.equal(found["c"]["d"], torch.ones(2, dtype=torch.bfloat16))
assert ranks.spread(tree, lambda path, tensor: None)["a"] is None
""",
    "buffers_of_any_type_are_set_to_those_of_rank_0": """
types = torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64
tensors = [torch.full((2, 2), rank, dtype=each) for each in types]
strided = torch.full((4, 4), float(rank))
broadcast([*tensors, strided[:, ::2], torch.empty(0)])
assert all(not each.any() for each in tensors)
assert strided[:, ::2].eq(0).all() and strided[:, 1::2].eq(rank).all()
norm = nn.BatchNorm1d(3)
norm.running_mean.fill_(rank + 1)
norm.num_batches_tracked.fill_(rank + 5)
ranks.broadcast_buffers(norm, nn.Linear(1, 1))
assert norm.running_mean.eq(1).all() and norm.num_batches_tracked == 5
""",
    "what_fails_on_one_fails_on_all": """
for who in (0, 1):
    with raises(KeyError, match="of its own"):
        with ranks.together():
            if rank == who:
                raise KeyError("of its own")
with ranks.together():
    pass
with raises(ZeroDivisionError):
    ranks.first_does(lambda: 1 / 0)
assert ranks.first_does(lambda: rank + 7) == 7
with raises(ValueError, match=f"rank {rank}"):  # each its own
    with ranks.together():
        raise ValueError(f"rank {rank}")
# One that no other process can make again is told of in words.
with raises(Unportable if rank == 1 else RuntimeError, match="one" if rank == 1 else "Unportable: one"):
    with ranks.together():
        if rank == 1:
            raise Unportable("one", "other")
""",
    "a_group_that_was_there_is_left_alone": """
with Ranks(model, optimizer) as again:
    assert again.everyone(rank) == [0, 1]
assert dist.is_initialized()
assert ranks.everyone(rank) == [0, 1]
""",
}


@needs_gloo
def test_on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> None:
    for rank in on_two_ranks(tmp_path_factory.mktemp("ranks"), COMMON, BODIES):
        assert rank == dict.fromkeys(BODIES, "")


def test_started_alone_it_says_how_to_start_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("sys.argv", ["somewhere/fit.py"])
    model = nn.Linear(2, 2)
    loop = TrainingLoop(1, distributed="ddp")
    data = [(torch.ones(1, 2), torch.tensor([1]))]
    with pytest.raises(ValueError, match=r"started alone.*`torchrun --nproc-per-node=2 fit.py`; or use dist"):
        loop.run(model, torch.optim.SGD(model.parameters()), nn.functional.cross_entropy, data)
    assert not dist.is_initialized()


def test_models_and_optimizers_that_cannot_be_trained_so() -> None:
    class Wrapped(nn.parallel.DistributedDataParallel):
        def __init__(self, module: nn.Module) -> None:
            nn.Module.__init__(self)
            self.module = module

    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(ValueError, match="in DistributedDataParallel already.*give model.module"):
        Ranks(Wrapped(model), optimizer)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(ValueError, match="holds 1 parameters that are not the model's"):
        Ranks(model, optimizer)
    assert not dist.is_initialized()
