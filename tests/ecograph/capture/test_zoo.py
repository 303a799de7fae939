"""Every product of real models is found, and every FLOP of theirs is inside a captured graph and a recorded step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from zoo.checks import calls, check
from zoo.entry import Entry
from zoo.language import TRANSFORMERS
from zoo.vision import TIMM, TORCHVISION

from ecograph.analysis import Site, find_sites
from ecograph.capture import capture
from ecograph.cost.steps import record_step

pytestmark = pytest.mark.zoo

ZOO = [*TORCHVISION, *TIMM, *TRANSFORMERS]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def test_the_zoo_is_as_large_as_promised() -> None:
    assert len(TORCHVISION) >= 12
    assert len(TIMM) >= 40
    assert len(TRANSFORMERS) >= 12
    assert len({entry.name for entry in ZOO}) == len(ZOO)


@pytest.mark.parametrize("entry", ZOO, ids=repr)
def test_every_product_is_found_and_every_flop_counted(entry: Entry) -> None:
    model = entry.build()
    inputs = entry.inputs()
    checked = check(model, inputs, real=entry.real)

    # A recurrent layer is one site; the reference sees the products inside it, or (an LSTM on the CPU) none.
    sites = [site for site in checked.sites if "recurrent" not in site.problem]
    assert calls(sites, model) == checked.reference.products
    assert checked.share >= 0.99  # the least that is promised
    assert checked.flops.forward == checked.reference.forward  # what is reached
    assert checked.flops.backward == checked.reference.backward
    if entry.graphs is not None:
        assert len(checked.captured.graphs) == entry.graphs, checked.captured.parts
    assert any(site.first for site in checked.sites)
    assert any(site.last for site in checked.sites)

    step = record_step(model, inputs)
    forward = sum(op.flops * op.count for op in step.ops if op.phase == "forward")
    assert (forward, step.flops - forward) == (checked.reference.forward, checked.reference.backward)
    assert not step.uncounted
    assert bool(step.note) == entry.real

    assert not _unseen_without_inputs(entry, model, checked.sites)


def _unseen_without_inputs(entry: Entry, model: torch.nn.Module, sites: list[Site]) -> list[str]:
    """Returns the names of sites that symbolic tracing misses and the table does not explain."""
    found = {site.name for site in find_sites(capture(model), model)}
    missed = {site.name for site in sites} - found
    explained = entry.unseen or {}
    idle = [part for part in explained if not any(part in name for name in missed)]
    assert not idle, f"the table explains what is not missing: {idle}"
    return sorted(name for name in missed if not any(part in name for part in explained))
