"""Image sets: readers, renderers, batches; see `specs`."""

from .specs import (
    BatchSampler,
    Images,
    Order,
    Split,
    absolute,
    batches,
    can_stream,
    from_range,
    load,
    to_range,
)

__all__ = [
    "BatchSampler",
    "Images",
    "Order",
    "Split",
    "absolute",
    "batches",
    "can_stream",
    "from_range",
    "load",
    "to_range",
]
