from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import ecograph
from ecograph.guards import check_model, check_names


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()))


def partly_lazy() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(4))


def compiled_in_place() -> nn.Module:
    model = net()
    model.compile(backend="eager")
    return model


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: "resnet18", "needs a torch.nn.Module, not str"),
        (lambda: None, "not NoneType"),
        (lambda: torch.randn(3), "not Tensor"),
        (lambda: torch.nn.functional.relu, "needs a torch.nn.Module"),
        (lambda: nn.Linear, r"not type: pass an instance, model\(\)"),
        (lambda: nn.ReLU(), "ReLU has no parameters: there is nothing to train"),
        (lambda: nn.Sequential(), "Sequential has no parameters"),
        (lambda: nn.DataParallel(net()), "wrapped in DataParallel: optimize first, then wrap it"),
        (lambda: torch.compile(net(), backend="eager"), "compiled: optimize first, then torch.compile it"),
        (compiled_in_place, "compiled: optimize first, then torch.compile it"),
        (lambda: torch.jit.script(net()), "TorchScript.*optimize the Python model"),
        (partly_lazy, "1.weight is not initialized yet: run the model once"),
    ],
    ids=[
        "str",
        "None",
        "tensor",
        "function",
        "class",
        "ReLU",
        "empty",
        "DP",
        "compiled",
        "compile()",
        "script",
        "lazy",
    ],
)
def test_what_is_refused(build: Any, words: str) -> None:
    model = build()
    for check in (check_model, ecograph.optimize):
        with pytest.raises(ValueError, match=words):
            check(model)


@pytest.fixture
def process_group(tmp_path: Any) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


needs_gloo = pytest.mark.skipif(os.name == "nt" or not dist.is_gloo_available(), reason="no gloo here")


@needs_gloo
@pytest.mark.usefixtures("process_group")
def test_a_model_in_ddp_is_refused_and_unwrapped_it_is_not() -> None:
    wrapped = nn.parallel.DistributedDataParallel(net())
    with pytest.raises(ValueError, match="wrapped in DistributedDataParallel: optimize first, then wrap it"):
        ecograph.optimize(wrapped)
    check_model(wrapped.module)
    inside = nn.Sequential(wrapped)
    with pytest.raises(ValueError, match="0 is wrapped in DistributedDataParallel"):
        ecograph.optimize(inside)


@needs_gloo
@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("which", ["root", "child"])
def test_a_sharded_model_is_refused(which: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = net()
    fully_shard(model if which == "root" else model[1], mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ValueError, match="sharded by FSDP: optimize first, then shard it"):
        ecograph.optimize(model)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["fc"], "Sequential has no layer 'fc'"),
        (["1.2"], "has no layer '1.2'; did you mean '1.(0|1)'"),
        (["0", "1.wieght"], "no layer '1.wieght'"),
        ("0", r"skip='0': give a list of names, such as skip=\['0'\]"),
        ([3], "3"),
        (3, "skip=3: give a list"),
    ],
)
def test_names_that_do_not_exist(names: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_names(net(), names)
    with pytest.raises(ValueError, match=words):
        ecograph.optimize(net(), skip=names)


def test_names_that_exist() -> None:
    check_names(net(), ["0", "1", "1.0", "1.0.weight", "1.1"])
    check_names(net(), ())
    tied = net()
    tied.alias = tied[0]
    check_names(tied, ["alias", "alias.weight"])
