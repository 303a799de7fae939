import ast

import pytest

from ecograph.loop.fragment import comment_text, parse


def written(text: str) -> str:
    return ast.unparse(ast.Module(parse(text), []))


@pytest.mark.parametrize(
    "text",
    [
        "# why\nx = 1",
        "x = 1\n# after\ny = 2\n# at the end",
        "for i in x:\n    # inside\n    y = 2\n# outside\nz = 3",
        "if a:\n    b\nelse:\n    # otherwise\n    c",
        "try:\n    # one\n    a\nexcept B:\n    # two\n    c\nfinally:\n    # three\n    d",
        "# decorated\n@d\n# between\ndef f():\n    # body\n    return 1".replace("# between\n", ""),
        "match a:\n    case 1:\n        # one\n        b",
        "x = 1\n# one\n# two\ny = 2",
    ],
)
def test_comments_stay_where_they_were(text: str) -> None:
    lines = [line for line in written(text).splitlines() if line.strip()]
    assert lines == text.splitlines()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1  # why", "# why\nx = 1"),
        ("for i in x:  # why\n    y", "# why\nfor i in x:\n    y"),
        ("x = f(\n    1,  # one\n    # two\n    2,\n)", "# one\n# two\nx = f(1, 2)"),
        ("if a:\n    b\n# why\nelse:\n    c", "if a:\n    b\nelse:\n    # why\n    c"),
        ('x = "# not a comment"', "x = '# not a comment'"),
        ('x = """\n# neither\n\n"""', "x = '\\n# neither\\n\\n'"),
    ],
)
def test_comments_that_cannot_stay_go_above(text: str, expected: str) -> None:
    assert written(text) == expected


def test_no_comment_is_lost() -> None:
    text = "# 1\na = [  # 2\n  # 3\n  1\n]  # 4\nif a:  # 5\n    b  # 6\n    # 7\n# 8\nelse:  # 9\n    c  # 10\n# 11"
    found = [word for line in written(text).splitlines() if (word := line.strip()).startswith("#")]
    assert sorted(found, key=lambda word: int(word[2:])) == [f"# {number}" for number in range(1, 12)]


def test_blank_lines_are_kept_between_statements_only() -> None:
    texts = [comment_text(statement) for statement in parse("\n\nx = f(\n\n    1)\n\ny = 2\n\n")]
    assert texts == [None, "", None]


def test_indented_text_is_dedented() -> None:
    assert written("\n        if a:\n            b\n    ") == "if a:\n    b"


def test_text_that_is_not_python_is_refused() -> None:
    with pytest.raises(SyntaxError):
        parse("for x in")
