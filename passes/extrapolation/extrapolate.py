"""The pass: what it puts into a training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecograph.passes.extrapolation.config import Options

if TYPE_CHECKING:
    from ecograph.loop import Program

_PLACE = {
    "past": "at w - radius * the last gradient, and applied at w.",
    "noise": "at w + noise as large as radius * w, and applied at w.",
    "local": "at w - radius * this worker's last, and applied at w.",
}
_NEXT = {
    "past": "The direction of the next step.",
    "noise": "New noise for the next step.",
    "local": "The direction of the next step: the gradient before it was reduced.",
}


class Extrapolate(Options):
    """Compute each gradient at a point ahead of the weights, and apply it at the weights (extragradient).

    For a batch so large that plain training with it becomes unstable. A step costs what it cost before, plus some
    passes over the weights; what can be saved are steps.

    Args:
        radius: how far ahead. For gradients as the direction, in the unit of SGD's learning rate; for noise, relative
            to the size of each parameter.
        direction: ``"past"``: the gradient of the step before, as the optimizer was given it. ``"noise"``: Gaussian.
            ``"local"``: under DistributedDataParallel, this worker's gradient of the step before.
        until: a number of epochs (int) or a share of the training (float), after which steps are plain. None: never.
            A share needs a loader with a length.
        seed: of the noise.

    Raises:
        ValueError: for an option out of range, with the fix.

    Source: arXiv 2006.05720. The README beside this file says what is the paper's and what is ours. A loop of one's
    own uses :class:`Extrapolation`.
    """

    def insert(self, program: Program) -> None:
        """Adds the extrapolation to a generated training loop."""
        from ecograph.loop import unscale_gradients

        arguments = [f"radius={self.radius!r}"]
        if self.direction != "past":
            arguments.append(f'direction="{self.direction}"')
        if self.direction == "noise" and self.seed:
            arguments.append(f"seed={self.seed}")
        share = isinstance(self.until, float) and self.until < 1
        if share:
            arguments.append(f"steps=round({self.until!r} * epochs * STEPS)")
        # DistributedDataParallel is asked for a worker's own gradient; what moves is the same.
        model = program.forward_model if self.direction == "local" else "model"
        program.insert(
            "before_training",
            f"""
            from ecograph.passes.extrapolation import Extrapolation

            # Each gradient is computed {_PLACE[self.direction]}
            extrapolation = Extrapolation({model}, optimizer, {", ".join(arguments)})
            """,
            **({"STEPS": program.steps_per_epoch} if share else {}),
        )
        program.keep("extrapolation")
        if isinstance(self.until, int):
            program.insert(
                "before_epoch",
                """
                if epoch >= UNTIL:
                    extrapolation.stop()
                """,
                UNTIL=self.until,
            )
        program.wrap(
            "gradients",
            """
            with extrapolation.shifted():
                ...
            """,
        )
        scale = ""
        if self.direction == "past":
            unscale_gradients(program)
        elif self.direction == "local" and program.amp == "fp16":
            scale = "loss_scale=scaler.get_scale()"
        program.insert(
            "before_optimizer_step",
            f"""
            # {_NEXT[self.direction]}
            extrapolation.update({scale})
            """,
        )
