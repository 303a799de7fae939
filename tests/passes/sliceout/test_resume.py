"""A training that is killed and resumed goes on bit for bit: model, optimizer and Scheduler from their state_dicts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")

SCRIPT = """
import os, sys, time
import torch, torch.nn as nn
import ecograph
from ecograph.passes import SliceOut, SparseBackward

name, path, result, pause = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "pause"
torch.set_num_threads(1)
torch.manual_seed(0 if not os.path.exists(path) else 99)  # a resumed process has other random numbers at first
model = nn.Sequential(
    nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(),
    nn.Flatten(), nn.Linear(32 * 4, 64), nn.ReLU(), nn.Linear(64, 5),
)
x = torch.zeros(4, 3, 6, 6)
update = "slice" if name.endswith("slice") else "autograd"
sparse = SparseBackward(0.5, schedule="bar", when="always", skip_first=False, min_channels=1)
slices = SliceOut(0.5, when="always", schedule="linear", starts="any", update=update, seed=3)
ecograph.optimize(model, example_inputs=x, passes=[sparse, slices])
if name.startswith("SGD"):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
else:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
scheduler = ecograph.Scheduler(model, epochs=4, steps_per_epoch=5, warmup=1)
if os.path.exists(path):
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
losses = []
while scheduler.last_step < 20:
    generator = torch.Generator().manual_seed(scheduler.last_step)
    loss = model(torch.randn(4, 3, 6, 6, generator=generator)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    losses.append((scheduler.last_step, loss.item()))
    if pause and scheduler.last_step == 9:
        state = dict(model=model.state_dict(), optimizer=optimizer.state_dict(), scheduler=scheduler.state_dict())
        torch.save(state, path + ".part")
        os.replace(path + ".part", path)
        while True:  # goes on computing until it is killed
            model(torch.randn(4, 3, 6, 6)).sum().backward()
            time.sleep(0.001)
torch.save(dict(model=model.state_dict(), optimizer=optimizer.state_dict(), losses=losses), result)
"""


@pytest.mark.parametrize("name", ["SGD", "AdamW", "AdamW, slice"])
def test_killed_and_resumed_it_is_the_training_that_was_not(name: str, tmp_path: Path) -> None:
    script, checkpoint = tmp_path / "train.py", tmp_path / "checkpoint.pt"
    script.write_text(SCRIPT)

    def start(result: str, path: Path, pause: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, str(script), name, str(path), str(tmp_path / result), pause]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finish(process: subprocess.Popen[str]) -> None:
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output

    finish(start("whole.pt", tmp_path / "none.pt"))
    killed = start("never.pt", checkpoint, "pause")
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert killed.poll() is None and time.monotonic() < deadline, killed.stdout and killed.stdout.read()
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    finish(start("resumed.pt", checkpoint))

    whole, resumed = torch.load(tmp_path / "whole.pt"), torch.load(tmp_path / "resumed.pt")
    assert resumed["losses"] == whole["losses"][9:]
    assert len(resumed["losses"]) == 11
    for key, value in whole["model"].items():
        assert torch.equal(resumed["model"][key], value), key
    states = [each["optimizer"]["state"] for each in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        for key, value in state.items():
            assert torch.equal(states[1][number][key], value), (number, key)
