"""What this machine can score, found by using it."""

from megatron_octo.evaluation.benchmark.rows import read_rows
from megatron_octo.evaluation.records import LANGUAGES
from megatron_octo.evaluation.sandbox.levels import Number, probe_level
from megatron_octo.evaluation.sandbox.supervisor import cache_root
from megatron_octo.evaluation.scoring.judge import Judge
from megatron_octo.evaluation.scoring.self_check import check_language


def examine(data: str | None) -> tuple[list[str], bool]:
    """Return lines for the user, and whether all languages can be scored.

    Args:
        data: rows of HumanEvalPack; with them three right and three buggy solutions of each language are judged.
    """
    level = probe_level()
    lines = [f"sandbox: level {int(level.number)}: {level.name}"]
    lines += [f"  missing: {what}" for what in level.missing]
    good = level.number >= Number.NAMESPACES
    missing: list[str] = []
    with Judge(level, cache_root()) as judge:
        for name in LANGUAGES:
            toolchain = judge.language(name).toolchain()
            if not toolchain.found:
                lines.append(f"{name}: missing: {', '.join(toolchain.missing)}")
                missing += toolchain.missing
                good = False
            elif data is None or not good:
                lines.append(f"{name}: {toolchain.version}")
            else:
                check = check_language(read_rows(data, name), judge)
                found = f"{check.passed} of {check.of} right solutions pass, {check.forgiven} of {check.of} buggy ones"
                lines.append(f"{name}: {toolchain.version}: {found}")
                if not check.good:
                    lines.append(f"  {check.fault}")
                    good = False
    packages = sorted({word.removeprefix("apt: ") for word in (*missing, *level.missing) if word.startswith("apt: ")})
    if packages:
        lines.append(f"apt install {' '.join(packages)}")
    if data is None:
        lines.append("with --data, right and buggy solutions are judged, too")
    return lines, good
