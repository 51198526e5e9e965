"""A sandbox for foreign programs."""


class Sandbox:
    """Runs processes of one slot, one at a time."""
