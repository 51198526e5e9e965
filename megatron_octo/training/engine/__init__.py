"""Parts of a training step: batches, network, loss, optimizer, guard, metrics. No processes, no checkpoints."""
