"""The training loop as a small program: a syntax tree with named slots, into which passes put statements."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from ecograph.loop import base, fragment
from ecograph.loop.emit import emit
from ecograph.loop.imports import Imports
from ecograph.loop.tree import Fill, blocks_within, empty_slot, is_gap, sign, slot_name
from ecograph.loop.values import Code, code, literal

_STEPS_IN = "from ecograph.loop.runtime import steps_in"


class Program:
    """A training loop under construction.

    A slot is a named place: an empty one, to put statements in, or one around statements that are there
    already, to wrap, change or replace. `base.py` shows them all, in the text of the loop.

    A pass hands over plain Python text. Import statements in it move to the top of the file; comments and
    blank lines stay. A hole is a name in the text that is filled with a value, given by keyword:

        program.insert("before_training", "sampler = SAMPLER", SAMPLER=self)

    Attributes:
        epochs: how many there are.
        lr_step: when the learning-rate scheduler advances, as the loop's option says.
        amp: the mixed precision of the loop: None, "bf16" or "fp16".
        accumulate: how many batches make one optimizer step.
        distributed: how several processes train together: None, "ddp" or "fsdp".
        forward_model: what is called in training: "model"; or, with DDP, "ddp_model", which is wrapped around it.
        targets: what holds the targets in the text: "targets", or "batch" where a batch is one dict.
        evaluated: the code for the number of samples in a batch that is evaluated.
        steps_per_epoch: the code for the number of optimizer steps in an epoch, to fill a hole with.
        arguments: the keyword arguments that `train` needs beyond the usual ones, and their values.
        scheduled: whether a Scheduler sets the rates of the model's passes.
        kept: the variables of `train` whose state belongs into a checkpoint; see `keep`.
        kept_of_each_rank: those of them of which each process has a state of its own.
        meters: the same, of those that begin anew with each epoch.
        recorded: the values that the history keeps of each epoch.
    """

    def __init__(
        self,
        epochs: int = 1,
        *,
        amp: Literal["bf16", "fp16"] | None = None,
        accumulate: int = 1,
        distributed: Literal["ddp", "fsdp"] | None = None,
        targets: Literal["targets", "batch"] = "targets",
        checkpointed: bool = False,
        validate: str = "val_loader is not None",
        lr_scheduler: str = "LRScheduler",
    ) -> None:
        """Start with the text of `base.py`."""
        self.epochs = epochs
        self.lr_step: Literal["epoch", "step", "val_loss"] = "epoch"
        self.amp = amp
        self.accumulate = accumulate
        self.distributed = distributed
        self.forward_model = "ddp_model" if distributed == "ddp" else "model"
        self.targets = targets
        self.steps_per_epoch = code("steps_in(train_loader)", imports=_STEPS_IN)
        self.evaluated = code(f"batch_size({targets})" + (" * in_step.counts" if distributed == "fsdp" else ""))
        self.arguments: dict[str, object] = {}
        self.scheduled = False
        self.kept: list[str] = ["model", "optimizer", "lr_scheduler", "history"]
        self.kept_of_each_rank: list[str] = []
        self.meters: list[str] = ["train_loss", "clock"]
        self.recorded: tuple[str, ...] = ("train_loss", "val_loss")
        self._imports = Imports()
        self._origin: str | None = None
        self._signed = False
        self._origins: dict[ast.stmt, str] = {}
        self._slots: dict[str, list[ast.stmt]] = {}
        self._touched: dict[str, str] = {}  # slot: who last changed it
        holes = {
            "EPOCHS": epochs,
            "TARGETS": code(targets),
            "ENERGY": code("clock.energy(ranks)" if distributed is not None else "clock.energy()"),
            "EVALUATED": self.evaluated,
            "RANGE": code("range(checkpoints.first_epoch, epochs)" if checkpointed else "range(epochs)"),
            "VALIDATE": code(validate),
            "LR_SCHEDULER": code(lr_scheduler, imports=f"from torch.optim.lr_scheduler import {lr_scheduler}"),
            "LOSS": code("Callable[..., Any] | None" if targets == "batch" else "Callable[..., Any]"),
        }
        self._functions = self._take(base.TEXT, holes)

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of all slots."""
        return tuple(self._slots)

    @contextmanager
    def made_by(self, origin: str, *, signed: bool = False) -> Iterator[None]:
        """Within this block, statements are remembered as made by `origin`; `signed`: a comment says so."""
        before = self._origin, self._signed
        self._origin, self._signed = origin, signed
        try:
            yield
        finally:
            self._origin, self._signed = before

    def insert(self, slot: str, text: str, **holes: object) -> None:
        """Add the statements of `text` at the end of a slot.

        Raises:
            ValueError: for a slot that does not exist, text that is not Python, a hole that is not in the
                text, or a value that cannot be written as source.
        """
        self._slot(slot).extend(self._take(text, holes))
        self._touch(slot)

    def wrap(self, slot: str, text: str, **holes: object) -> None:
        """Put the statements of a slot inside those of `text`, at the place of its one `...`.

        A later wrap of the same slot goes around an earlier one.

        Raises:
            ValueError: as `insert`; and if `text` does not have exactly one `...` statement.
        """
        inner = self._slot(slot)
        outer = self._take(text, holes)
        gaps = [
            (block, at) for block in blocks_within(outer) for at, each in enumerate(block) if is_gap(each)
        ]
        if len(gaps) != 1:
            raise ValueError(
                f"{self._who} wraps slot {slot!r} in text with {len(gaps)} lines of `...`, not one"
            )
        block, at = gaps[0]
        block[at : at + 1] = inner
        inner[:] = outer
        self._touch(slot)

    def replace(self, slot: str, text: str, **holes: object) -> None:
        """Put the statements of `text` in the place of those of a slot.

        Raises:
            ValueError: as `insert`; and if another pass has changed the slot, because that would be undone.
        """
        body = self._slot(slot)
        nested = [name for block in blocks_within(body) for each in block if (name := slot_name(each))]
        for name in [slot, *nested]:
            if name in self._touched:
                raise ValueError(
                    f"{self._who} replaces slot {slot!r}, but {self._touched[name]} has changed it"
                )
        for name in nested:
            del self._slots[name]
        body[:] = self._take(text, holes)
        self._touch(slot)

    def move(self, slot: str, *, into: str) -> None:
        """Move a slot, with what is in it and will be put in it, to the end of another.

        Raises:
            ValueError: for a slot that does not exist.
        """
        self._slot(slot)
        target = self._slot(into)
        for block in blocks_within(self._functions):
            for each in block:
                if slot_name(each) == slot:
                    block.remove(each)
                    target.append(each)
                    return

    def substitute(self, slot: str, **expressions: str) -> None:
        """In the statements of a slot, put an expression in the place of each use of a name.

        `program.substitute("backward", loss="loss / 4")` scales the loss where it is differentiated.

        Raises:
            ValueError: for a slot that does not exist, or a name that is not used there.
        """
        values = {name: code(text) for name, text in expressions.items()}
        self._fill(self._slot(slot), values, reads_only=True)
        self._touch(slot)

    def record(self, name: str, expression: str) -> None:
        """Keep one more value per epoch in the history: `program.record("rate", "sampler.rate")`.

        Raises:
            ValueError: if the history has a value of that name already.
        """
        calls = [each.value for each in self._slot("record") if isinstance(each, ast.Expr)]
        call = next(each for each in calls if isinstance(each, ast.Call))
        if name in ("epoch", "joules", "energy_source", "note", *(each.arg for each in call.keywords)):
            raise ValueError(f"{self._who} records {name!r}, which the history has already")
        keyword = ast.keyword(arg=name, value=code(expression).expression)
        self.recorded = (*self.recorded, name)
        call.keywords.insert(-3, keyword)  # before lr, seconds and energy: the clock is read last

    def keep(self, name: str, *, each_rank: bool = False) -> None:
        """Keep the state of a variable of `train` in checkpoints, where the loop writes any.

        Args:
            name: of a variable that is set in slot "before_training" and has `state_dict` and
                `load_state_dict`, with a state of tensors, numbers, strings, lists and dicts.
            each_rank: with several processes, keep the state of each. False: it is the same in all, and that of the
                first is kept for all.

        Raises:
            ValueError: if a variable of that name is kept already.
        """
        if name in self.kept:
            raise ValueError(f"{self._who} keeps {name!r}, which the loop keeps already: choose another name")
        self.kept.append(name)
        if each_rank:
            self.kept_of_each_rank.append(name)

    def argument(
        self,
        name: str,
        value: object,
        *,
        function: Literal["train", "evaluate"] = "train",
        annotation: Code,
        default: Code | None = None,
    ) -> None:
        """Add a keyword-only argument to a function of the text, for a value that no source can make.

        `TrainingLoop.run` gives `value` to `train`; who runs the text on its own gives one of their own, or, where
        there is one, leaves it at the `default`.
        """
        for each in self._functions:
            if isinstance(each, ast.FunctionDef) and each.name == function:
                each.args.kwonlyargs.append(ast.arg(arg=name, annotation=annotation.expression))
                for statement in annotation.imports:
                    self._imports.add(statement)
                each.args.kw_defaults.append(None if default is None else default.expression)
        if function == "train":
            self.arguments[name] = value

    def returns(self, function: Literal["evaluate"], annotation: str) -> None:
        """Set the annotation of what a function of the text returns."""
        for each in self._functions:
            if isinstance(each, ast.FunctionDef) and each.name == function:
                each.returns = code(annotation).expression

    def uses(self, name: str) -> bool:
        """Say whether the text reads the variable `name` anywhere."""
        nodes = (node for function in self._functions for node in ast.walk(function))
        return any(isinstance(node, ast.Name) and node.id == name for node in nodes)

    def is_empty(self, slot: str) -> bool:
        """Say whether a slot has no statements yet."""
        return not self._slot(slot)

    def origins(self) -> dict[str, list[str]]:
        """Return, for everyone who put statements in, the first line of each."""
        made: dict[str, list[str]] = {}
        for statement, origin in self._origins.items():
            if fragment.comment_text(statement) is None:
                made.setdefault(origin, []).append(ast.unparse(statement).splitlines()[0])
        return made

    def source(self, docstring: str = "") -> str:
        """Return the program as the text of a Python file.

        Raises:
            ValueError: if what passes put in does not make a program, such as a `continue` outside a loop.
        """
        text = emit(docstring, self._imports, self._functions)
        try:
            compile(text, "the loop", "exec", dont_inherit=True)
        except SyntaxError as error:
            raise ValueError(
                f"the loop with {', '.join(self.origins())} is not valid Python: {error}"
            ) from error
        return text

    @property
    def _who(self) -> str:
        return self._origin or "the loop"

    def _touch(self, slot: str) -> None:
        if self._origin is not None:
            self._touched[slot] = self._origin

    def _slot(self, name: str) -> list[ast.stmt]:
        if name not in self._slots:
            raise ValueError(
                f"{self._who}: there is no slot {name!r} in the loop; there are {', '.join(self._slots)}"
            )
        return self._slots[name]

    def _take(self, text: str, holes: Mapping[str, object]) -> list[ast.stmt]:
        """Parse a fragment, move its imports to the top, fill its holes, note its slots and its origin."""
        try:
            parsed = fragment.parse(text)
        except SyntaxError as error:
            raise ValueError(f"{self._who} gave text that is not Python ({error}):\n{text}") from error
        statements = []
        for each in parsed:
            if isinstance(each, ast.Import | ast.ImportFrom):
                self._imports.add(each)
            else:
                statements.append(each)
        self._fill(statements, {name: literal(value) for name, value in holes.items()})
        if self._origin is not None:
            self._origins |= dict.fromkeys(statements, self._origin)
            if self._signed:
                sign(statements, self._origin)
        for block in blocks_within(statements):
            for at, each in enumerate(block):
                if name := slot_name(each):
                    if name in self._slots:
                        raise ValueError(f"{self._who}: there is a slot {name!r} already")
                    slot = each if isinstance(each, ast.With) else empty_slot(each)
                    block[at] = slot
                    self._slots[name] = slot.body
        return statements

    def _fill(
        self, statements: list[ast.stmt], values: Mapping[str, Code], *, reads_only: bool = False
    ) -> None:
        fill = Fill(values, reads_only=reads_only)
        for statement in statements:
            fill.visit(statement)
        if missing := ", ".join(sorted(values.keys() - fill.filled)):
            raise ValueError(f"{self._who}: {missing} is not in the text that it should be filled into")
        for value in values.values():
            for statement in value.imports:
                self._imports.add(statement)
