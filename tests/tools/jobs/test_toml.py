from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecograph.tools.errors import UserError
from ecograph.tools.jobs import toml

TABLES: list[dict[str, Any]] = [
    {},
    {"seed": 3, "device": "cpu", "lr": 5e-4, "flag": True, "half": 0.5},
    {"text": 'a "quoted" C:\\path\n\tü 🌍', "list": [1, 2], "words": ["a", "b"], "nothing": []},
    {"top": 1, "loop": {"epochs": 3, "stop": "val_loss < 1"}, "empty": {}},
    {"passes": {"sliceout": {"rate": 0.5}, "gradsamp": {}, "sparse_backward": False}},
    {"large": 1e30, "infinite": float("inf"), "small": -1e-30},
]


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_what_is_written_is_read_back(table: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(toml.dump(table), encoding="utf-8")
    assert toml.read(path) == table
    assert list(toml.read(path)) == sorted(table, key=lambda key: isinstance(table[key], dict))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("0.5", 0.5), ("1e-3", 1e-3), ("true", True), ('"3"', "3"), ("[1, 2]", [1, 2]),
        ("{rate = 1}", {"rate": 1}),
        ("bf16", "bf16"), ("val_loss <= 0.1", "val_loss <= 0.1"), ("file.py:name", "file.py:name"), ("", ""),
        ("1\nepochs = 3", "1\nepochs = 3"), ("# nothing", "# nothing"),
    ],
)  # fmt: skip
def test_values_of_the_command_line(text: str, value: Any) -> None:
    assert toml.value(text) == value


@pytest.mark.parametrize(
    ("content", "word"), [("a = ]", "line 1"), ("a = 1\na = 2\n", "line 2"), (b"\xff\xfe", "not TOML")]
)
def test_mistakes(content: Any, word: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=f"x.toml.*{word}"):
        toml.read(path)
    with pytest.raises(UserError, match="--example"):
        toml.read(tmp_path / "missing.toml")
