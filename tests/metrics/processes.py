from itertools import cycle

import torch


def joined(first, second):
    """Let ``first`` synchronise as if ``second`` were the same metric in another process."""
    names = cycle(first._reductions)

    def gather(state, group=None):
        other = getattr(second, next(names))
        if isinstance(other, list):
            other = torch.cat([torch.empty(0), *other])
        return [state, other]

    first.dist_sync_fn, first.distributed_available_fn = gather, lambda: True
    return first
