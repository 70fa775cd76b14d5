"""What DDP makes of gradients as `start` configures it: they lie where they are summed over the ranks."""

from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from steel.distributed.runtime import start

LAYERS = 10


def test_gradients_are_not_copied_back_from_the_buckets(tmp_path: Path) -> None:
    """Of two micro-batches: the first one's gradients are taken as they are, the second one's added, and the sums put
    into the bucket while they are divided by the number of ranks, which is what `mul` does there. Zeroed gradients
    instead of none would stay in the bucket, but cost an addition for each parameter, and the division all the same.
    """
    kwargs = start("no", cpu=True).accelerator.ddp_handler.to_kwargs()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(LAYERS)))
        wrapped = nn.parallel.DistributedDataParallel(model, **kwargs)

        def step() -> None:
            wrapped.zero_grad(set_to_none=True)
            with wrapped.no_sync():
                wrapped(torch.ones(2, 8)).sum().backward()
            wrapped(torch.ones(2, 8)).sum().backward()

        step()
        step()  # DDP makes its buckets anew after the first step
        with torch.profiler.profile() as profile:
            step()
    finally:
        dist.destroy_process_group()
    counts = Counter(event.name for event in profile.events())
    assert (counts["aten::add_"], counts["aten::mul"]) == (LAYERS, LAYERS)
    assert len({parameter.grad.untyped_storage().data_ptr() for parameter in model.parameters()}) == 1
