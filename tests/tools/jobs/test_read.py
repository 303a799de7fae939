"""Strictness: what is not understood is an error that names it; what is understood is what was written."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from ecograph import registry
from ecograph.loop import TrainingLoop
from ecograph.passes import GradSamp, SliceOut, SparseBackward
from ecograph.tools.errors import UserError
from ecograph.tools.jobs import read_job, toml
from ecograph.tools.jobs.job import DataSet, Energy, Job, Model, Named, Top
from ecograph.tools.jobs.read import LOOP
from ecograph.tools.train import example_text

SMALL = """
seed = 1

[model]
spec = "demo:tiny"

[data]
spec = "digits"

[loop]
epochs = 3
"""


def read(tmp_path: Path, text: str, *changes: str) -> Job:
    (tmp_path / "job.toml").write_text(text, encoding="utf-8")
    return read_job(tmp_path / "job.toml", changes)


def test_a_small_job(tmp_path: Path) -> None:
    assert read(tmp_path, SMALL) == Job(Top(seed=1), Model("demo:tiny"), DataSet("digits"), loop={"epochs": 3})


FULL = """
seed = 1
device = "cpu"
loss = "mse"
output = "runs/x"
model = "demo:small"
optimizer = "sgd"

[data]
spec = "random:4:2"
batch_size = 7
limit = false
workers = 2
drop_last = true

[schedule]
name = "step"
step_size = 3

[passes.sparse_backward]
drop = 0.5
grads = ["weight"]

[passes]
sliceout = {}
extrapolation = false

[passes.gradsamp]
every = 5

