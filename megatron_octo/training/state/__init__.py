"""State of a run in memory and in checkpoints: choosing, loading, copying, saving. No step is computed here."""
