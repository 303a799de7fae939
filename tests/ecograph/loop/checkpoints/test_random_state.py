from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from ecograph.loop.checkpoints import file
from ecograph.loop.checkpoints.random_state import random_state, set_random_state


def draws() -> list[float]:
    return [
        *(torch.rand(1).item(), torch.randn(1).item(), random.random(), random.gauss(0, 1)),
        *(float(np.random.rand()), float(np.random.randn())),
    ]


def test_every_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    draws()  # normal numbers come in pairs, of which one is waiting now
    file.write(tmp_path / "a.pt", {"random": random_state()})
    expected = draws()
    draws()
    set_random_state(file.read(tmp_path / "a.pt")["random"])
    assert draws() == expected