[loop]
epochs = 3
clip = 1
log = ["a.csv", "b.jsonl"]
metric = "my.py:f1"
"""


def test_everything(tmp_path: Path) -> None:
    job = read(tmp_path, FULL.replace("[passes]\nsliceout = {}\nextrapolation = false", "[passes.sliceout]"))
    assert job.top == Top(1, "cpu", "mse", "runs/x")
    assert (job.model, job.data) == (Model("demo:small"), DataSet("random:4:2", 7, None, 2, True))
    assert (job.optimizer, job.schedule) == (Named("sgd"), Named("step", {"step_size": 3}))
    assert job.passes == (SparseBackward(0.5, grads=("weight",)), SliceOut(), GradSamp(every=5))
    assert job.setup.passes == [SparseBackward(0.5, grads=("weight",)), SliceOut()]
    assert job.loop_options == {
        "epochs": 3, "clip": 1, "log": ["a.csv", "b.jsonl"], "metric": "my.py:f1", "lr_step": "epoch",
        "checkpoint": "runs/x/checkpoints",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ("loop.epochs=9", "loop.epochs", 9),
        ("loop.amp=bf16", "loop.amp", "bf16"),
        ("loop.clip = 2.5", "loop.clip", 2.5),
        ("loop.clip=false", "loop.clip", None),
        ("loop.stop=val_loss <= 0.1", "loop.stop", "val_loss <= 0.1"),
        ("output=else/where", "output", "else/where"),
        ("output=else/where", "loop.checkpoint", "else/where/checkpoints"),
        ("model=demo:wide", "model.spec", "demo:wide"),
        ("model.spec=demo:wide", "model.spec", "demo:wide"),
        ("model.skip=['a', 'b']", "model.skip", ["a", "b"]),
        ("schedule=onecycle", "loop.lr_step", "step"),
        ("schedule=plateau", "loop.lr_step", "val_loss"),
        ("optimizer.momentum=0.9", "optimizer.momentum", 0.9),
        ("passes.gradsamp.every=7", "passes.gradsamp.every", 7),
        ("passes.sliceout={rate = 0.25}", "passes.sliceout.rate", 0.25),
        ("loop.callbacks=['x.py:y']", "loop.callbacks", ["x.py:y"]),
    ],
)
def test_changes_of_the_command_line(change: str, name: str, value: Any, tmp_path: Path) -> None:
    text = SMALL + '[optimizer]\nname = "sgd"\n[schedule]\nname = "cosine"\n'
    assert read(tmp_path, text, change).flat()[name] == value


def test_a_pass_that_was_left_out_comes_back_with_an_option(tmp_path: Path) -> None:
    text = SMALL + "[passes]\ngradsamp = false\n"
    assert read(tmp_path, text).passes == ()
    assert read(tmp_path, text, "passes.gradsamp.every=5").passes == (GradSamp(every=5),)
    assert read(tmp_path, SMALL + "[passes.gradsamp]\n", "passes.gradsamp=false").passes == ()


#: What is added to the small job, what is changed by the command line, and what the error says.
MISTAKES: list[tuple[str, str, tuple[str, ...]]] = [
    ("[loop]", "", ("not TOML",)),
    ("[lop]\nepochs = 3", "", ("job.toml: there is no key 'lop'", "did you mean 'loop'?")),
    ("[optimizer]\nlr = 3", "", ("name is missing in [optimizer]", 'name = "sgd"')),
    ("[schedule]\nname = 3", "", ("name is missing in [schedule]",)),
    ("[optimizer]\nname = 'sgd'\n[optimizer.groups]\na = 1", "", ("no table optimizer.groups",)),
    ("[passes.gradsmp]", "", ("job.toml: there is no key 'passes.gradsmp'", "did you mean 'passes.gradsamp'?")),
    ("[passes.gradsamp]\nevry = 3", "", ("'passes.gradsamp.evry'", "did you mean 'passes.gradsamp.every'?")),
    ("[passes.gradsamp]\nevery = 1", "", ("job.toml: passes.gradsamp: every=1",)),
    ("[passes.sliceout]\nfilter_fn = 'f'", "", ("'passes.sliceout.filter_fn'",)),
    ("[passes]\ngradsamp = true", "", ("passes.gradsamp = True must be a table",)),
    ("", "loop.epohcs=3", ("--set: there is no key 'loop.epohcs'", "did you mean 'loop.epochs'?")),
    ("", "epochs=3", ("--set: there is no key 'epochs'", "did you mean 'loop.epochs'?")),
    ("", "batch_size=3", ("did you mean 'data.batch_size'?",)),
    ("", "lr=3", ("did you mean 'optimizer.lr'?",)),
    ("", "frobnicate=3", ("there is no key 'frobnicate'", "there are seed, device")),
    ("", "loop.passes=[]", ("'loop.passes'",)),
    ("", "loop.source=x", ("'loop.source'",)),
    ("", "loop.epochs=many", ("--set: loop.epochs = 'many' must be a whole number",)),
    ("", "loop.amp=fp8", ('loop.amp = \'fp8\' must be "bf16" or "fp16" or false',)),
    ("", "loop.progress=1", ("loop.progress = 1 must be true or false",)),
    ("", "loop.log=3", ("loop.log = 3 must be text in quotes or a list of text in quotes or false",)),
    ("", "model.skip=head", ("model.skip = 'head' must be a list of text in quotes",)),
    ("", "seed=true", ("seed = True must be a whole number",)),
    ("", "loop=3", ("loop = 3 must be a table: [loop]",)),
    ("", "passes.gradsamp.every=1", ("--set: passes.gradsamp: every=1",)),
    ("", "loop.epochs", ("--set 'loop.epochs'", "KEY=VALUE")),
    ("", "=3", ("--set '=3'", "KEY=VALUE")),
    ("", "loop..epochs=3", ("--set 'loop..epochs=3'", "KEY=VALUE")),
]


@pytest.mark.parametrize(("text", "change", "words"), MISTAKES, ids=[f"{t}{c}" for t, c, _ in MISTAKES])
def test_mistakes(text: str, change: str, words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, SMALL + text, *filter(None, [change]))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("table", "key"), [("model", "spec"), ("data", "spec"), ("loop", "epochs")])
def test_what_cannot_be_left_out(table: str, key: str, tmp_path: Path) -> None:
    text = re.sub(rf"\[{table}\]\n.*\n", "", SMALL)
    with pytest.raises(UserError, match=rf"{key} is missing in \[{table}\]: give one, such as {key} = "):
        read(tmp_path, text)


# -- the example ------------------------------------------------------------------------------------------------------


def everything_in_the_example() -> dict[str, Any]:
    """The example with every line that is commented out taken in."""
    return toml.tomllib.loads(re.sub(r"(?m)^#(\w+ = |\[)", r"\1", example_text()))


def test_the_example_shows_every_key() -> None:
    table = everything_in_the_example()
    assert set(table["loop"]) == set(LOOP)
    for name, kind in (("model", Model), ("data", DataSet), ("energy", Energy)):
        assert set(table[name]) == {each.name for each in dataclasses.fields(kind)}
    assert {each.name for each in dataclasses.fields(Top)} <= set(table)
    assert set(table["passes"]) == set(registry.names())


def test_the_example_shows_the_defaults() -> None:
    commented = re.findall(r"(?m)^#(\w+) = (\S+|\[.*?\])", example_text())
    kinds: tuple[Any, ...] = (Top, Model, DataSet, Energy, TrainingLoop)
    defaults = {each.name: each.default for kind in kinds for each in dataclasses.fields(kind)}
    # What depends on the rest of the job, and options of passes.
    others = ("loss", "checkpoint", "log", "lr_step", "rate", "every", "radius")
    for name, shown in commented:
        if name not in others:
            value = toml.value(shown)
            expected = list(defaults[name]) if isinstance(defaults[name], tuple) else defaults[name]
            assert value is False if expected is None else value == expected, name


def test_the_example_with_everything_taken_in_is_read(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(toml.dump(everything_in_the_example()), encoding="utf-8")
    job = read_job(path)
    assert len(job.passes) == len(registry.names())
