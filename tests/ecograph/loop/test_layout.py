import ast

import pytest

from ecograph.loop.layout import lay_out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 'a'", 'x = "a"'),
        ("x = 'say \"a\"'", "x = 'say \"a\"'"),
        ("x = 'a\\n'", "x = 'a\\n'"),
        ("return (a, b)", "return a, b"),
        ("return (a)", "return (a)"),
        ("return (a, b)[0]", "return (a, b)[0]"),
        ("return (a, b) + (c, d)", "return (a, b) + (c, d)"),
        ("(a, b) = f(c, d)", "a, b = f(c, d)"),
        ("(a, b)[0] = 1", "(a, b)[0] = 1"),
        ("(a,) = f(b)", "(a,) = f(b)"),
        ("for (a, (b, c)) in d:\n    e", "for a, (b, c) in d:\n    e"),
        ("value = function(first, second)", "value = function(\n    first, second\n)"),
        (
            "value = function(first=one, second=two, third=three)",
            "value = function(\n    first=one,\n    second=two,\n    third=three,\n)",
        ),
        ("def function(first, second_one):\n    pass", "def function(\n    first, second_one\n):\n    pass"),
        ("from package import one, two, three", "from package import (\n    one,\n    two,\n    three,\n)"),
        ("total = sum(x for x, y in pairs_of_things)", "total = sum(\n    x for x, y in pairs_of_things\n)"),
        (
            "# a comment that is longer than the line may be",
            "# a comment that is longer\n# than the line may be",
        ),
    ],
)
def test_reads_as_a_person_would_write_it(text: str, expected: str) -> None:
    if text.startswith("return"):
        text, expected = f"def f():\n    {text}", f"def f():\n    {expected}"
    assert lay_out(text, width=30) == expected + "\n"


def test_lines_inside_a_string_are_left_alone() -> None:
    text = 'def f():\n    """A long first line of it.\n\n    it\'s (a, b, c, d, e, f, g, h, i)\n    """\n'
    assert lay_out(text, width=20) == text


@pytest.mark.parametrize(
    "text",
    [
        "f(lambda a, b: a + b, second_argument)",
        "table[first_index, second_index] = 1",
        "x = {'a': 1, 'b': [1, 2, 3, 4], **others}",
        "f(*arguments, **keyword_arguments)(again)",
        "with context(first), context(second) as c:\n    pass",
        "x = first_long_name + second_long_name",
        "assert isinstance(value, int), f'no {value}'",
        "x = [a for a, b in zip(firsts, seconds)]",
        'x = f"""{first}\n  (one, two, three, four)\n"""',
    ],
)
def test_the_meaning_stays(text: str) -> None:
    assert ast.dump(ast.parse(lay_out(text, width=20))) == ast.dump(ast.parse(text))
