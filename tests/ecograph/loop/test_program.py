import ast
from dataclasses import dataclass

import pytest

from ecograph.loop import Program, code
from ecograph.loop.emit import emit
from ecograph.loop.fragment import parse
from ecograph.loop.imports import Imports

EMPTY_SLOTS = [
    "before_training",
    "before_epoch",
    "before_step",
    "before_forward",
    "before_backward",
    "check_loss",
    "after_backward",
    "unscale",
    "before_optimizer_step",
    "after_optimizer_step",
    "after_step",
    "after_train_epoch",
    "before_evaluate",
    "after_evaluate",
    "after_epoch",
    "epoch_is_complete",
    "stop",
    "after_training",
]
FULL_SLOTS = [
    "training",
    "epoch",
    "train_epoch",
    "step",
    "batch",
    "gradients",
    "forward",
    "compute_loss",
    "backward",
    "optimizer_step",
    "after_batch",
    "validation",
    "no_validation",
    "evaluate",
    "record",
    "evaluate_batch",
    "evaluate_forward",
    "evaluate_result",
]
EVALUATE_SLOTS = ["before_evaluate_batches", "after_evaluate_batch", "after_evaluate_batches"]


@dataclass(frozen=True)
class Sampler:
    every: int = 2
    rate: float = 0.5


def statements(program: Program) -> list[str]:
    return [line.strip() for line in program.source().splitlines() if line.strip()]


def test_these_are_the_slots() -> None:
    assert sorted(Program().slots) == sorted(EMPTY_SLOTS + FULL_SLOTS + EVALUATE_SLOTS)


@pytest.mark.parametrize("slot", EMPTY_SLOTS + EVALUATE_SLOTS)
def test_an_empty_slot_takes_statements(slot: str) -> None:
    program = Program()
    assert program.is_empty(slot)
    program.insert(slot, "# why\nfirst()")
    program.insert(slot, "second()")
    lines = statements(program)
    at = lines.index("# why")
    assert lines[at : at + 3] == ["# why", "first()", "second()"]
    assert not program.is_empty(slot)


@pytest.mark.parametrize("slot", FULL_SLOTS)
def test_a_full_slot_can_be_wrapped(slot: str) -> None:
    program = Program()
    before = statements(program)
    program.wrap(slot, "if inner:\n    ...")
    program.wrap(slot, "if outer:\n    ...")
    after = statements(program)
    at = after.index("if outer:")
    assert after[at + 1] == "if inner:"
    assert after[:at] + after[at + 2 :] == before


def test_slots_leave_no_trace_in_the_text() -> None:
    assert "slot" not in Program().source()


def test_slots_stay_usable_inside_a_wrapped_one() -> None:
    program = Program()
    program.wrap("train_epoch", "if skip:\n    pass\nelse:\n    ...")
    program.insert("before_step", "inside()")
    assert "\n            inside()\n" in program.source()


def test_a_wrap_may_bring_slots_of_its_own() -> None:
    program = Program()
    program.wrap("backward", 'slot("scaled")\nwith scope:\n    ...')
    program.insert("scaled", "scale()")
    lines = statements(program)
    assert lines[lines.index("scale()") :][:3] == ["scale()", "with scope:", "loss.backward()"]
    with pytest.raises(ValueError, match="a slot 'scaled' already"):
        program.insert("before_step", 'slot("scaled")')


def test_holes_are_filled_with_values_and_their_imports() -> None:
    program = Program()
    program.insert(
        "before_training",
        "NAME = SAMPLER\ntable = [EVERY, EVERY, STEPS]",
        NAME=code("sampler"),
        SAMPLER=Sampler(every=4),
        EVERY=-1.5,
        STEPS=program.steps_per_epoch,
    )
    source = program.source()
    assert "    sampler = Sampler(every=4)\n    table = [-1.5, -1.5, steps_in(train_loader)]\n" in source
    assert f"from {Sampler.__module__} import Sampler\n" in source


def test_a_value_is_not_text() -> None:
    program = Program()
    program.insert("before_training", "name = NAME", NAME='"; import os  # {braces} %s')
    assert ast.unparse(ast.parse("name = '\"; import os  # {braces} %s'")) in program.source()


def test_imports_move_to_the_top_once() -> None:
    program = Program()
    for slot in ("before_training", "after_training"):
        program.insert(slot, "import math\nfrom ecograph import errors\nprint(math.pi, errors)")
    source = program.source()
    assert source.startswith("import math\nfrom collections.abc import Callable, Iterable\n")
    assert source.count("import math") == source.count("import errors") == 1


