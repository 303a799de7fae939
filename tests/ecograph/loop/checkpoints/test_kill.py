"""Training that is killed at any moment, again and again, ends with the bits of training that was not."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from long_run import Run, train
from torch.utils import _pytree as pytree

from ecograph.passes import Extrapolate, GradSamp, SliceOut, SparseBackward

KILLS = 5
SPARSE = SparseBackward(0.5, select="random", when="always", skip_first=False, min_channels=8)
SLICES = SliceOut(0.5, min_width=8, when="always")

RUNS = {
    "plain": Run(loader="generator"),
    "sparse backward, bf16": Run((SPARSE,), "AdamW", options={"passes": [SPARSE], "amp": "bf16"}),
    "slices, ticking by themselves": Run((SLICES,), "AdamW", loader="workers", options={"clip": 1.0}),
    "slices, in-place updates": Run(
        (SliceOut(0.5, min_width=8, update="slice", when="always"),), "Adam", options={"ema": 0.9}
    ),
    "sampled epochs": Run(optimizer="AdamW", loader="replacement", options={"passes": [GradSamp(every=3)]}),
    "extrapolation, accumulation": Run(options={"passes": [Extrapolate(radius=0.01)], "accumulate": 2}),
    "everything": Run(
        (SPARSE, SLICES),
        "AdamW",
        options={
            "passes": [GradSamp(every=3, snapshot="cpu"), Extrapolate(radius=0.01, direction="noise"), SPARSE],
            "amp": "bf16",
            "accumulate": 2,
            "clip": 1.0,
            "ema": 0.9,
        },
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_killed_and_resumed_it_is_the_run_that_was_not(name: str, tmp_path: Path) -> None:
    run = RUNS[name]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ecograph.passes", "ecograph.loop.runtime", "torch._dynamo"])  # takes seconds
    whole = context.Process(target=train, args=(run, tmp_path / "whole", tmp_path / "whole.pt"))
    whole.start()
    moments = random.Random(name)
    for _ in range(KILLS):
        count = context.RawValue("i", 0)
        process = context.Process(target=train, args=(run, tmp_path / "killed", tmp_path / "killed.pt", count))
        process.start()
        goal = moments.randint(1, 5)
        while count.value < goal and process.is_alive():
            time.sleep(0.001)
        time.sleep(moments.random() * 0.03)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was killed while it ran"
    last = context.Process(target=train, args=(run, tmp_path / "killed", tmp_path / "killed.pt"))
    last.start()
    for each in (whole, last):
        each.join()
        assert each.exitcode == 0
    assert_same(torch.load(tmp_path / "killed.pt"), torch.load(tmp_path / "whole.pt"))
    assert len(list((tmp_path / "killed").iterdir())) == 2, "nothing is left over"


def assert_same(found: object, expected: object) -> None:
    pairs = zip(*(pytree.tree_flatten_with_path(each)[0] for each in (found, expected)), strict=True)
    for (path, a), (other, b) in pairs:
        assert path == other
        same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        assert same, f"{pytree.keystr(path)}: {a} and {b}"
