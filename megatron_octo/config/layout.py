"""The parallel layout of a run: along which axes its processes share one model, and how many replicas they hold."""

import math
from dataclasses import dataclass, replace

from megatron_octo.common.errors import OctoError

# The axes along which the ranks of one replica share it. A new axis is a field of Layout and a name here.
MODEL_AXES = ("tensor", "pipeline")
AXES = (*MODEL_AXES, "data")


@dataclass(frozen=True)
class Layout:
    """Sizes of the axes.

    Attributes:
        data: replicas of the model; 1 until the number of processes is known (see :meth:`over`).
        sequence: whether activations between linear layers are cut over the tensor ranks, too.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    sequence: bool = False

    @property
    def model_ranks(self) -> int:
        """Ranks that hold one replica."""
        return math.prod(getattr(self, axis) for axis in MODEL_AXES)

    @property
    def token_ranks(self) -> int:
        """Ranks that share the tokens of a micro-batch between linear layers."""
        return self.tensor if self.sequence else 1

    def replicas(self, world: int) -> int:
        """Return the data-parallel size of ``world`` processes.

        Raises:
            OctoError: they cannot hold whole replicas.
        """
        if world % self.model_ranks:
            raise OctoError(
                f"{world} process{'es' if world > 1 else ''} cannot hold {self.model_text} ranks per model",
                where=", ".join(f"parallel.{axis}" for axis in MODEL_AXES),
                hint="start a multiple of that many processes (--nproc, srun --ntasks) or change the layout",
            )
        return world // self.model_ranks

    def over(self, world: int) -> "Layout":
        """Return this layout with as many replicas as ``world`` processes hold.

        Raises:
            OctoError: they cannot hold whole replicas.
        """
        return replace(self, data=self.replicas(world))

    def layers_of(self, stage: int, num_layers: int) -> range:
        """Return the layers of a pipeline stage, numbered through the whole model."""
        count = num_layers // self.pipeline
        return range(stage * count, (stage + 1) * count)

    def stage_of(self, layer: int, num_layers: int) -> int:
        """Return the pipeline stage that holds a layer."""
        return layer // (num_layers // self.pipeline)

    def sizes(self) -> dict[str, int]:
        """Return the size of each axis by name, as checkpoints record it."""
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def model_text(self) -> str:
        """The axes of one replica and their product, ``tensor 2 x pipeline 4 = 8``."""
        return f"{' x '.join(f'{axis} {getattr(self, axis)}' for axis in MODEL_AXES)} = {self.model_ranks}"

    def __str__(self) -> str:
        return " x ".join(f"{axis} {size}" for axis, size in self.sizes().items())
