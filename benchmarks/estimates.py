"""Compare the planner with measurements: memory and time of every GPU row of ``results/throughput.jsonl``.

    python -m benchmarks.estimates [--results FILE]

Prints planned / measured for each row, and how many rows are within 5, 8 and 15 %. Needs no GPU.
"""

import argparse
import json
from pathlib import Path

from megatron_octo.recipe.loading import check_batch
from megatron_octo.sizing.measured import Measurement, load_measurements
from megatron_octo.sizing.memory import GIB, memory

PROJECT = Path(__file__).parents[1]
MEASURED = PROJECT / "benchmarks" / "results" / "throughput.jsonl"


def compare(row: Measurement) -> dict[str, object]:
    """Return planned / measured of one row."""
    replicas = row.recipe.parallel.layout.replicas(row.ranks)
    needed = memory(row.recipe.model, row.recipe.compute, replicas, check_batch(row.recipe, replicas)).total / GIB
    return {
        "row": row.where,
        "model": f"{row.recipe.model.num_layers} x {row.recipe.model.hidden_size}",
        "tensor": row.recipe.parallel.tensor,
        "micro_size": row.recipe.batch.micro_size,
        "memory_gib": row.memory,
        "memory_ratio": round(needed / row.memory, 4) if row.memory else None,
        "step_ms": round(1e3 * row.seconds, 1),
        "time_ratio": round(row.ratio, 4),
    }


def main() -> int:
    """Print a line per row, and their summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=MEASURED)
    rows = [compare(row) for row in load_measurements(parser.parse_args().results, PROJECT)]
    for row in rows:
        print(json.dumps(row))
    for name in ("memory_ratio", "time_ratio"):
        ratios = [float(str(row[name])) for row in rows if row[name]]
        within = ", ".join(f"{sum(abs(r - 1) <= x for r in ratios)} within {x:.0%}" for x in (0.05, 0.08, 0.15))
        print(f"# {name}: of {len(ratios)} rows {within}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
