"""Compare the planner with measurements: memory and time of every GPU row of ``results/throughput.jsonl``.

    python -m benchmarks.estimates [--results FILE]

Prints plan / measured for each row. A row's time is planned twice: from all rows (its own among them, as ``plan`` does
for a shape that was measured), and from the rows of other shapes, which shows how well a time is carried over. Needs no
GPU.
"""

import argparse
import json
from pathlib import Path

from megatron_octo.recipe.loading import check_batch
from megatron_octo.sizing.memory import GIB, memory
from megatron_octo.sizing.step_time import MEASURED, Measurement, load_measurements, step_speed


def compare(row: Measurement, rows: list[Measurement]) -> dict[str, object]:
    """Plan beside measurement of one row."""
    replicas = row.recipe.parallel.layout.replicas(row.ranks)
    needed = (
        memory(row.recipe.model, row.recipe.compute, replicas, check_batch(row.recipe, replicas)).total / GIB
    )
    per_node = max(8, row.ranks)
    others = [other for other in rows if (other.recipe, other.gpu) != (row.recipe, row.gpu)]

    def seconds(known: list[Measurement]) -> float:
        return step_speed(row.recipe, row.gpu, row.ranks, per_node, known, row.mean_document).seconds

    return {
        "row": row.where,
        "model": f"{row.recipe.model.num_layers} x {row.recipe.model.hidden_size}",
        "tensor": row.recipe.parallel.tensor,
        "micro_size": row.recipe.batch.micro_size,
        "memory_gib": row.memory,
        "memory_ratio": round(needed / row.memory, 4) if row.memory else None,
        "step_ms": round(1e3 * row.seconds, 1),
        "time_ratio": round(seconds(rows) / row.seconds, 4),
        "time_ratio_from_others": round(seconds(others) / row.seconds, 4),
    }


def main() -> int:
    """Print one JSON object per row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=MEASURED)
    rows = load_measurements(parser.parse_args().results)
    for row in rows:
        print(json.dumps(compare(row, rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
