from __future__ import annotations

from pathlib import Path

import pytest

from ecograph.passes import GradSamp, SliceOut, SparseBackward
from ecograph.tools.jobs import Job, read_job, toml
from ecograph.tools.jobs.job import DataSet, Model, Named, Top
from ecograph.tools.jobs.read import make_job
from ecograph.tools.jobs.write import to_table
from ecograph.tools.train import example_text

SMALL = Job(Top(), Model("demo:tiny"), DataSet("digits"), loop={"epochs": 3})
LARGE = Job(
    Top(seed=4, device="cpu", loss="model", output="runs/a"),
    Model("a.py:Net", channels_last=True, skip=["head", "stem"]),
    DataSet("a.py:data", 7, None, 2, True),
    Named("sgd", {"lr": 0.1, "nesterov": True}),
    Named("multistep", {"milestones": [1, 2], "gamma": 0.5}),
    (SliceOut(rate=0.25), SparseBackward(grads=("input",), drop=0.5), GradSamp(every=3)),
    {"epochs": 3, "clip": None, "checkpoint": None, "log": ["a.csv", "b.jsonl"], "callbacks": ["a.py:Talking"]},
)


@pytest.mark.parametrize("job", [SMALL, LARGE], ids=["small", "large"])
def test_what_is_written_is_read_back(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(toml.dump(to_table(job)), encoding="utf-8")
    assert read_job(path) == job


def test_the_example(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(example_text(), encoding="utf-8")
    job = read_job(path)
    assert make_job(to_table(job), says="the table") == job


def test_defaults_are_left_out_but_for_passes() -> None:
    table = to_table(SMALL)
    assert table["model"] == {"spec": "demo:tiny"} and table["data"] == {"spec": "digits"} and "seed" not in table
    assert to_table(LARGE)["passes"]["sparse_backward"]["schedule"] == SparseBackward().schedule
