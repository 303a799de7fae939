from __future__ import annotations

import json

import pytest

from ecograph.advice.rounds import BLOCK

QUICK = ("--seconds", "0.3", "--no-compile", "--no-batches", "--pass", "sliceout")


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setitem(BLOCK, "cpu", 0.02)


def test_prints_a_table_and_the_code(main):
    code, out, _ = main("advise", "models.py:Net", "--input", "16x32", *QUICK)
    assert code == 0
    assert "a training step on this CPU, batch 16" in out
    assert "plain" in out and "near-exact" in out and "Best safe setting" in out


def test_json(main):
    code, out, _ = main("advise", "models.py:Net", "--input", "16x32", *QUICK, "--optimizer", "SGD", "--json")
    found = json.loads(out)
    assert code == 0 and found["batch"] == 16
    assert found["rows"][0]["title"] == "plain" and found["rows"][0]["time_ratio"] == 1.0
    assert {row["numerics"] for row in found["rows"]} == {"exact", "near-exact", "approximate"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("models.py:Net",), "give --input"),
        (("models.py:Net", "--input", "16x31"), "does not run on example_inputs"),
        (("models.py:Net", "--input", "16x32", "--optimizer", "adamx"), "--optimizer 'adamx'"),
        (("models.py:Net", "--input", "16x32", "--by", "speed"), "by='speed'"),
        (("models.py:Net", "--input", "16x32", "--seconds", "-1"), "seconds=-1"),
        (("models.py:Net", "--input", "16x32", "--pass", "gradsamp"), "does not rewrite a model"),
    ],
)
def test_says_what_is_wrong(main, arguments, message):
    code, out, err = main("advise", *arguments, "--no-compile")
    assert code == 2 and not out and message in " ".join(err.split())
