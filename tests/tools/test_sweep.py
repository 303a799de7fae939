from __future__ import annotations

import json

import pytest

from ecograph.tools.sweep import example_text
from ecograph.tools.sweeps.options import flat

pytest.importorskip("optuna")

JOB = """
seed = 3
device = "cpu"
model = "own.py:Net"

[data]
spec = "own.py:data"
batch_size = 16

[optimizer]
name = "sgd"
lr = 0.1
momentum = 0.9

[schedule]
name = "onecycle"

[loop]
epochs = 4
metric = "accuracy"

[sweep]
target = "val_accuracy >= 0.8"
trials = 4
output = "out"
finalists = 1
repeats = 1
probes = false

[sweep.space]
"optimizer.name" = ["sgd", "adamw"]
"optimizer.lr@sgd" = { low = 0.01, high = 1.0, log = true }
"optimizer.lr@adamw" = { low = 1e-3, high = 0.1, log = true }
"data.batch_size" = [8, 16]
"passes.sparse_backward" = [false, true]
"passes.sparse_backward.drop" = [0.5, 0.8]
"""

OWN = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=generator)
    y = (x @ torch.randn(8, 3, generator=generator)).argmax(1)
    return TensorDataset(x[:192], y[:192]), TensorDataset(x[192:], y[192:])
"""


@pytest.fixture
def job(main, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "job.toml").write_text(JOB)

    def run(*arguments: str):
        return main("sweep", "job.toml", *arguments)

    return run


def test_the_best_setting_is_a_job_that_runs(job, main, tmp_path):
    code, out, err = job("--json", "--html", "page.html")
    found = json.loads(out)
    assert code == 0, err
    assert len(found["trials"]) == 4 and found["trials"][0]["setting"] == {
        "optimizer.name": "sgd", "optimizer.lr": 0.1, "data.batch_size": 16, "passes.sparse_backward": False,
    }  # fmt: skip
    assert found["best"]["mean_cost"] > 0 and found["files"]["best"] == "out/best.toml"
    assert (tmp_path / "out" / "sweep.db").exists() and "<svg" in (tmp_path / "page.html").read_text()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["best"] == found["best"]

    code, out, err = main("train", "out/best.toml", "--json")
    assert code == 0, err
    history = json.loads(out)["history"]["epochs"]
    assert [round(epoch["val_accuracy"], 6) for epoch in history] == [
        round(value, 6) for *_, value in found["best"]["curve"]
    ], "the job is the very training that the search has seen"

    code, _, err = job()
    assert code == 2 and "--resume" in err
    code, out, _ = job("--resume", "--trials", "5")
    assert code == 0 and "5 settings" in out and "best: trial" in " ".join(out.split())


TASKS = """
model = "tasks.py:Net"
data = "tasks.py:data"
loss = "tasks.py:LOSSES"
seed = 3
device = "cpu"

[optimizer]
name = "adamw"
lr = 0.03

[loop]
epochs = 40
metric = "accuracy"

[sweep]
trials = 2
output = "out"
finalists = 0
probes = false

[sweep.space]
"optimizer.lr" = [0.03]
"""

TASKS_OWN = """
import torch
from torch import nn
from torch.utils.data import Dataset

class Points(Dataset):
    def __init__(self, first, last):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(256, 8, generator=generator)
        self.kind = (self.x @ torch.randn(8, 3, generator=generator)).argmax(1)[first:last]
        self.x = self.x[first:last]
        self.sum = self.x[:, :2].sum(1)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, at):
        return self.x[at], {"kind": self.kind[at], "sum": self.sum[at]}

class Net(nn.Module):
    def __init__(self, tasks):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(32, {"kind": 3, "sum": 1}[name]) for name in tasks})

    def forward(self, x):
        trunk = self.trunk(x)
        return {name: head(trunk).squeeze(1) for name, head in self.heads.items()}

def data():
    return Points(0, 192), Points(192, 256)

LOSSES = {"kind": "cross_entropy", "sum": nn.functional.mse_loss}
ONE_LOSS = {"kind": "cross_entropy"}

def without_tasks():
    return nn.Linear(8, 3)
