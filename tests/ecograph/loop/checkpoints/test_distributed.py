"""Checkpoints of two real ranks: resumed they go on bit for bit; killed, stopped or refused, they do so together."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from several_ranks import files, train
from two_ranks import needs_gloo, on_two_ranks, start_two_ranks

from ecograph.loop import CheckpointError

pytestmark = needs_gloo

COMMON = """
import os, signal
from pathlib import Path
from pytest import raises
from ecograph.loop import CheckpointError, Interrupted
from several_ranks import RUNS, At, files, same, train

FOLDER = Path(store).parent
"""

BODIES = {
    "stopped_on_one_rank_and_gone_on_with_it_is_the_run_that_was_not": """
for at, (name, options) in enumerate(RUNS.items()):
    whole = train(folder=FOLDER / f"whole {at}", **options)
    folder = FOLDER / f"stopped {at}"
    per_epoch = 2 if "accumulate" in options else 4
    # In the middle of an epoch, and at the end of one.
    for step in sorted({1, per_epoch}) if at else (1, 3, per_epoch, 2 * per_epoch):
        number = (signal.SIGTERM, signal.SIGINT)[step % 2]
        stop = At(step, lambda: os.kill(os.getpid(), number)) if rank == at % 2 else At()
        before = signal.getsignal(number)
        with raises(Interrupted, match=f"stopped by {number.name} after .*resume=True goes on there") as stopped:
            train(folder=folder, resume=True, callback=stop, **options)
        assert signal.getsignal(number) is before
        last = sorted(files(folder))[-1]
        assert stopped.value.path == folder / last
    same(train(folder=folder, resume=True, **options), whole)
    assert len(files(folder)) == 2
""",
    "resumed_after_the_end_nothing_is_left_to_do": """
for kind in ("ddp", "fsdp"):
    whole = train(kind, FOLDER / f"done {kind}")
    before = files(FOLDER / f"done {kind}")
    again = train(kind, FOLDER / f"done {kind}", resume=True)
    same(again[0]["model"], whole[0]["model"])
    assert again[1] == whole[1]
    assert files(FOLDER / f"done {kind}") == before
""",
    "one_rank_writes_and_reads_and_the_weights_are_whole": """
for kind in ("ddp", "fsdp"):
    folder = FOLDER / f"rank {rank} {kind}"  # as on machines that have no folder in common
    whole = train(kind, folder, log=folder / "history.csv", epochs=1)
    expected = ["epoch-0000-step-000004.pt", "epoch-0001-step-000000.pt", "history.csv"]
    assert sorted(files(folder)) == (expected if rank == 0 else [])
    if rank == 0:
        (folder / "epoch-0001-step-000000.pt").unlink()
        content = torch.load(folder / "epoch-0000-step-000004.pt", weights_only=True)
        same(content["state"]["model"], whole[0]["model"])
        assert len(content["ranks"]) == 2
    same(train(kind, folder, epochs=1, resume=True), whole)
    assert not files(folder) or rank == 0
""",
    "killed_and_gone_on_with_it_is_the_run_that_was_not": """
last = max(name for name in files(FOLDER / "killed") if name.endswith(".pt"))
assert "epoch-0001-step-000001.pt" <= last < "epoch-0004", "in the middle"
whole = train(folder=FOLDER / "not killed", **RUNS["fsdp"])
same(train(folder=FOLDER / "killed", resume=True, **RUNS["fsdp"]), whole)
""",
    "refused_on_all_ranks_and_nothing_is_touched": """
for kind in ("ddp", "fsdp"):
    used, alone = FOLDER / f"done {kind}", FOLDER / f"alone {kind}"
    before = files(used), files(alone)
    with raises(CheckpointError, match="has checkpoints of a run already: resume=True goes on"):
        train(kind, used)
    with raises(CheckpointError, match="was written with clip=None, and now it is clip=1.0"):
        train(kind, used, resume=True, clip=1.0)
    with raises(CheckpointError, match="with distributed=.*, and now it is distributed="):
        train("ddp" if kind == "fsdp" else "fsdp", used, resume=True)
    with raises(CheckpointError, match="was written by 1 processes, and here are 2: start as many"):
        train(kind, alone, resume=True)
    assert (files(used), files(alone)) == before and len(before[1]) == 2
    (FOLDER / f"damaged {kind}").mkdir(exist_ok=True)
    if rank == 0:
        (FOLDER / f"damaged {kind}" / "epoch-0001-step-000000.pt").write_bytes(b"nothing")
    with raises(CheckpointError, match="none of the checkpoints in .* can be read"):
        train(kind, FOLDER / f"damaged {kind}", resume=True)
""",
    "what_fails_on_one_rank_fails_on_all": """
class Broken(At):
    def state_dict(self):
        raise KeyError("no state")

class Odd(At):
    def state_dict(self):
        return {"what": Path("somewhere")}

place = FOLDER / "a file"
place.touch()
with raises((FileExistsError, NotADirectoryError)):
    train("ddp", place)
for kind in ("ddp", "fsdp"):
    with raises(KeyError, match="no state"):
        train(kind, FOLDER / f"broken {kind}", callback=Broken() if rank == 1 else At())
    with raises(CheckpointError, match="cannot be read back"):
        train(kind, FOLDER / f"odd {kind}", callback=Odd() if rank == 1 else At())
    assert not files(FOLDER / f"broken {kind}") and not files(FOLDER / f"odd {kind}")
""",
}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/alone", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def kill_two_ranks(folder: Path) -> None:
    """Kills two ranks in the middle of a training."""
    code = "train(folder=FOLDER / 'killed', checkpoint_every=1, **RUNS['fsdp'])"
    ranks = start_two_ranks(folder, COMMON + code, name="killed_ranks")
    try:
        while not list((folder / "killed").glob("epoch-0001-step-00000[1-9].pt")):
            assert all(rank.poll() is None for rank in ranks), ranks[0].communicate()[0]
            time.sleep(0.001)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert [rank.returncode for rank in ranks] == [-signal.SIGKILL] * 2, "they were killed while they ran"


@pytest.mark.usefixtures("alone")
def test_on_two_ranks(tmp_path: Path) -> None:
    for kind in ("ddp", "fsdp"):
        train(kind, tmp_path / f"alone {kind}")
    kill_two_ranks(tmp_path)
    for rank in on_two_ranks(tmp_path, COMMON, BODIES):
        assert rank == dict.fromkeys(BODIES, "")
    for kind in ("ddp", "fsdp"):
        before = files(tmp_path / f"done {kind}")
        with pytest.raises(CheckpointError, match="was written by 2 processes, and here are 1: start as many"):
            train(kind, tmp_path / f"done {kind}", resume=True)
        assert files(tmp_path / f"done {kind}") == before
