"""Benchmarks are scripts: they import each other by bare names, from their own folder, as Python runs a script."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ecograph import registry

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _ours() -> list[str]:
    names = {path.stem for path in BENCHMARKS.iterdir()}
    return [name for name in sys.modules if name.partition(".")[0] in names]


@pytest.fixture(scope="package")
def script() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a benchmark. Names as plain as ``models`` are not left behind for other tests, nor taken from them."""
    others = {name: sys.modules.pop(name) for name in _ours()}
    sys.path.insert(0, str(BENCHMARKS))
    importlib.invalidate_caches()
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))
    for name in _ours():
        del sys.modules[name]
    sys.modules.update(others)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pass_name() -> str:
    return "sliceout" if "sliceout" in registry.names() else "sparse_backward"
