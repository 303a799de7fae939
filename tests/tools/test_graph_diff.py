from __future__ import annotations

from rich.text import Text

from ecograph.tools.graph_diff import GraphStages, diff, readable, render

RAW = """


def forward(self, L_model_modules_0_parameters_weight_ : torch._subclasses.fake_tensor.FakeTensor, L_x_ : torch._subclasses.fake_tensor.FakeTensor):
    l_model_modules_0_parameters_weight_ = L_model_modules_0_parameters_weight_
    l_x_ = L_x_
    linear = torch._C._nn.linear(l_x_, l_model_modules_0_parameters_weight_, None);  l_x_ = l_model_modules_0_parameters_weight_ = None
    return (linear,)
    """  # noqa: E501

CLEAN = """def forward(self, _0_weight, l_x_):
    linear = torch._C._nn.linear(l_x_, _0_weight, None)
    return (linear,)
"""


def test_readable() -> None:
    assert readable(RAW) == CLEAN
    assert readable(CLEAN) == CLEAN


def test_code_that_comes_out_is_python() -> None:
    compile(readable(RAW), "graph", "exec")


def test_long_signatures_have_a_line_for_each_parameter() -> None:
    names = [f"parameter_number_{i}" for i in range(10)]
    code = readable(f"def forward({', '.join(names)}):\n    return ()\n")
    compile(code, "graph", "exec")
    assert code.splitlines()[1] == "    parameter_number_0,"


def test_diff_shows_all_of_the_code() -> None:
    changed = CLEAN.replace("torch._C._nn.linear", "sparse_linear")
    lines = diff(CLEAN, changed).splitlines()
    assert [line[0] for line in lines] == [" ", "-", "+", " "]
    assert diff(CLEAN, CLEAN) == ""


def test_each_pass_is_compared_with_the_one_before() -> None:
    stages = GraphStages("", "dynamo", "a\n", [("first", "b\n"), ("second", "b\n"), ("third", "c\n")])
    text = "\n".join(part.plain for part in render([stages], colour=False) if isinstance(part, Text))
    assert "first" in text and "second" not in text and "third" in text
    assert "-a\n+b" in text and "-b\n+c" in text
