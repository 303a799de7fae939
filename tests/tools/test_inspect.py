from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import ecograph
from ecograph.tools import inspected
from ecograph.tools.inputs import parse
from ecograph.tools.spec import find
from ecograph.tools.zoo import _hf_inputs


def inspect(main: Any, *arguments: str) -> dict[str, Any]:
    """Runs the command with --json and returns what it printed."""
    code, out, err = main("inspect", *arguments, "--json")
    assert code == 0, err
    data: dict[str, Any] = json.loads(out)
    return data


def names(data: dict[str, Any]) -> list[str]:
    return [layer["name"] for layer in data["layers"]]


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("models.py:Net", 3),
        ("./models.py:Net", 3),
        ("models:Net", 3),
        ("models:instance", 3),
        ("torchvision:resnet18", 21),
        ("timm:resnet18.a1_in1k", 21),
        ("hf:distilbert", 36),
    ],
)
def test_every_kind_of_spec(main: Any, spec: str, layers: int) -> None:
    data = inspect(main, spec, *(["--input", "8x32"] if spec.partition(":")[0].endswith(("models", ".py")) else []))
    assert data["spec"] == spec
    assert len(data["layers"]) == layers
    assert data["flops_source"] == "counted"
    assert data["device"] == ("cpu" if spec.endswith("instance") else "meta")


