"""The operations by which the host reads a tensor's value."""

import torch

HOST_READS = {
    torch.ops.aten._local_scalar_dense.default,  # .item(), int(), float(), bool(), .tolist()
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,  # boolean indexing: its result's size is read
}
