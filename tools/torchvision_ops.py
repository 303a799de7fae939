"""Lets torchvision be imported beside a torch that its compiled operators were not built for.

A CPU-only torch and torchvision's default wheel do not fit: the operators cannot be loaded, and then
already ``import torchvision`` fails ("operator torchvision::nms does not exist"), as it gives them shape
rules at import time. timm imports torchvision too. Few models call these operators, so it is enough that
they are declared.
"""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

#: Keeps the declarations: torch forgets those of a Library that is garbage-collected.
_declared: list[torch.library.Library] = []


def declare_missing() -> list[str]:
    """Declares torchvision's operators where they cannot be loaded, and returns the names of those declared.

    Does nothing where torchvision is not installed or its operators can be loaded. To be called before
    torchvision is imported, by whomever.
    """
    if _declared or "torchvision" in sys.modules:
        return []
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent
    rules = folder / "_meta_registrations.py"
    if _can_be_loaded(folder) or not rules.exists():
        return []
    source = rules.read_text(encoding="utf-8")
    names = sorted({a or b for a, b in re.findall(r'register_meta\("(\w+)"|torchvision::(\w+)', source)})
    missing = [name for name in names if not hasattr(torch.ops.torchvision, name)]
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    _declared.append(library)
    for name in missing:
        library.define(f"{name}(Tensor x) -> Tensor")  # type: ignore[no-untyped-call]
    return missing


def _can_be_loaded(folder: Path) -> bool:
    """Whether the compiled operators can be loaded; where they can, they are, as torchvision would do itself."""
    for library in [*folder.glob("_C*.so"), *folder.glob("_C*.pyd")]:
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except OSError:
            return False
        return True
    return False