"""

KIND, SUM = ("--target", "kind=val_accuracy >= 0.75"), ("--target", "sum=val_loss<=0.3")


@pytest.fixture
def tasks_job(main, tmp_path):
    (tmp_path / "tasks.py").write_text(TASKS_OWN)
    (tmp_path / "job.toml").write_text(TASKS)

    def run(*arguments: str):
        return main("sweep", "job.toml", *arguments)

    return run


def test_several_targets_are_those_of_tasks(tasks_job, main):
    code, out, err = tasks_job(*KIND, *SUM, "--minimize", "flops", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["trials"][0]["setting"] == {"trunk": "separate", "optimizer.lr": 0.03}
    assert found["target"] == "kind: val_accuracy >= 0.75 and sum: val_loss <= 0.3" and found["reached"] == 2
    assert all(row["curve"][-1][-1] >= 0 and row["mean_cost"] > 0 for row in found["trials"])

    best = found["best"]
    code, out, err = main("sweep", found["files"]["best"], "--minimize", "flops", "--json")
    assert code == 0, err
    (again,) = json.loads(out)["trials"]
    assert again["setting"]["trunk"] == best["setting"]["trunk"]
    assert again["cost"]["flops"] == best["cost"]["flops"], "it is the very training that the search has seen"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (KIND, "give two tasks or more"),
        ((*KIND, "--target", "val_loss <= 0.3"), "each is TASK=TARGET"),
        ((*KIND, *KIND), "the task 'kind' has two"),
        ((*KIND, "--target", "sum=val_loss >= 0.3"), "better the lower"),
        ((*KIND, "--target", "sum=val_f1 >= 0.3"), "target of 'sum': there is no val_f1"),
        ((*KIND, *SUM, "--set", "loss=tasks.py:ONE_LOSS"), "nothing for the task 'sum'"),
        ((*KIND, *SUM, "--set", "model=tasks.py:without_tasks"), "a parameter 'tasks'"),
        ((*KIND, *SUM, "--set", "model=demo:tiny"), "a parameter 'tasks'"),
        ((*KIND, *SUM, "--set", "sweep.space.trunk=['both']"), "trunk: give a list of separate, shared"),
        ((*KIND, *SUM, "--set", "sweep.space.trunk={low = 0, high = 1}"), "trunk: give a list of separate, shared"),
        (("--set", "sweep.target={kind = 3, sum = 4}"), "sweep.target.kind = 3 must be text"),
    ],
    ids=str,
)
def test_says_what_is_wrong_with_several_targets(tasks_job, arguments, message):
    code, _, err = tasks_job(*arguments)
    assert code == 2 and message in " ".join(err.split())


def test_a_target_that_is_never_reached_is_said_and_fails(job):
    code, out, _ = job("--target", "val_accuracy > 1", "--trials", "2", "--set", "loop.epochs=1")
    assert code == 1 and "no setting reached" in " ".join(out.split())


def test_without_a_space_what_usually_matters_varies(main, tmp_path):
    from ecograph.tools.jobs import read_job
    from ecograph.tools.sweeps.problem import JobProblem

    (tmp_path / "job.toml").write_text(JOB.partition("[sweep]")[0])
    job = read_job(tmp_path / "job.toml")
    problem = JobProblem.of(job.table, {}, "job.toml")
    assert set(problem.space.parameters) == {
        "optimizer.name", "optimizer.lr@sgd", "optimizer.lr@adamw", "data.batch_size", "loop.epochs", "loop.amp",
        "passes.sparse_backward", "passes.gradsamp",
    }  # fmt: skip
    assert problem.start == {
        "optimizer.name": "sgd", "optimizer.lr": 0.1, "data.batch_size": 16, "loop.epochs": 4, "loop.amp": False,
        "passes.sparse_backward": False, "passes.gradsamp": False,
    }  # fmt: skip
    varied = problem.job({**problem.start, "optimizer.name": "adamw", "optimizer.lr": 0.01, "passes.gradsamp": True})
    assert varied.optimizer.options == {"lr": 0.01} and [each.name for each in varied.passes] == ["gradsamp"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "val_accuracy <= 0.8"), "better the higher"),
        (("--target", "val_f1 >= 0.8"), "there is no val_f1"),
        (("--minimize", "joy"), "minimize='joy'"),
        (("--minimize", "money"), "energy.price"),
        (("--storage", "bogus://x"), "cannot be opened"),
        (("--set", "sweep.trails=3"), "did you mean 'sweep.trials'"),
        (("--set", "sweep.trials='many'"), "sweep.trials = 'many' must be a whole number"),
        (("--set", "sweep.give_up=0.5"), "must be 1 or more"),
        (("--set", "sweep.space=3"), "must be a table"),
        (("--set", "sweep.space.loop.epoch=[1]"), "did you mean 'loop.epochs'"),
        (("--set", "sweep.space.loop.epochs=['a']"), "loop.epochs = 'a' must be a whole number"),
        (("--set", "sweep.space.loop.epochs=[]"), "no value to choose from"),
        (("--set", "sweep.space.loop.epochs=3"), "neither a list of values nor a range"),
        (("--set", "sweep.space.passes.sparseback=[true]"), "passes.sparse"),
        (("--set", "loop.epoch=3"), "did you mean 'loop.epochs'"),
    ],
    ids=str,
)
def test_says_what_is_wrong(job, arguments, message):
    code, _, err = job(*arguments)
    assert code == 2 and message in " ".join(err.split())


def test_needs_a_target(job, main, tmp_path):
    (tmp_path / "job.toml").write_text(JOB.replace('target = "val_accuracy >= 0.8"', ""))
    code, _, err = job()
    assert code == 2 and "needs a target" in err
    code, _, err = main("sweep")
    assert code == 2 and "--example" in err


def test_the_example_is_read(main, tmp_path):
    (tmp_path / "s.toml").write_text(example_text())
    code, _, err = main("sweep", "s.toml", "--target", "nothing")
    assert code == 2 and "target='nothing'" in err
    code, out, _ = main("sweep", "--example")
    assert code == 0 and out == example_text()
    code, _, err = main("train", "s.toml")
    assert code == 2 and "[sweep] is for ecograph sweep" in " ".join(err.split())


def test_nested_tables_are_keys():
    nested = {"loop": {"epochs": [1, 2]}, "optimizer.lr": {"low": 1, "high": 2}}
    assert flat(nested) == {"loop.epochs": [1, 2], "optimizer.lr": {"low": 1, "high": 2}}
