"""The plain training loop, with its slots in view.

`slot("name")` is an empty place for statements; `with slot("name"):` names the statements inside. Neither
appears in the emitted text. A step is one optimizer step; a batch is what one forward and backward sees,
and with `accumulate` a step has several. `data.py` puts in the loops over the data and what stands here as
`...`, by what a batch looks like.
"""

TEXT = '''
from collections.abc import Callable, Iterable
from typing import Any

import torch
from ecograph.loop.runtime import Clock, History, LossWatch, Mean, batch_size, device_of
from torch import nn
from torch.optim import Optimizer


@torch.no_grad()
def evaluate(
    model: nn.Module, loss_fn: LOSS, loader: Iterable[Any], device: torch.device
) -> float | None:
    """Evaluate `model`: means over the samples of `loader`."""
    model.eval()
    val_loss = Mean()
    slot("before_evaluate_batches")
    with slot("evaluate_batch"):
        with slot("evaluate_forward"):
            ...
        val_loss.add(loss, EVALUATED)
        slot("after_evaluate_batch")
    slot("after_evaluate_batches")
    with slot("evaluate_result"):
        return val_loss.mean()


def train(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LOSS,
    train_loader: Iterable[Any],
    val_loader: Iterable[Any] | None = None,
    lr_scheduler: LR_SCHEDULER | None = None,
) -> History:
    """Train `model` in place and return the history: one record per epoch."""
    epochs = EPOCHS
    device = device_of(model)
    history = History()
    watch = LossWatch(model, history)

    slot("before_training")

    with slot("training"):
        for epoch in RANGE:
            with slot("epoch"):
                clock = Clock()
                model.train()
                # Summed on the device, read once per epoch: no step waits for it.
                train_loss = Mean()
                slot("before_epoch")

                with slot("train_epoch"):
                    with slot("step"):
                        slot("before_step")
                        optimizer.zero_grad(set_to_none=True)
                        with slot("gradients"):
                            with slot("batch"):
                                slot("before_forward")
                                with slot("forward"):
                                    with slot("compute_loss"):
                                        ...
                                    slot("check_loss")
                                slot("before_backward")
                                with slot("backward"):
                                    loss.backward()
                                slot("after_backward")
                        slot("unscale")
                        slot("before_optimizer_step")
                        with slot("optimizer_step"):
                            optimizer.step()
                        slot("after_optimizer_step")
                        with slot("after_batch"):
                            train_loss.add(loss, batch_size(TARGETS))
                        slot("after_step")

                slot("after_train_epoch")

                with slot("validation"):
                    with slot("no_validation"):
                        val_loss = None
                    if VALIDATE:
                        slot("before_evaluate")
                        with slot("evaluate"):
                            val_loss = evaluate(model, loss_fn, val_loader, device)
                        slot("after_evaluate")

                with slot("record"):
                    history.record(
                        epoch,
                        train_loss=train_loss.mean(),
                        val_loss=val_loss,
                        lr=optimizer.param_groups[0]["lr"],
                        seconds=clock.seconds(),
                        energy=ENERGY,
                    )
                slot("after_epoch")
                slot("epoch_is_complete")
                slot("stop")

    slot("after_training")
    return history


if __name__ == "__main__":
    from ecograph.tools.standalone import main

    main(train)
'''
