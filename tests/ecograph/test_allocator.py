"""Real processes, since what glibc is told holds until one ends."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch, ecograph
from ecograph.allocator import keeps_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2 ** 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
torch.set_num_threads(1)
faults()
given_back = faults()
assert not keeps_memory()
print(ecograph.keep_memory(), keeps_memory())
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_was_freed_is_not_asked_for_again() -> None:
    ran = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    said, counts = ran.stdout.splitlines()
    assert said == "True True"
    given_back, kept = map(int, counts.split())
    # 64 MiB ten times, at 4 KiB a page or with larger ones.
    assert given_back > 100 and kept < given_back / 50


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from ecograph import allocator

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert allocator.keep_memory() is False
