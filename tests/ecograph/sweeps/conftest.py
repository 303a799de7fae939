from __future__ import annotations

import pytest
from small_sweeps import SPACE, make_loaders, make_model
from torch import nn

from ecograph.sweeps.functions import Functions, active
from ecograph.sweeps.space import parse_space

pytest.importorskip("optuna")


@pytest.fixture
def functions() -> Functions:
    """A family of small trainings that take some hundredths of a second."""
    return Functions(make_model, make_loaders, parse_space(SPACE, active), nn.functional.cross_entropy)
