"""Real processes on one storage, and SIGKILL."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import cache
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from ecograph.sweeps.study import open_storage, open_study, quiet_optuna, take_up_lost

WORKER = """
import os, sys, time
from pathlib import Path
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

ecograph.sweep  # importing it takes longer than some trials
Path(f"ready-{{os.getpid()}}").touch()
while not Path("go").exists():
    time.sleep(0.02)
ecograph.sweep(
    make_model, loaders, target="val_accuracy >= 0.75", space=SPACE, budget={budget}, probes=False,
    prune=False, finalists=1, repeats=1, storage="sqlite:///sweep.db", resume=True, progress=False,
)
"""

SUPPORT = Path(__file__).parents[2] / "support"


def start(folder: Path, *, pause: float, budget: int) -> subprocess.Popen[bytes]:
    code = WORKER.format(folder=str(SUPPORT), pause=pause, budget=budget)
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder)


@cache  # to open it takes longer than to look
def study(path: Path) -> optuna.Study:
    with quiet_optuna():
        return optuna.load_study(study_name="sweep", storage=f"sqlite:///{path}")


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return study(folder / "sweep.db").get_trials()


def begun(folder: Path) -> bool:
    """Whether there is a trial: asked without optuna, which would make the tables beside the workers."""
    with closing(sqlite3.connect(f"file:{folder / 'sweep.db'}?mode=ro", uri=True)) as database:
        return database.execute("SELECT count(*) FROM trials").fetchone()[0] > 0


def wait_for(condition, seconds=60.0):
    last, end = "", time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except Exception as error:  # the study is not there yet
            last = str(error)  # with the error its traceback would stay, and in that a session that locks the file
        time.sleep(0.1)
    raise AssertionError(f"it did not happen in {seconds} s: {last}")


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_kill_loses_at_most_the_running_trial_and_workers_share_the_rest(tmp_path):
    workers = [start(tmp_path, pause=0.05, budget=6) for _ in range(2)]
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    (tmp_path / "go").touch()  # both at once, on a file that is not there yet
    wait_for(lambda: begun(tmp_path))
    done = lambda: [t for t in trials(tmp_path) if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]  # noqa: E731
    running = lambda: [t for t in trials(tmp_path) if t.state == TrialState.RUNNING and t.params]  # noqa: E731
    lost, before = [], []

    def stopped_in_a_trial():
        """Stops the first worker; has it go on where it was between two trials, at the storage, or just done."""
        workers[0].send_signal(signal.SIGSTOP)
        try:
            mine = [t for t in running() if t.user_attrs["worker"]["pid"] == workers[0].pid]
            lost[:] = [t for t in mine if "attempt" not in t.user_attrs]
            before[:] = done()
        finally:
            if not lost:
                workers[0].send_signal(signal.SIGCONT)
        return lost

    wait_for(lambda: done() and len(running()) == 2 and stopped_in_a_trial())
    workers[0].send_signal(signal.SIGKILL)
    workers[0].wait()
    (lost,) = lost

    assert workers[1].wait(120) == 0
    after = trials(tmp_path)
    kept = {t.number: t for t in after}
    for trial in before:
        assert kept[trial.number].user_attrs["attempt"] == trial.user_attrs["attempt"]
    assert kept[lost.number].state == TrialState.FAIL
    (again,) = (t for t in after if t.user_attrs.get("again") == lost.number)
    # It may have been stopped while it was given its setting: what it had been given is kept.
    assert lost.params.items() <= again.params.items() and "attempt" in again.user_attrs
    searched = [t for t in after if "attempt" in t.user_attrs and "repeat of" not in t.user_attrs]
    assert len(searched) == 6
    assert not [t for t in after if t.state in (TrialState.RUNNING, TrialState.WAITING)]


DYING = """
import os, signal
from ecograph.sweeps.study import open_storage, open_study, this_worker, quiet_optuna
with quiet_optuna():
    study = open_study(open_storage("sweep.db"), "sweep", {{"minimize": "energy"}}, resume=True, seed=0, epochs=4)
    trial = study.ask()
    trial.suggest_float("lr", 0.1, 1.0)
    trial.set_user_attr("worker", this_worker())
    became = {became!r}
    if became is not None:
        trial.set_user_attr("attempt", became)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
@pytest.mark.parametrize(
    ("became", "state", "value", "again"),
    [
        (None, TrialState.FAIL, None, 1),
        ({"outcome": "reached", "cost": {"energy": 7.5, "time": 2.0}}, TrialState.COMPLETE, 7.5, 0),
        ({"outcome": "not reached", "cost": {"energy": 9.0}}, TrialState.PRUNED, None, 0),
    ],
)
def test_a_training_that_was_done_counts_though_its_worker_died(tmp_path, became, state, value, again):
    ran = subprocess.run([sys.executable, "-c", DYING.format(became=became)], cwd=tmp_path)
    assert ran.returncode == -signal.SIGKILL
    with quiet_optuna():
        storage = open_storage(tmp_path / "sweep.db")
        left = open_study(storage, "sweep", {"minimize": "energy"}, resume=True, seed=0, epochs=4)
        assert left.trials[0].state == TrialState.RUNNING
        assert take_up_lost(left) == again
    assert (left.trials[0].state, left.trials[0].value) == (state, value)
    assert len(left.trials) == 1 + again
