"""Each rank's share of the data."""

from __future__ import annotations

import copy
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from ecograph.loop.distributed.alone import Alone


def share(loader: Any, ranks: Alone, *, pad: bool) -> Any:
    """Returns what this rank iterates over; see ``Ranks.share``."""
    if ranks.count == 1:
        return loader
    kind = _kind(loader)
    kinds = ranks.everyone(kind)
    if any(each != kind for each in kinds):
        raise ValueError(
            f"{'train_loader' if pad else 'val_loader'} is {', '.join(kinds)} on the ranks: give each the same kind"
        )
    if kind == "None":
        return loader
    if kind == "a DataLoader":
        return _of_samples(loader, ranks, pad)
    if kind == "a list":
        return _of_list(loader, ranks, pad)
    if not pad:
        return loader
    _refuse_unequal(loader, ranks)
    return Stream(loader, ranks)


def set_epoch(loader: Any, epoch: int) -> None:
    """Tells a loader's samplers and data set, those that want to know, which epoch begins: so each has its order."""
    told: set[int] = set()
    todo = [loader]
    while todo:
        each = todo.pop()
        if each is None or id(each) in told:
            continue
        told.add(id(each))
        if callable(tell := getattr(each, "set_epoch", None)):
            tell(epoch)
        todo += [getattr(each, name, None) for name in ("sampler", "batch_sampler", "dataset")]


