"""Training in several processes, by torch's own engine: what a loop with `distributed="ddp"` or "fsdp" imports.

`ranks.py` joins the processes that torchrun started and lets them talk, `share.py` gives each its share of the data,
`sharding.py` prepares a model for `fully_shard` and makes it whole again.
"""

from ecograph.loop.distributed.alone import Alone
from ecograph.loop.distributed.ranks import Ranks
from ecograph.loop.distributed.sharding import Sharding, blocks, of_parts
from ecograph.loop.distributed.share import InStep, set_epoch

__all__ = ["Alone", "InStep", "Ranks", "Sharding", "blocks", "of_parts", "set_epoch"]
