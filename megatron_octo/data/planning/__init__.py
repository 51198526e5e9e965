"""Plans of epochs: which documents, and which pieces of them, make which row. Reads lengths and modes, never tokens."""
