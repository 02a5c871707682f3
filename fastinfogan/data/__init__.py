"""Image sets: readers, renderers, batches; see `specs`."""

from .sampler import BatchSampler, Order, batches, from_range, to_range
from .specs import absolute, can_stream, choose, load, open_set, own_size, settle
from .splits import Images, Split

__all__ = [
    "BatchSampler",
    "Images",
    "Order",
    "Split",
    "absolute",
    "batches",
    "can_stream",
    "choose",
    "from_range",
    "load",
    "open_set",
    "own_size",
    "settle",
    "to_range",
]