def test_in_a_process_of_its_own(cli: Any) -> None:
    done = cli("inspect", "timm:resnet18", "--input", "4x3x64x64", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["inputs"] == ["4x3x64x64"]


def test_the_report_is_explains(main: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.middle(self.first(x).relu()).relu())  # type: ignore[no-any-return]

    sparse = ecograph.passes.SparseBackward(drop=0.5, schedule="constant", when="always")
    model = ecograph.optimize(Net(), example_inputs=torch.zeros(512, 32), passes=[sparse])
    options = ["--input", "512x32", "--drop", "0.5", "--schedule", "constant", "--when", "always"]
    data = inspect(main, "models.py:Net", *options)
    assert {key: data[key] for key in data if key not in ("spec", "inputs", "device")} == ecograph.explain(
        model
    ).to_dict()


def test_the_table(main: Any) -> None:
    code, out, err = main("inspect", "models.py:Net", "--input", "512x32", "--when", "always")
    assert (code, err) == (0, "")
    assert "512×64" in out and "sparse_backward" in out and "last layer" in out
    assert "example inputs: 512x32" in out
    assert max(map(len, out.splitlines())) <= 100


def test_without_inputs_shapes_are_unknown(main: Any) -> None:
    data = inspect(main, "models.py:Net")
    assert data["flops_source"].startswith("incomplete")
    assert names(data) == ["first", "middle", "last"]
    _, out, _ = main("inspect", "models.py:Net")
    assert "give --input" in out


def test_a_file_with_a_name_of_the_standard_library_that_prints(main: Any, tmp_path: Path) -> None:
    source = "print('hello')\nfrom models import Net as Base\nclass Net(Base):\n    pass\n"
    (tmp_path / "types.py").write_text(source, encoding="utf-8")
    code, out, err = main("inspect", "types.py:Net", "--input", "8x32", "--json")
    assert code == 0
    assert json.loads(out)["model"] == "Net"
    assert "hello" in err
    assert sys.modules["types"].__name__ == "types" and hasattr(sys.modules["types"], "FunctionType")


def test_named_inputs_and_dtypes(main: Any) -> None:
    data = inspect(main, "models.py:Two", "--input", "8x32", "--input", "mask=8x10:bool")
    assert data["inputs"] == ["8x32", "mask=8x10:bool"]
    assert data["flops_source"] == "counted"


def test_a_model_that_the_meta_device_cannot_serve(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = inspect(main, "models.py:Stubborn", "--input", "8x32")
    assert data["device"] == "cpu"
    assert [part["method"] for part in data["capture"]] == ["dynamo"]
    monkeypatch.setattr(inspected, "MOST_PARAMETERS", 10)
    assert main("inspect", "models.py:Stubborn", "--input", "8x32")[0] == 2  # too large to be built for real


def test_default_inputs_that_do_not_serve(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = SimpleNamespace(spec="x", build=find("models.py:Net").build, inputs=lambda model: [parse("8x31")])
    monkeypatch.setattr("ecograph.tools.spec.find", lambda spec: subject)
    code, out, err = main("inspect", "x", "--json")
    assert code == 0
    assert json.loads(out)["inputs"] == []
    assert err.startswith("note: the default inputs do not serve") and err.count("\n") == 1


def test_nothing_rewritten_is_noted(main: Any) -> None:
    code, out, err = main("inspect", "models.py:Net", "--input", "8x32", "--json")
    assert code == 0
    json.loads(out)
    assert err.startswith("note: ecograph.optimize had no effect") and err.count("\n") == 1


def test_recipes(main: Any) -> None:
    assert [each["name"] for each in inspect(main, "models.py:Net", "--recipe", "balanced")["passes"]] == [
        "sparse_backward"
    ]
    assert inspect(main, "models.py:Net", "--recipe", "exact")["passes"] == []


def test_graphs_before_and_after(main: Any) -> None:
    options = ["--input", "512x32", "--when", "always"]
    (graph,) = inspect(main, "models.py:Net", *options, "--graph")["graphs"]
    assert "middle_weight" in graph["before"] and "sparse_linear" not in graph["before"]
    (after,) = graph["after"]
    assert after["pass"] == "sparse_backward" and after["code"].count("sparse_linear(") == 1
    code, out, _ = main("inspect", "models.py:Net", *options, "--graph")
    assert code == 0
    assert "graph 1 of 1" in out
    changed = [line for line in out.splitlines() if line.startswith(("+", "-")) and "middle_weight" in line]
    assert [line[0] for line in changed] == ["-", "+"]


def test_slices_in_the_graph_and_the_groups_they_belong_to(main: Any) -> None:
    options = ["--input", "512x32", "--pass", "sparse_backward", "--pass", "sliceout:when=always", "--graph"]
    data = inspect(main, "models.py:Net", *options)
    assert [each["name"] for each in data["passes"]] == ["sparse_backward", "sliceout"]
    groups = {each["name"]: each for each in data["groups"]}
    assert groups["first"]["members"] == ["first", "middle"]
    assert (groups["middle"]["width"], groups["middle"]["slice_width"], groups["middle"]["starts"]) == (64, 32, 3)
    assert groups["last"]["reason"] == "it is an output of the graph"
    (graph,) = data["graphs"]
    assert "narrow" not in graph["before"]
    stages = {each["pass"]: each["code"] for each in graph["after"]}
    assert list(stages) == ["sparse_backward", "sliceout"]
    assert "sparse_linear" not in stages["sliceout"], "at this size it would not pay"
    assert stages["sliceout"].count("torch.narrow(") == 6
    code, out, err = main("inspect", "models.py:Net", *options)
    assert (code, err) == (0, "")
    assert "Channel groups" in out and "first, middle" in out and "64 → 32" in out
    added = [line for line in out.splitlines() if line.startswith("+") and "narrow" in line]
    assert len(added) >= 6


def test_both_passes_in_the_graph(main: Any) -> None:
    options = ["--pass", "sliceout:rate=0.25,when=always", "--pass", "sparse_backward:when=always,skip_first=false"]
    data = inspect(main, "models.py:Net", "--input", "512x32", *options, "--graph")
    assert [layer["rewritten_by"] for layer in data["layers"]] == ["sliceout + sparse_backward"] * 2 + ["sliceout"]
    code = data["graphs"][0]["after"][-1]["code"]
    assert code.count("sparse_linear(") == 2
    assert code.count("torch.narrow(") == 6


def test_slices_of_a_model_that_holds_no_weights(main: Any) -> None:
    data = inspect(main, "torchvision:mobilenet_v3_small", "--pass", "sliceout:when=always")
    assert data["device"] == "meta"
    sliced = [each for each in data["groups"] if each["sliced_by"]]
    assert len(sliced) > 15
    assert sum(data["flops_after"].values()) < 0.6 * sum(data["flops_before"].values())


def test_a_graph_that_no_pass_changed(main: Any) -> None:
    _, out, _ = main("inspect", "models.py:Net", "--input", "8x32", "--recipe", "exact", "--graph")
    assert "not changed by any pass" in out and "return" in out


@pytest.mark.parametrize(
    ("name", "main_input", "inputs"),
    [
        ("bert", "input_ids", ["input_ids=2x128:int64"]),
        ("gpt2", "input_ids", ["input_ids=2x128:int64"]),
        ("t5", "input_ids", ["input_ids=2x128:int64", "decoder_input_ids=2x128:int64"]),
        ("vit", "pixel_values", ["pixel_values=2x3x224x224"]),
        ("clip", "input_ids", ["input_ids=2x77:int64", "pixel_values=2x3x224x224"]),
        ("whisper", "input_features", ["input_features=2x80x3000", "decoder_input_ids=2x128:int64"]),
        ("wav2vec2", "input_values", ["input_values=2x16000"]),
    ],
)
def test_inputs_of_transformers(name: str, main_input: str, inputs: list[str]) -> None:
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[name]()
    config.max_position_embeddings = getattr(config, "max_position_embeddings", 512)
    model = SimpleNamespace(config=config, main_input_name=main_input)
    assert [str(each) for each in _hf_inputs(model)] == inputs