def test_replace() -> None:
    program = Program()
    program.replace("optimizer_step", "scaler.step(optimizer)")
    assert "scaler.step(optimizer)" in statements(program)
    assert "optimizer.step()" not in statements(program)


def test_replace_does_not_undo_what_another_pass_did() -> None:
    program = Program()
    with program.made_by("Careful"):
        program.insert("before_forward", "careful()")
    with (
        program.made_by("Rude"),
        pytest.raises(ValueError, match="Rude replaces slot 'step', but Careful has"),
    ):
        program.replace("step", "rude()")
    with program.made_by("First"):
        program.replace("optimizer_step", "first()")
    with pytest.raises(ValueError, match="First has changed it"):
        program.replace("optimizer_step", "second()")


def test_slots_go_with_what_is_replaced() -> None:
    program = Program()
    program.replace("batch", "everything(loss)")
    assert "before_forward" not in program.slots
    with pytest.raises(ValueError, match="no slot 'before_forward'"):
        program.insert("before_forward", "lost()")


def test_move() -> None:
    program = Program()
    program.move("after_batch", into="batch")
    program.insert("after_batch", "count()")
    lines = statements(program)
    assert lines.index("loss.backward()") < lines.index("count()") < lines.index("optimizer.step()")


def test_substitute_changes_what_is_read_not_what_is_assigned() -> None:
    program = Program()
    program.substitute("backward", loss="loss / 4")
    program.substitute("backward", loss="scaler.scale(loss)")
    assert "(scaler.scale(loss) / 4).backward()" in statements(program)
    program.replace("forward", "loss = f(loss)")
    program.substitute("forward", loss="2 * loss")
    assert "loss = f(2 * loss)" in statements(program)


def test_record_and_argument() -> None:
    program = Program()
    program.record("rate", "sampler.rate")
    program.argument("sampler", 3, annotation=code("int"))
    source = program.source()
    assert source.index("rate=sampler.rate") < source.index("seconds=")
    assert "lr_scheduler: LRScheduler | None = None, *, sampler: int" in " ".join(source.split())
    assert program.arguments == {"sampler": 3}
    with pytest.raises(ValueError, match="'lr', which the history has"):
        program.record("lr", "0")


def test_origins() -> None:
    program = Program()
    with program.made_by("Sampler", signed=True):
        program.insert("before_training", "# Starts it.\nstart()\nagain()")
        program.wrap("train_epoch", "if skip:\n    pass\nelse:\n    ...")
    with program.made_by("Other"):
        program.insert("after_step", "other()")
    assert program.origins() == {"Sampler": ["start()", "again()", "if skip:"], "Other": ["other()"]}
    lines = statements(program)
    assert lines[lines.index("start()") - 1] == "# Sampler: Starts it."
    assert lines[lines.index("if skip:") - 1] == "# Sampler"
    assert "Other" not in program.source()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda program: program.insert("between", "x"), "no slot 'between'.*before_training"),
        (lambda program: program.insert("before_step", "for"), "Sampler gave text that is not Python"),
        (lambda program: program.insert("before_step", "x = 1", EVERY=2), "EVERY is not in the text"),
        (lambda program: program.insert("before_step", "x = X", X=object()), "cannot be written as source"),
        (lambda program: program.wrap("step", "pass"), "0 lines of `...`"),
        (lambda program: program.wrap("step", "...\n..."), "2 lines of `...`"),
        (lambda program: program.substitute("backward", lose="1"), "lose is not in the text"),
        (lambda program: program.move("step", into="nowhere"), "no slot 'nowhere'"),
        (
            lambda program: (program.insert("after_training", "continue"), program.source()),
            "Sampler is not valid",
        ),
    ],
)
def test_mistakes_of_a_pass_are_named(change, message: str) -> None:  # type: ignore[no-untyped-def]
    program = Program()
    with program.made_by("Sampler"), pytest.raises(ValueError, match=message):
        change(program)


def test_blank_lines_are_tidied() -> None:
    functions = parse('def f():\n\n    slot("a")\n\n    x\n\n\n    slot("b")\n\n')
    assert emit("", Imports(), functions) == "def f():\n    x\n"


def test_an_emptied_block_is_still_python() -> None:
    assert emit("", Imports(), parse('def f():\n    slot("a")')) == "def f():\n    pass\n"
