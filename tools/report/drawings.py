"""The layers and the flow of data between them as DOT and as Mermaid, coloured by what is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ecograph.report_table import human
from ecograph.tools.report.tree import Item, Tree

#: From this share of FLOPs saved on -> colour of the box; the share is also written in it. Dark text is read on all.
COLOURS = ((0.25, "#8fbcf0"), (0.02, "#cfe2fa"), (-0.02, "#eceef1"), (float("-inf"), "#f7c9a3"))


def dot(tree: Tree) -> str:
    """Returns the graph in Graphviz's language; modules are clusters."""
    lines = [
        f"digraph {_dot_text(tree.items[0].name)} {{",
        '  graph [fontname="sans-serif", labeljust=l, color=gray, style=rounded]',
        '  node [shape=box, style=filled, fontname="sans-serif", fontsize=11]',
    ]
    for item, begins in _walk(tree.items[0]):
        indent = "  " * (_depth(tree, item) + 1)
        if item.kind == "layer":
            label, colour = _dot_text(*_words(item)), _colour(item)
            lines.append(f'{indent}n{item.number} [label={label}, fillcolor="{colour}"]')
        elif item.number == 0:
            continue
        elif begins:
            lines += [f"{indent}subgraph cluster_{item.number} {{", f"{indent}  label={_dot_text(item.name)}"]
        else:
            lines.append(f"{indent}}}")
    lines += [f"  {name} [shape=plaintext, style=solid]" for name in _ends(tree)]
    lines += [f"  {source} -> {target}" for source, target in _arrows(tree)]
    return "\n".join([*lines, "}"]) + "\n"


def mermaid(tree: Tree) -> str:
    """Returns the graph as a Mermaid flowchart; modules are subgraphs."""
    lines = ["flowchart TD"]
    styles = []
    for item, begins in _walk(tree.items[0]):
        indent = "  " * (_depth(tree, item) + 1)
        if item.kind == "layer":
            lines.append(f'{indent}n{item.number}["{"<br>".join(map(_mermaid_text, _words(item)))}"]')
            styles.append(f"  style n{item.number} fill:{_colour(item)},color:#111")
        elif item.number == 0:
            continue
        else:
            lines.append(f'{indent}subgraph m{item.number}["{_mermaid_text(item.name)}"]' if begins else f"{indent}end")
    lines += [f"  {name}(({name.removesuffix('s')}))" for name in _ends(tree)]
    lines += [f"  {source} --> {target}" for source, target in _arrows(tree)]
    return "\n".join(lines + styles) + "\n"


def _walk(item: Item) -> Iterator[tuple[Item, bool]]:
    """Yields modules twice, where they begin and where they end, and layers once."""
    yield item, True
    if item.kind == "module":
        for child in item.children:
            yield from _walk(child)
        yield item, False


def _depth(tree: Tree, item: Item) -> int:
    depth = 0
    while item.parent > 0:
        item, depth = tree.items[item.parent], depth + 1
    return depth


def _words(item: Item) -> tuple[str, ...]:
    """Returns the lines in a box: name, type, and where FLOPs are known, how many and what is saved."""
    before, after = _flops(item, "before"), _flops(item, "after")
    words = (item.name, item.type or item.name)
    if not before:
        return words
    saved = 1 - after / before
    return (*words, f"{human(before)} FLOPs" + (f", {-saved:+.0%}" if abs(saved) >= 0.005 else ""))


def _flops(item: Item, when: str) -> int:
    return sum(flops.total for product in item.products if (flops := getattr(product, when)) is not None)


def _colour(item: Item) -> str:
    before = _flops(item, "before")
    saved = 1 - _flops(item, "after") / before if before else 0.0
    return next(colour for least, colour in COLOURS if saved >= least)


def _ends(tree: Tree) -> list[str]:
    return [name for name, layers in (("inputs", tree.inputs), ("outputs", tree.outputs)) if layers]


def _arrows(tree: Tree) -> Iterator[tuple[str, str]]:
    for number in tree.inputs:
        yield "inputs", f"n{number}"
    for source, target in tree.edges:
        yield f"n{source}", f"n{target}"
    for number in tree.outputs:
        yield f"n{number}", "outputs"


def _dot_text(*lines: str) -> str:
    r"""Returns a quoted string; in its labels ``\n`` is a new line, and nothing else of what a model says counts."""
    clean = [line.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") for line in lines]
    return '"' + "\\n".join(clean) + '"'


def _mermaid_text(text: str) -> str:
    """Returns text in which only letters, digits and what is harmless in Mermaid stand for themselves."""
    plain: Callable[[str], bool] = lambda each: each.isalnum() or each in " _.,+-%"  # noqa: E731
    return "".join(each if plain(each) else f"#{ord(each)};" for each in text)