class Dealt(Sampler[Any]):
    """What a sampler gives, dealt out like cards: the order is drawn on rank 0, and every rank takes its turn.

    So a training has the order that it would have in one process, with batches as large as those of all ranks.

    Args:
        sampler: of samples, or of batches of them.
        ranks: who shares.
        pad: give as many to each, by beginning anew at the end. False: each once.
        even: give as many to each, by leaving out the last few; comes before ``pad``.
    """

    def __init__(self, sampler: Any, ranks: Alone, *, pad: bool, even: bool = False) -> None:
        self.sampler = sampler
        self._ranks = ranks
        self._pad = pad
        self._even = even

    def __iter__(self) -> Iterator[Any]:
        order = self._ranks.tell(list(self.sampler) if self._ranks.first else [])
        wanted = self._total(len(order))
        return islice(cycle(order), self._ranks.rank, wanted, self._ranks.count)

    def __len__(self) -> int:
        return len(range(self._ranks.rank, self._total(len(self.sampler)), self._ranks.count))

    def _total(self, length: int) -> int:
        if self._even:
            return length // self._ranks.count * self._ranks.count
        return -(-length // self._ranks.count) * self._ranks.count if self._pad else length


class Batches(list[Any]):
    """A rank's share of a list of batches; another rank may have the only one."""

    may_be_empty = True


class Stream:
    """The batches that each rank has of its own, for as long as every rank has one."""

    def __init__(self, loader: Iterable[Any], ranks: Alone) -> None:
        self._loader = loader
        self._ranks = ranks
        self._compared = False

    def __iter__(self) -> Iterator[Any]:
        end = object()
        for batch in _and_then(self._loader, end):
            if self._ranks.highest(batch is end):
                return
            self._compare(batch)
            yield batch

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        """Returns what the loader has: its data set, its samplers, its state."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._loader, name)

    def _compare(self, batch: Any) -> None:
        if self._compared:
            return
        self._compared = True
        if len(set(self._ranks.everyone(_digest(batch)))) == 1 and self._ranks.first:
            warnings.warn(
                f"every rank gets the same batches from train_loader ({type(self._loader).__name__}): let each take "
                "its share, for instance itertools.islice(stream, rank, None, world_size), or give a DataLoader of a "
                "data set with a length",
                stacklevel=4,
            )


class InStep:
    """Gives batches for as long as any rank has some, so that all call the model as often.

    A rank that has no more of them gets its last one again, which does not count.

    Attributes:
        counts: 1 for a batch that is new, 0 for one that is there again.
    """

    def __init__(self, loader: Iterable[Any], device: torch.device) -> None:
        self.counts = 1
        self.may_be_empty = getattr(loader, "may_be_empty", False)
        self._loader = loader
        self._device = device

    def __iter__(self) -> Iterator[Any]:
        end = object()
        last = end
        self.counts = 1
        for batch in _and_then(self._loader, end, for_ever=True):
            told = [batch is not end, batch is end and last is end]
            here = torch.tensor(told, dtype=torch.int32, device=self._device)
            dist.all_reduce(here, dist.ReduceOp.MAX)
            any_left, none_ever = here.tolist()
            if not any_left:
                return
            if none_ever:
                raise ValueError(
                    "val_loader has no batch for some rank, which must call a sharded model as often as the others: "
                    "give it at least as many samples as there are ranks"
                )
            self.counts = int(batch is not end)
            last = last if batch is end else batch
            yield last


def _kind(loader: Any) -> str:
    if loader is None:
        return "None"
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        return "a DataLoader"
    return "a list" if isinstance(loader, list | tuple) else "a stream"


def _of_samples(loader: DataLoader[Any], ranks: Alone, pad: bool) -> Any:
    sampler = _distributed(loader)
    whole = not pad and type(sampler) is DistributedSampler
    if sampler is not None and not whole:
        if sampler.num_replicas != ranks.count:
            raise ValueError(
                f"a {type(sampler).__name__} shares out the data between {sampler.num_replicas} processes, and here "
                f"are {ranks.count}: leave it out, and the loop shares out the samples itself"
            )
        if pad:
            _refuse_unequal(loader, ranks)
        return loader
    even = pad and bool(loader.drop_last)
    samples: Any = SequentialSampler(loader.dataset) if whole else loader.sampler  # type: ignore[arg-type]
    shared = copy.copy(loader)
    # Not by setattr, which DataLoader refuses for these: a loader made anew, of a class that may be the user's own,
    # would have to be told everything that this one knows.
    changed: dict[str, Any] = {"_iterator": None, "may_be_empty": not pad and len(loader) > 0}
    if loader.batch_sampler is None:  # the data set makes batches
        changed["sampler"] = Dealt(samples, ranks, pad=pad, even=even)
    elif whole or (type(loader.batch_sampler) is BatchSampler and loader.batch_sampler.sampler is loader.sampler):
        changed["sampler"] = Dealt(samples, ranks, pad=pad, even=even)
        assert loader.batch_size is not None
        changed["batch_sampler"] = BatchSampler(changed["sampler"], loader.batch_size, bool(loader.drop_last))
    else:
        changed["batch_sampler"] = Dealt(loader.batch_sampler, ranks, pad=pad, even=even)
    if loader.num_workers:
        changed["worker_init_fn"] = partial(_apart, loader.worker_init_fn)
    shared.__dict__.update(changed)
    return shared


def _of_list(loader: list[Any] | tuple[Any, ...], ranks: Alone, pad: bool) -> Any:
    ends = [_digest(each) for each in (*loader[:1], *loader[-1:])]
    found = ranks.everyone((len(loader), ends))
    if all(each == found[0] for each in found):
        return Batches(loader[at] for at in Dealt(range(len(loader)), ranks, pad=pad))
    if pad:
        _refuse_unequal(loader, ranks)
    return loader


def _distributed(loader: DataLoader[Any]) -> Any:
    """Returns the sampler of a loader that gives each rank a share, or None."""
    batch_sampler = loader.batch_sampler
    for each in (loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None)):
        if hasattr(each, "num_replicas"):
            return each
    return None


def _refuse_unequal(loader: Any, ranks: Alone) -> None:
    try:
        length = None if isinstance(getattr(loader, "dataset", None), IterableDataset) else len(loader)
    except TypeError:  # a stream
        length = None
    lengths = ranks.everyone(length)
    if any(each != lengths[0] for each in lengths):
        raise ValueError(
            f"train_loader has {', '.join(map(str, lengths))} batches on the ranks, which must take as many steps: "
            "give each rank as many; or give all of them the same DataLoader, whose samples the loop shares out"
        )


def _and_then(loader: Iterable[Any], end: object, *, for_ever: bool = False) -> Iterator[Any]:
    yield from loader
    yield end
    while for_ever:
        yield end


def _digest(batch: Any) -> bytes:
    """Returns a fingerprint of all that is in a batch."""
    found = hashlib.blake2b(digest_size=16)
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
            plain = leaf.detach().cpu().contiguous().view(-1)
            found.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            found.update(plain.view(torch.uint8).numpy().tobytes() if leaf.numel() else b"")
        else:
            found.update(repr(leaf).encode())
    return found.digest()


def _apart(user: Callable[[int], None] | None, worker: int) -> None:
    """Begins a worker in a process group of its own.

    torchrun sends a signal to the whole group of a rank. One that says to write a checkpoint and stop would kill the
    workers, and with them the step that is to be completed.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    if user is not None:
        user(worker)
