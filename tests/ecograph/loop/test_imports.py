import ast

import pytest

from ecograph.loop.imports import Imports


def groups(*lines: str) -> list[list[str]]:
    imports = Imports()
    for line in lines:
        statement = ast.parse(line).body[0]
        assert isinstance(statement, ast.Import | ast.ImportFrom)
        imports.add(statement)
    return imports.groups()


def test_merges_and_sorts_as_isort_does() -> None:
    assert groups(
        "from ecograph import Scheduler",
        "import torch",
        "import time",
        "from ecograph import optimize, Scheduler, WIDTH",
        "from collections import deque as queue",
        "import numpy as np",
        "import time",
    ) == [
        ["import time", "from collections import deque as queue"],
        ["import numpy as np", "import torch", "from ecograph import WIDTH, Scheduler, optimize"],
    ]


def test_no_imports_are_no_lines() -> None:
    assert groups() == []


@pytest.mark.parametrize("line", ["from . import x", "from .a import x", "from a import *"])
def test_refuses_what_depends_on_the_place(line: str) -> None:
    with pytest.raises(ValueError, match="name the module"):
        groups(line)


@pytest.mark.parametrize("second", ["from b import x", "import y as x", "import x"])
def test_refuses_one_name_for_two_things(second: str) -> None:
    with pytest.raises(ValueError, match="'x'.*another name"):
        groups("from a import x", second)
