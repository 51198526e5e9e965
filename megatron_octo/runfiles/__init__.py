"""Files of a run that commands share: lock, attempts, settings, samples, metrics, signals. Nothing here trains."""
