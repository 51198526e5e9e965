"""One save: the checkpoints that it writes and how far it is."""

from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.checkpoint import directory as layout
from megatron_octo.training.state.state_parts import StatePart


@dataclass(frozen=True)
class Target:
    """One checkpoint of a save: the whole state or weights alone, with its JSON state."""

    folder: Path
    part: StatePart
    precision: str
    state: dict[str, Any]


@dataclass
class Save:
    """A save in flight.

    Attributes:
        job: of the phase that this rank is in.
        started: by the performance counter; ``waited``: seconds that training stood still.
    """

    step: int
    attempt: int
    targets: list[Target]
    job: Future[None]
    started: float
    waited: float = 0.0
    committing: bool = False

    def paths(self, hidden: bool) -> list[Path]:
        """Return the targets' directories; hidden ones are of this attempt alone."""
        name = layout.step_name(self.step)
        return [target.folder / (f".{name}.{self.attempt}.tmp" if hidden else name) for target in self.targets]
