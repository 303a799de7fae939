"""The import statements at the top of an emitted file: merged, sorted, each name once."""

from __future__ import annotations

import ast
import sys


class Imports:
    """Collects import statements and lists them in the usual order: standard library first, then the rest."""

    def __init__(self) -> None:
        """Start with no imports."""
        self._origins: dict[str, tuple[str, str | None]] = {}  # name in the text: (module, member or None)

    def add(self, statement: ast.Import | ast.ImportFrom) -> None:
        """Add the names of one statement.

        Raises:
            ValueError: for a relative or star import, and for a name that already means something else.
        """
        for alias in statement.names:
            name = alias.asname or alias.name
            if isinstance(statement, ast.Import):
                origin: tuple[str, str | None] = (alias.name, None)
            elif statement.level or statement.module is None or alias.name == "*":
                raise ValueError(f"`{ast.unparse(statement)}`: name the module, and what to import from it")
            else:
                origin = (statement.module, alias.name)
            if self._origins.setdefault(name, origin) != origin:
                raise ValueError(f"two imports want the name {name!r}: import one of them under another name")

    def groups(self) -> list[list[str]]:
        """Return the lines for the standard library and those for all other packages; no empty group."""
        plain, members = [], dict[str, list[str]]()
        for name, (module, member) in self._origins.items():
            if member is None:
                plain.append((module, f"import {module}" + (f" as {name}" if name != module else "")))
            else:
                alias = f"{member} as {name}" if name != member else member
                members.setdefault(module, []).append(alias)
        lines = sorted(plain)
        for module in sorted(members):
            lines.append((module, f"from {module} import {', '.join(sorted(members[module], key=_by_kind))}"))
        standard = [line for module, line in lines if _is_standard(module)]
        others = [line for module, line in lines if not _is_standard(module)]
        return [group for group in (standard, others) if group]


def _by_kind(name: str) -> tuple[int, str]:
    """Order CONSTANTS, then Classes, then functions, as isort does."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def _is_standard(module: str) -> bool:
    return module.split(".")[0] in sys.stdlib_module_names
