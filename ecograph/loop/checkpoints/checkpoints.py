"""What a training loop says when: an epoch begins, a step is done, an epoch is done; and where it goes on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from torch.optim import Optimizer

from ecograph.loop.checkpoints.file import CheckpointError, read
from ecograph.loop.checkpoints.fingerprint import fingerprint, refuse_another
from ecograph.loop.checkpoints.folder import Folder
from ecograph.loop.checkpoints.gathered import gather, shard
from ecograph.loop.checkpoints.interrupts import Interrupts
from ecograph.loop.checkpoints.position import Position, warn_of_persistent_workers
from ecograph.loop.checkpoints.random_state import random_state, set_random_state
from ecograph.loop.distributed.alone import Alone
from ecograph.loop.distributed.tensors import map_tensors
from ecograph.loop.history import NonFiniteLossError
from ecograph.loop.measure import Mean
from ecograph.record import records


class Stateful(Protocol):
    """Something that can be put back to where it was."""

    def state_dict(self) -> Any:
        """Returns the state: tensors, numbers, strings, and containers of them."""

    def load_state_dict(self, state: Any) -> Any:
        """Puts a state back."""


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, and did after a complete step; a checkpoint was written.

    Attributes:
        path: of the checkpoint.
    """

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


class Checkpoints:
    """Writes checkpoints of a training run, and puts a run back to its last one.

    Used as a context around the epochs. A checkpoint is taken between two optimizer steps or two epochs, and holds all
    that the rest of the run depends on, so that a run that was killed and resumed ends with the same bits as one that
    was not: weights, optimizer, schedulers, what passes keep, every random generator, and the place in the data.

    Args:
        folder: for the checkpoints of this run and no other.
        state: what to keep, by name, each `Stateful` or None; "model" must be among them.
        options: of the loop; another run's are refused.
        every: optimizer steps from one checkpoint to the next within an epoch. None: only after each epoch.
        keep: how many of the last checkpoints to keep.
        resume: go on from the last checkpoint, if there is one.
        ranks: the processes that train together. The first writes and reads the files, which hold the random numbers,
            the place in the data and the meters of each.
        each_rank: the names in ``state`` of what each process has a state of its own of; all else is that of the first.

    Attributes:
        first_epoch: the epoch to begin with or to go on in; after the last one, where training is complete.

    Raises:
        CheckpointError: where the folder holds checkpoints and ``resume`` is False; where it is True, and they are of
            another run or none can be read. Nothing is changed or overwritten.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        state: Mapping[str, Any],
        options: Mapping[str, Any],
        loader: Iterable[Any],
        every: int | None = None,
        keep: int = 2,
        resume: bool = False,
        ranks: Alone | None = None,
        each_rank: Sequence[str] = (),
    ) -> None:
        self.first_epoch = 0
        self._ranks = Alone() if ranks is None else ranks
        self._each_rank = frozenset(each_rank)
        self._folder = Folder(Path(folder), keep)
        self._state = dict(state)
        self._every = every
        self._fingerprint = fingerprint(state, options, loader, self._ranks.count)
        self._rates = [rate for record in records(state["model"]) for rate in record.rates]
        self._loader = loader
        self._position = Position()
        if self._ranks.first:
            warn_of_persistent_workers(loader)
        self._interrupts = Interrupts()
        self._epoch = 0
        self._steps = 0
        self._finished = False
        self._meters: dict[str, Stateful] = {}
        self._verified = False
        self._pending: dict[str, Any] | None = None  # of a checkpoint in mid-epoch, until its data is reached
        if resume:
            self._resume()
        else:
            self._ranks.first_does(self._refuse_used_folder)

    def begin_epoch(self, epoch: int, **meters: Stateful) -> None:
        """Says that an epoch begins.

        Args:
            epoch: counted from 0.
            meters: what counts within this epoch alone, such as the mean of its loss.
        """
        self._epoch = epoch
        self._steps = 0
        self._meters = meters

    def rest_of(self, loader: Iterable[Any]) -> Iterable[Any]:
        """Returns the batches of ``loader`` that this epoch has left: all, but for the one that is resumed."""
        return _Rest(loader, self)

    def step(self) -> None:
        """Says that an optimizer step is complete.

        Raises:
            Interrupted: if Ctrl-C or SIGTERM came during the step, to any of the processes; a checkpoint was written.
        """
        self._steps += 1
        if self._interrupted():
            self._stop()
        elif self._every is not None and self._steps % self._every == 0:
            self._write(self._epoch, self._steps)

    def end_epoch(self, *, last: bool = False) -> None:
        """Says that an epoch is complete, with all that belongs to it.

        Args:
            last: no other will follow, though more were planned.

        Raises:
            Interrupted: as :meth:`step`.
        """
        self._epoch += 1
        self._steps = 0
        self._finished = last
        if self._interrupted():
            self._stop()
        self._write(self._epoch, 0)

    def __enter__(self) -> Checkpoints:
        """Begins to listen for Ctrl-C."""
        self._interrupts.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the signals as they were."""
        self._interrupts.stop_listening()

    def _refuse_used_folder(self) -> None:
        if self._folder.files():
            raise CheckpointError(
                f"{self._folder.path} has checkpoints of a run already: resume=True goes on with it; give another "
                "folder to start anew"
            )

    def _interrupted(self) -> bool:
        """Whether any process was asked to stop: then all do, after the same step."""
        number = self._ranks.highest(int(self._interrupts.pending or 0))
        if number:
            self._interrupts.pending = signal.Signals(number)
        return bool(number)

    def _stop(self) -> None:
        assert self._interrupts.pending is not None
        path = self._write(self._epoch, self._steps)
        where = f"step {self._steps} of epoch {self._epoch + 1}" if self._steps else f"epoch {self._epoch}"
        message = (
            f"stopped by {self._interrupts.pending.name} after {where}; all of it is in {path}: "
            "resume=True goes on there"
        )
        if self._ranks.first:
            Console(stderr=True).print(message, highlight=False, soft_wrap=True)
        raise Interrupted(message, path)

    def _write(self, epoch: int, steps: int) -> Path:
        self._refuse_nan()
        with self._ranks.together():
            states = {name: None if each is None else each.state_dict() for name, each in self._state.items()}
        shared = {name: state for name, state in states.items() if name not in self._each_rank}
        state, sharded = gather(shared, first=self._ranks.first)
        ranks = self._ranks.collect(
            {
                "state": on_cpu({name: states[name] for name in self._each_rank}),
                "meters": on_cpu({name: each.state_dict() for name, each in self._meters.items()}) if steps else {},
                "position": self._position.state_dict() if steps else None,
                "generators": self._position.generators(self._loader),
                "random": random_state(),
            }
        )
        content = {
            "run": self._fingerprint,
            "epoch": epoch,
            "steps": steps,
            "finished": self._finished,
            "state": state,
            "sharded": sharded,
            "rates": [rate.state_dict() for rate in self._rates],
            "ranks": ranks,
        }
        return self._ranks.first_does(lambda: self._write_file(epoch, steps, content))

    def _write_file(self, epoch: int, steps: int, content: dict[str, Any]) -> Path:
        path = self._folder.write(epoch, steps, content)
        if not self._verified:
            try:
                read(path)
            except CheckpointError as error:
                path.unlink()
                kinds = ", ".join(f"{name} ({type(each).__name__})" for name, each in self._state.items())
                raise CheckpointError(
                    f"what was written cannot be read back: {error}. The state_dict() of one of {kinds} holds "
                    "something other than tensors, numbers, strings and containers of them"
                ) from error
            self._verified = True
        return path

    def _refuse_nan(self) -> None:
        """Keeps the last good checkpoint where the loss has become nan since."""
        loss = self._meters.get("train_loss")
        means = self._ranks.everyone(loss.mean() if isinstance(loss, Mean) else None)
        mean = next((each for each in means if each is not None and not abs(each) < float("inf")), None)
        if mean is not None:
            history: Any = self._state.get("history")
            raise NonFiniteLossError(
                f"the training loss became {mean} in epoch {self._epoch + 1}, so no checkpoint was written over the "
                "last one",
                history,
            )

    def _resume(self) -> None:
        content = self._read()
        if content is None:
            return
        self._verified = True
        self.first_epoch = self._epoch = content["epoch"]
        if content["finished"]:
            self.first_epoch = sys.maxsize
        self._restore(content)
        if content["steps"]:
            self._pending = content
        else:
            with self._ranks.together():
                self._position.set_generators(self._loader, content["generators"])

    def _read(self) -> dict[str, Any] | None:
        """Returns the content of the last checkpoint for this process; None where there is none."""
        found: list[dict[str, Any]] = []  # stays in the first process: the others need not have the file

        def read_last() -> bool:
            last = self._folder.last()
            if last is not None:
                path, content = last
                refuse_another(content["run"], self._fingerprint, str(path))
                found.append(content)
            return last is not None

        if not self._ranks.first_does(read_last):
            return None
        content = found[0] if found else {}
        parts = ("epoch", "steps", "finished", "rates", "sharded")
        told = self._ranks.tell({name: content[name] for name in parts} if found else {})
        keep = shard(told["sharded"], lambda: self._ranks.mesh)
        shared = self._ranks.spread(content.get("state"), keep)
        own = self._ranks.deal(content.get("ranks", []))
        return {**told, **own, "state": {**shared, **own["state"]}}

    def _restore(self, content: dict[str, Any]) -> None:
        with self._ranks.together():
            for name, each in self._state.items():
                if each is not None:
                    each.load_state_dict(content["state"][name])
                if isinstance(each, Optimizer) and content["steps"]:
                    # Or else a schedule that moves on before the next step, at the end of the epoch, warns.
                    each._opt_called = True  # type: ignore[attr-defined]
            for rate, state in zip(self._rates, content["rates"], strict=True):
                rate.load_state_dict(state)
            set_random_state(content["random"])

    def _batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        content, self._pending = self._pending, None
        if content is None:
            return self._position.begin(loader)

        def restore() -> None:
            """Once more: the statements that begin an epoch have run again, on what is in the middle of it."""
            self._restore(content)
            self._steps = content["steps"]
            for name, each in self._meters.items():
                each.load_state_dict(content["meters"][name])

        return self._position.go_on(loader, content["position"], restore)


def on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """Returns a state that another process can receive, which may not have this one's device."""
    found: dict[str, Any] = map_tensors(lambda _, tensor: tensor.cpu(), state)
    return found


class _Rest:
    """The batches of an epoch that are left; there may be none of them, where the loader had some."""

    def __init__(self, loader: Iterable[Any], checkpoints: Checkpoints) -> None:
        self._loader = loader
        self._checkpoints = checkpoints
        self.may_be_empty = checkpoints._pending is not None
        self.dataset = getattr(loader, "dataset", None)

    def __iter__(self) -> Iterator[Any]:
        return self._checkpoints._batches(self._loader)

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]
