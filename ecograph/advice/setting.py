"""One way to run a training step: which switches are on, whether that changes what is computed, how to switch it on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Numerics = Literal["exact", "near-exact", "approximate"]

#: What each word says, for people.
MEANING: dict[str, str] = {
    "exact": "the same computation in the same precision; sums may be taken in another order",
    "near-exact": "the same computation, in part in lower precision",
    "approximate": "another computation: check what it does to your model's quality",
}

AMP = {"bf16": "torch.bfloat16", "fp16": "torch.float16"}


@dataclass(frozen=True)
class Setting:
    """How a step is run. The default is plain eager training in the precision of the weights.

    Attributes:
        channels_last: model and images in the memory format in which convolutions are fastest.
        amp: ``"bf16"`` or ``"fp16"``: the forward under autocast; for fp16 with a scaled loss.
        tf32: products of float32 in TensorFloat-32, on GPUs.
        fused: the optimizer's fused implementation.
        compile: ``torch.compile``.
        threads: of torch on the CPU; None for what is set.
        passes: that rewrite the model.
        batch: samples in a batch; None for those of the example inputs.
    """

    channels_last: bool = False
    amp: Literal["bf16", "fp16"] | None = None
    tf32: bool = False
    fused: bool = False
    compile: bool = False
    threads: int | None = None
    passes: tuple[Any, ...] = ()
    batch: int | None = None

    @property
    def numerics(self) -> Numerics:
        """What it does to what is computed; see ``MEANING``. A larger batch is another training."""
        if self.batch is not None or any(each.numerics != "exact" for each in self.passes):
            return "approximate"
        return "near-exact" if self.amp or self.tf32 else "exact"

    @property
    def title(self) -> str:
        """For people: ``"channels_last + bf16"``."""
        parts = [
            *["channels_last"] * self.channels_last,
            *([self.amp] if self.amp else []),
            *["tf32"] * self.tf32,
            *["fused optimizer"] * self.fused,
            *["torch.compile"] * self.compile,
            *([f"{self.threads} thread{'s' * (self.threads != 1)}"] if self.threads else []),
            *(each.name.replace("_", " ") for each in self.passes),
            *([f"batch {self.batch}"] if self.batch else []),
        ]
        return " + ".join(parts) or "plain"

    def switched(self, **changes: Any) -> Setting:
        """Returns the setting with some switches changed."""
        return dataclasses.replace(self, **changes)

    def code(self, *, optimizer: str = "torch.optim.AdamW", device: str = "cpu") -> list[str]:
        """Returns the lines of Python that switch it on, in the order in which they must stand.

        Args:
            optimizer: the class, as it is written.
            device: torch's type of it.
        """
        lines = []
        if self.threads is not None:
            lines.append(f"torch.set_num_threads({self.threads})")
        if self.tf32:
            lines.append('torch.set_float32_matmul_precision("high")')
        if self.channels_last:
            lines.append("model = model.to(memory_format=torch.channels_last)")
        if self.passes:
            written = ", ".join(f"ecograph.passes.{_written(each)}" for each in self.passes)
            amp = f', amp="{self.amp}"' if self.amp else ""
            lines.append(f"model = ecograph.optimize(model, example_inputs=inputs, passes=[{written}]{amp})")
        if self.compile:
            lines.append("model.compile()")
        if self.fused:
            lines.append(f"optimizer = {optimizer}(model.parameters(), ..., fused=True)")
        if self.amp:
            lines.append(f'with torch.autocast("{device}", dtype={AMP[self.amp]}):')
            lines.append("    loss = loss_fn(model(inputs), targets)")
            if self.amp == "fp16":
                lines.append("# and scale the loss by torch.amp.GradScaler")
        return lines

    def loop_options(self) -> dict[str, Any]:
        """Returns what of it ``ecograph.TrainingLoop`` has an option for."""
        return {**({"amp": self.amp} if self.amp else {}), **({"compile": True} if self.compile else {})}

    def to_dict(self) -> dict[str, Any]:
        """Returns the setting as JSON types."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {**values, "passes": [each.to_dict() for each in self.passes]}


def _written(each: Any) -> str:
    """Returns a pass as it is written, with the options that are not its default."""
    options = [
        f"{option.name}={getattr(each, option.name)!r}"
        for option in dataclasses.fields(each)
        if option.init and getattr(each, option.name) != option.default
    ]
    return f"{type(each).__name__}({', '.join(options)})"
