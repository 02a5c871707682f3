"""One update of the pair of networks: gradients, optimizers, schedule, metrics."""
