"""Real processes on one storage, and SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from ecograph.sweeps.study import quiet_optuna

WORKER = """
import sys, time
sys.path.insert(0, {folder!r})
from small_sweeps import SPACE, make_loaders, make_model
import ecograph
from torch import set_num_threads
set_num_threads(1)

class Slow:
    def __init__(self, loader): self.loader = loader
    def __len__(self): return len(self.loader)
    def __iter__(self):
        for batch in self.loader:
            time.sleep({pause})
            yield batch

def loaders(batch_size=32):
    train, val = make_loaders(batch_size)
    return Slow(train), val

ecograph.sweep(
    make_model, loaders, target="val_accuracy >= 0.75", space=SPACE, budget={budget}, probes=False,
    prune=False, finalists=1, repeats=1, storage="sqlite:///sweep.db", resume=True, progress=False,
)
"""


def start(folder: Path, *, pause: float, budget: int) -> subprocess.Popen[bytes]:
    code = WORKER.format(folder=str(Path(__file__).parents[2] / "support"), pause=pause, budget=budget)
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder)


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    with quiet_optuna():
        return optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder / 'sweep.db'}").get_trials()


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except Exception as error:  # the study is not there yet
            last = error
        time.sleep(0.05)
    raise AssertionError(f"it did not happen in {seconds} s: {locals().get('last')}")


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_kill_loses_at_most_the_running_trial_and_workers_share_the_rest(tmp_path):
    worker = start(tmp_path, pause=0.03, budget=6)
    done = lambda: [t for t in trials(tmp_path) if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]  # noqa: E731
    running = lambda: [t for t in trials(tmp_path) if t.state == TrialState.RUNNING and t.params]  # noqa: E731
    wait_for(lambda: done() and running())
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    before, lost = done(), running()
    assert len(lost) == 1

    others = [start(tmp_path, pause=0.01, budget=6) for _ in range(2)]
    assert [worker.wait(120) for worker in others] == [0, 0]
    after = trials(tmp_path)
    kept = {t.number: t for t in after}
    for trial in before:
        assert kept[trial.number].user_attrs["attempt"] == trial.user_attrs["attempt"]
    assert kept[lost[0].number].state == TrialState.FAIL
    assert any(t.user_attrs.get("again") == lost[0].number and t.params == lost[0].params for t in after)
    searched = [t for t in after if "attempt" in t.user_attrs and "repeat of" not in t.user_attrs]
    assert 6 <= len(searched) <= 7, "each worker looks before it takes a trial, so that one may be too many"
    assert len({t.user_attrs["worker"]["pid"] for t in searched}) >= 2
    assert not [t for t in after if t.state in (TrialState.RUNNING, TrialState.WAITING)]
