from __future__ import annotations

import mmap
import platform
from functools import partial

import pytest
import torch

from ecograph.advice import Setting
from ecograph.advice.faults import Faults, page_faults
from ecograph.advice.subject import make_subject
from ecograph.advice.trial import Trial

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")


@pytest.fixture
def trial(net, images, monkeypatch):
    monkeypatch.setattr("ecograph.advice.faults.keeps_memory", lambda: False)
    return Trial(make_subject(net, images, None, None, partial(torch.optim.SGD, lr=0.0)), Setting())


@glibc
def test_counts_the_pages_that_a_step_asks_for(trial, monkeypatch):
    """Next to a step that asks for 1000 pages more, and writes to each of them."""
    usual = page_faults(trial)
    step = trial.step

    def wasteful():
        with mmap.mmap(-1, 1000 * mmap.PAGESIZE) as pages:
            for at in range(0, len(pages), mmap.PAGESIZE):
                pages[at] = 1
        step()

    monkeypatch.setattr(trial, "step", wasteful)
    found = page_faults(trial)
    assert found.per_step - usual.per_step == pytest.approx(1000, rel=0.2)
    assert 0 <= found.system_share <= 1


@glibc
def test_has_nothing_to_say_where_memory_is_kept(trial, monkeypatch):
    monkeypatch.setattr("ecograph.advice.faults.keeps_memory", lambda: True)
    assert page_faults(trial) is None


def test_offers_what_is_worth_it():
    assert Faults(1234.0, 0.01).offer == ""
    assert "1,234 pages" in Faults(1234.0, 0.3).offer and "keep_memory()" in Faults(1234.0, 0.3).to_dict()["offer"]
