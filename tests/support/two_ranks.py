"""Two real processes that train together, over gloo. One pair runs many bodies: to start it takes most of the time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch.distributed as dist

needs_gloo = pytest.mark.skipif(os.name == "nt" or not dist.is_gloo_available(), reason="no gloo here")

_BEGIN = f"""
import json, os, sys, traceback
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch, torch.nn as nn, torch.distributed as dist
import torch.nn.functional as F

rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
"""

_END = """
results = {}
for name, body in list(globals().items()):
    if name.startswith("body_"):
        try:
            body()
            results[name.removeprefix("body_")] = ""
        except BaseException:
            results[name.removeprefix("body_")] = traceback.format_exc()
            break  # the other rank may wait for this one: its own end tells
with open(f"{store}.{rank}.json", "w") as file:
    json.dump(results, file)
dist.barrier()
os._exit(0)  # gloo's threads may outlive the interpreter's orderly end
"""


def start_two_ranks(folder: Path, code: str, *, name: str = "ranks") -> list[subprocess.Popen[str]]:
    """Starts two processes that form a group and run the same code.

    Args:
        folder: for the script and what it writes.
        code: ``rank`` and the process group are there already.
        name: of the script; each pair in a folder has one of its own.
    """
    script = folder / f"{name}.py"
    script.write_text(_BEGIN + code)
    return [
        subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", str(script), str(rank), str(folder / f"{name}.store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


def on_two_ranks(folder: Path, common: str, bodies: Mapping[str, str]) -> list[dict[str, str]]:
    """Runs every body on both ranks, one after the other.

    Args:
        folder: for the script and what it writes.
        common: code that all bodies share; ``rank`` and the process group are there already.
        bodies: by name.

    Returns:
        For each rank and body, its traceback, or an empty string.
    """
    functions = [f"def body_{name}():\n{textwrap.indent(body, '    ')}" for name, body in bodies.items()]
    ranks = start_two_ranks(folder, "\n".join([common, *functions, _END]))
    found = []
    try:
        for number, rank in enumerate(ranks):
            try:
                output = rank.communicate(timeout=240)[0]
            except subprocess.TimeoutExpired:
                output = "timed out: the other rank ended before"
            written = folder / f"ranks.store.{number}.json"
            text = json.loads(written.read_text()) if written.exists() else {}
            found.append({name: text.get(name, output or "not reached") for name in bodies})
    finally:
        for rank in ranks:
            rank.kill()
    return found
