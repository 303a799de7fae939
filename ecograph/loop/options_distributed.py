"""Training in several processes: the statements that it takes, put in around those of the other options."""

from __future__ import annotations

from ecograph.loop.program import Program


def share_data(program: Program) -> None:
    """Join the processes that torchrun started, and give each its share of the data; before all other options."""
    program.insert(
        "before_training",
        """
        from ecograph.loop.runtime import Ranks

        # One of the processes that torchrun started. Each trains on its share of the data.
        ranks = Ranks(model, optimizer)
        train_loader = ranks.share(train_loader)
        val_loader = ranks.share(val_loader, pad=False)
        """,
    )
    program.insert(
        "before_epoch",
        """
        from ecograph.loop.runtime import set_epoch
        set_epoch(train_loader, epoch)
        """,
    )
    program.insert(
        "after_train_epoch",
        """
        # Over the samples of all ranks.
        train_loss.all_reduce(device)
        """,
    )
    program.insert("after_evaluate_batches", "val_loss.all_reduce(device)")
    if program.distributed == "ddp":
        _call_ddp_model(program)
    else:
        _evaluate_in_step(program)


def _call_ddp_model(program: Program) -> None:
    program.substitute("compute_loss", model=program.forward_model)
    if program.accumulate > 1:
        program.wrap(
            "batch",
            """
            from contextlib import nullcontext

            # Only the last batch of a group has the gradients averaged over the ranks.
            last = number == len(group)
            with nullcontext() if last else ddp_model.no_sync():
                ...
            """,
        )


def _evaluate_in_step(program: Program) -> None:
    program.insert(
        "before_evaluate_batches",
        """
        from ecograph.loop.runtime import InStep
        # All ranks gather weights together: one without a batch left repeats its last.
        loader = in_step = InStep(loader, device)
        """,
    )


def distribute_model(program: Program, *, ema: bool) -> None:
    """Have the ranks train one model together; after what changes it in place, or copies it."""
    program.insert(
        "after_train_epoch",
        f"""
        # Buffers, such as the statistics of BatchNorm, as they are on rank 0.
        ranks.broadcast_buffers({"model, averaged" if ema else "model"})
        """,
    )
    if program.distributed == "ddp":
        program.insert(
            "before_training",
            """
            from torch.nn.parallel import DistributedDataParallel

            # Averages gradients over the ranks; what is evaluated and saved is the model.
            ddp_model = DistributedDataParallel(model)
            """,
        )
        return
    program.insert(
        "before_training",
        f"""
        from ecograph.loop.runtime import Sharding, blocks
        from torch.distributed.fsdp import fully_shard

        # Each rank holds a part of every weight; a block at a time is whole, to compute.
        sharding = Sharding(model, optimizer)
        for block in {"(*blocks(model), *blocks(averaged.module))" if ema else "blocks(model)"}:
            fully_shard(block, mesh=ranks.mesh, reshard_after_forward=True)
        sharding.point_optimizer()
        """,
    )


def leave(program: Program) -> None:
    """Leave the other processes when training has ended; after all other options."""
    last = "\n\n# Whole on every rank, as it was given.\nsharding.undo()"
    program.insert("after_training", last if program.distributed == "fsdp" else "")
    program.move("after_training", into="training")
    program.wrap(
        "training",
        """
        with ranks:
            ...
        """,
    )
