"""What is in the tree is in the package."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def setuptools_options():
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def folders(setuptools_options):
    """Every folder with an __init__.py, by the name it is imported under."""
    for package, folder in setuptools_options["package-dir"].items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inside = init.parent.relative_to(ROOT / folder).parts
            yield ".".join((package, *inside))


def test_every_package_is_declared(setuptools_options):
    assert sorted(setuptools_options["packages"]) == sorted(folders(setuptools_options))


def test_every_method_card_is_shipped(setuptools_options):
    cards = {f"ecograph.passes.{card.parent.name}" for card in ROOT.glob("passes/*/README.md")}
    shipped = {name for name, patterns in setuptools_options["package-data"].items() if "README.md" in patterns}
    assert cards and cards == shipped
