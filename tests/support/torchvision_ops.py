"""Lets torchvision be imported beside a torch that its compiled operators were not built for.

A CPU-only torch and torchvision's default wheel do not fit: loading the operators fails, and then ``import
torchvision`` fails too, because it gives its operators (``nms``, ``roi_align``, ...) shape rules at import
time. The models tested here call none of them, so it is enough that they are declared.
"""

from __future__ import annotations

import re
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import torch

#: Keeps the declarations: torch forgets those of a Library that is garbage-collected.
_declared: list[torch.library.Library] = []


def declare_missing() -> list[str]:
    """Declares torchvision's operators where they cannot be loaded; returns the names of those declared."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None or _declared:
        return []
    folder = Path(spec.origin).parent
    if _loads(folder):
        return []
    source = (folder / "_meta_registrations.py").read_text(encoding="utf-8")
    names = sorted(set(re.findall(r'register_meta\("(\w+)"|torchvision::(\w+)', source)))
    library = torch.library.Library("torchvision", "FRAGMENT")
    _declared.append(library)
    operators = sorted({first or second for first, second in names})
    for operator in operators:
        library.define(f"{operator}(Tensor x) -> Tensor")
    return operators


def _loads(folder: Path) -> bool:
    """Whether the compiled operators can be loaded, tried the way torchvision itself does."""
    for suffix in (*EXTENSION_SUFFIXES, ".so", ".pyd"):
        library = folder / f"_C{suffix}"
        if library.exists():
            try:
                torch.ops.load_library(str(library))
            except OSError:
                return False
            return True
    return False
