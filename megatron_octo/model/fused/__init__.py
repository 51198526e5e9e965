"""Our own layers: fewer passes over memory than megatron-core's, the same numbers."""
