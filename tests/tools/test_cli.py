"""The boundary: exit codes, one line for a user's mistake, a traceback for ours."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import ecograph
from ecograph.tools import checkup, cli
from ecograph.tools.errors import UserError, one_line, user_errors

COMMANDS = ("demo", "inspect", "train", "loop", "doctor")

#: What was typed, and what the line must say.
MISTAKES: list[tuple[str, tuple[str, ...]]] = [
    ("nonsense", ("nonsense", "ecograph --help")),
    ("--nonsense", ("--nonsense", "ecograph --help")),
    ("demo --nonsense", ("--nonsense", "ecograph demo --help")),
    ("demo --epochs many", ("--epochs", "integer")),
    ("demo --epochs 0", ("--epochs",)),
    ("demo --seeds -1", ("--seeds",)),
    ("demo --model huge", ("huge", "tiny, small")),
    ("inspect", ("SPEC", "ecograph inspect --help")),
    ("inspect resnet18", ("torchvision:resnet18", "timm:resnet18")),
    ("inspect models.py:", ("models.py:", "file.py:callable")),
    ("inspect models.py:Nett", ("no 'Nett'", "did you mean Net")),
    ("inspect nothing.py:Net", ("no file nothing.py",)),
    ("inspect nothing.at.all:Net", ("no module 'nothing'",)),
    ("inspect models.py:NeedsWidth", ("in_features, out_features",)),
    ("inspect models.py:broken", ("ZeroDivisionError", "models.py, line")),
    ("inspect models.py:number", ("returned a int",)),
    ("inspect models.py:constant", ("constant is a int",)),
    ("inspect models.py:empty", ("ReLU has no parameters",)),
    ("inspect syntax.py:Net", ("SyntaxError",)),
    ("inspect importing.py:Net", ("ModuleNotFoundError", "importing.py, line 1")),
    ("inspect torchvision:resnot18", ("did you mean resnet18",)),
    ("inspect timm:resnot18", ("did you mean resnet18",)),
    ("inspect demo:tny", ("'tny'", "tiny, small", "gpt")),
    ("inspect hf:brt", ("did you mean bert", "nothing is downloaded")),
    ("inspect models.py:Net --input 8xx", ("--input '8xx'", "8x3x32x32")),
    ("inspect models.py:Net --input 8x32:int7", ("'int7'", "int64")),
    ("inspect models.py:Net --input 8x31", ("(8, 31)", "do not fit Net")),
    ("inspect models.py:Net --input y=8x32", ("'y'", "do not fit Net")),
    ("inspect models.py:Net --drop 1", ("drop=1.0", "below 1")),
    ("inspect models.py:Net --drop half", ("--drop",)),
    ("inspect models.py:Net --schedule sometimes", ("'sometimes'", "'alternate'")),
    ("inspect models.py:Net --when maybe", ("'maybe'", "'pays'")),
    ("inspect models.py:Net --recipe stew", ("stew", "balanced")),
    ("inspect models.py:Net --recipe exact --drop 0.5", ("--recipe", "--drop")),
    ("loop --epochs 0", ("epochs=0",)),
    ("loop --amp fp8", ("'fp8'", "'bf16'")),
    ("loop --clip -1", ("clip=-1.0",)),
    ("loop --metric f1", ("'f1'",)),
    ("loop --lr-step never", ("'never'", "'epoch'")),
    ("loop --pass nothing", ("'nothing'", "sparse_backward")),
    ("loop --pass sparse_backward:dorp=1", ("'dorp'", "'drop'")),
    ("loop --pass sparse_backward:drop", ("OPTION=VALUE",)),
    ("loop --pass sparse_backward:drop=2", ("drop=2",)),
    ("loop --gradsamp evry=4", ("'evry'", "'every'")),
    ("loop --gradsamp every", ("OPTION=VALUE",)),
    ("loop --gradsmp every=4", ("--gradsmp", "--gradsamp")),
    ("loop --extrapolation direction=past", ("radius",)),
    ("loop --stop soon", ("stop='soon'",)),
    ("loop --ema 2", ("ema=2.0",)),
    ("loop --val-every 0", ("val_every=0",)),
    ("loop --checkpoint-every 3", ("checkpoint_every",)),
    ("loop --distributed dp", ("'dp'", "'ddp'")),
    ("loop --output missing/loop.py", ("missing/loop.py",)),
    ("doctor now", ("now",)),
]


@pytest.mark.parametrize(("typed", "words"), MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_a_mistake_gets_one_line_and_exit_code_2(main: Any, tmp_path: Any, typed: str, words: tuple[str, ...]) -> None:
    (tmp_path / "syntax.py").write_text("def Net(:\n", encoding="utf-8")
    (tmp_path / "importing.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    code, out, err = main(*typed.split())
    assert code == 2
    assert out == ""
    line = err.removesuffix("\n")
    assert line.startswith("error: ") and "\n" not in line
    for word in words:
        assert word in line


def test_a_mistake_in_a_process_of_its_own(cli: Any) -> None:
    done = cli("inspect", "models.py:Net", "--input", "8x31")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug() -> None:
        raise ValueError("a bug, not a mistake")

    monkeypatch.setattr(checkup, "checks", bug)
    with pytest.raises(ValueError, match="a bug"):
        cli.run(["doctor"])


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkup, "checks", interrupted)
    assert cli.run(["doctor"]) == 130


def test_without_arguments_it_prints_help(main: Any) -> None:
    code, out, err = main()
    assert (code, err) == (0, "")
    for command in COMMANDS:
        assert command in out


def test_version(main: Any) -> None:
    assert main("--version") == (0, f"ecograph {ecograph.__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help(main: Any, command: str) -> None:
    code, out, err = main(command, "--help")
    assert (code, err) == (0, "")
    assert f"ecograph {command}" in out


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGPIPE semantics")
def test_a_reader_that_has_had_enough() -> None:
    command = [sys.executable, "-m", "ecograph.tools", "loop"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in (0, 1)  # typer's own way with a broken pipe is to exit with 1


def test_user_errors_turns_value_errors_only() -> None:
    with pytest.raises(UserError, match="^--drop: too large$"), user_errors("--drop: "):
        raise ValueError("too\n  large")
    with pytest.raises(KeyError), user_errors():
        raise KeyError("a bug")


def test_one_line_never_is_empty() -> None:
    assert one_line(RuntimeError()) == "RuntimeError"
