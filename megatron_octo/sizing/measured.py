"""Measured steps, as ``benchmarks/throughput.py --output`` writes them, and how far the model of time is from them."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.recipe.schema import Recipe
from megatron_octo.sizing.gpus import GPUS, Gpu
from megatron_octo.sizing.step_time import step_seconds

# What auto took there was measured, not what it would take elsewhere.
_TAKEN = {"flash4": ["system.attention=flash4"], "flash": ["system.attention=torch"]}


@dataclass(frozen=True)
class Measurement:
    """One row: seconds per step, and GiB on the fullest GPU; ``where`` is its file, line and conditions."""

    recipe: Recipe
    gpu: Gpu
    ranks: int
    seconds: float
    memory: float | None
    mean_document: int
    where: str

    @property
    def ratio(self) -> float:
        """Modelled time / measured time."""
        per_node = max(8, self.ranks)
        return step_seconds(self.recipe, self.gpu, self.ranks, per_node, self.mean_document) / self.seconds


def load_measurements(path: Path, root: Path = Path()) -> list[Measurement]:
    """Read the rows of GPUs, oldest first. Rows whose recipe is no longer valid are passed over.

    Args:
        path: lines of JSON.
        root: the folder that the rows' recipes are relative to.

    Raises:
        OctoError: a line is not a row.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            name = (row.get("machine", {}).get("gpus") or [""])[0]
            gpu = next((gpu for gpu in GPUS.values() if gpu.name in name), None)
            if gpu is None or "recipe" not in row:  # a CPU's, or a peer's
                continue
            seconds, ranks, document = row["step_ms"] / 1e3, int(row["ranks"]), int(row["mean_document"])
            # Rows without an MLP are from before there were two.
            taken = [*_TAKEN.get(row.get("attention"), []), f"system.mlp={row.get('mlp') or 'plain'}"]
            recipe = load_recipe(root / row["recipe"], [*row["overrides"], *taken])
        except OctoError:
            continue
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            what = f"not a row of benchmarks/throughput.py: {error!r}"
            raise OctoError(what, where=f"{path}:{number}") from None
        where = f"{path.name}:{number} ({row.get('date')}, {ranks} x {gpu.name})"
        found.append(Measurement(recipe, gpu, ranks, seconds, row.get("memory_gib"), document, where))
    return found


def correction(rows: list[Measurement], gpu: Gpu) -> tuple[float, str]:
    """Return the factor from modelled to measured time on a GPU, the median over its rows, and its source in words."""
    ratios = [row.ratio for row in rows if row.gpu == gpu]
    factor = 1 / median(ratios) if ratios else 1.0
    own = f", times {factor:.3f}, the median of {len(ratios)} measured steps" if ratios else ""
    return factor, f"by a model fitted to measured steps{own}"
