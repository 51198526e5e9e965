"""Tests mirror the library: ``tests/ROOM/test_MODULE.py`` beside every module, or a reason here."""

from pathlib import Path

from tests.places import PROJECT

LIBRARY, TESTS = PROJECT / "megatron_octo", PROJECT / "tests"

# Where modules without a test file of their own are tested, and why there.
ELSEWHERE = {
    # Declarations, which are compared with what is built from them.
    "tests/architectures/test_parameters_tables.py": [
        "architectures/base",
        "architectures/config_keys",
        "architectures/description",
        "architectures/gpt_bigcode",
        "architectures/starcoder2",
    ],
    "tests/recipe/test_reference.py": ["config/model", "config/sections", "recipe/schema"],
    "tests/sizing/test_memory.py": ["config/compute", "sizing/gpus", "sizing/measured"],
    "tests/checkpoint/test_tensor_writer.py": ["common/dtypes", "common/torch_dtypes"],
    # Parts of a mechanism that is tested as a whole, with real processes and files.
    "tests/runfiles/test_run_lock.py": ["common/leases"],
    "tests/runfiles/test_attempts.py": ["common/records"],
    "tests/common/test_quoting.py": ["common/terminal"],
    "tests/data/preprocessing/test_shards.py": [
        "common/splitmix",
        "data/preprocessing/merge",
        "data/preprocessing/sources",
        "data/preprocessing/finish",
    ],
    "tests/data/dataset/test_indexed.py": ["common/ragged", "data/dataset/writer"],
    "tests/data/planning/test_build_once.py": [
        "data/planning/plan_cache",
        "data/planning/planner",
        "data/planning/settings",
        "data/planning/blend",
    ],
    "tests/data/test_row_stream.py": [
        "data/planning/document_stats",
        "data/planning/fill_gaps",
        "data/planning/row_plan",
    ],
    "tests/data/preprocessing/test_lines.py": ["data/preprocessing/input_rows", "data/preprocessing/packed"],
    "tests/test_preprocess_resume.py": ["data/preprocessing/pipeline", "data/preprocessing/work_directory"],
    "tests/data/text/test_formats.py": ["data/text/template"],
    "tests/checkpoint/test_reader.py": ["checkpoint/source"],
    "tests/training/readiness/test_first_weights.py": ["checkpoint/fit"],
    "tests/conversion/writers/test_peft.py": [
        "checkpoint/adapter_base",
        "conversion/readers/merged_adapters",
    ],
    "tests/conversion/test_formats.py": [
        "conversion/engine/block_copy",
        "conversion/engine/conversion_record",
        "conversion/engine/job",
        "conversion/engine/rounding",
        "conversion/proof/layers",
        "conversion/proof/show",
        "conversion/proof/verify",
        "conversion/readers/open_weights",
        "conversion/writers/to_bigcode",
        "conversion/writers/to_checkpoint",
        "conversion/writers/hf_files",
    ],
    "tests/conversion/test_mistakes.py": ["conversion/arguments", "convert"],
    "tests/conversion/readers/test_bigcode.py": [
        "conversion/readers/bigcode_names",
        "conversion/readers/bigcode_ranks",
    ],
    # Layers and their parts: compared with Megatron-core's, with each other and over layouts, as a network.
    "tests/training/test_layouts.py": [
        "model/weights",
        "model/mcore_gpt",
        "model/fused/fused_gpt",
        "model/fused/embedding",
        "model/fused/losses",
        "model/fused/comm/exchange",
        "model/fused/comm/peer_memory",
        "model/fused/comm/tensor_ranks",
    ],
    "tests/training/test_lora.py": ["model/lora"],
    "tests/model/platform/test_cpu.py": ["model/platform/grid", "model/platform/mcore"],
    "tests/model/attention/test_packed_attention.py": [
        "model/attention/rotary",
        "model/fused/core_attention",
    ],
    "tests/model/fused/matmul/test_matmul_backend.py": ["model/fused/matmul/fp8", "model/fused/matmul/gemm"],
    "tests/model/fused/matmul/test_quack.py": [
        "model/fused/layer_functions",
        "model/fused/kernels/gelu_epilogues",
    ],
    "tests/model/fused/kernels/test_norm_kernels.py": [
        "model/fused/kernels/amax",
        "model/fused/kernels/ops",
        "model/fused/kernels/torch_reference",
    ],
    "tests/sizing/test_estimate.py": [
        "plan",
        "sizing/checkpoint_size",
        "sizing/save_interval",
        "sizing/step_time",
        "common/durations",
    ],
    # A training, with its ranks: what a part does shows in the run.
    "tests/training/test_run.py": ["training/loop", "runfiles/history", "recipe/summary"],
    "tests/training/engine/test_batches.py": ["training/engine/datasets", "runfiles/run_directory"],
    "tests/training/engine/test_step_lists.py": ["training/engine/adam", "training/engine/optimizer"],
    "tests/training/engine/test_network.py": ["training/engine/randomness"],
    "tests/training/state/test_saver.py": [
        "training/state/host_copy",
        "training/state/host_memory",
        "training/state/save",
    ],
    "tests/training/state/test_resume.py": ["training/state/state_parts"],
    "tests/training/test_preflight.py": ["training/supervision/probes"],
    "tests/training/supervision/test_fault_injection.py": [
        "training/supervision/coordinator",
        "training/supervision/diagnosis",
        "training/supervision/error_policy",
        "training/supervision/rank_agent",
        "training/supervision/rendezvous",
    ],
    # Programs in sandboxes: a language, or an attack, shows what its parts do.
    "tests/test_evaluate.py": ["evaluation/arguments", "evaluation/progress"],
    "tests/evaluation/languages/test_two_processes.py": [
        "evaluation/languages/base",
        "evaluation/languages/python",
        "evaluation/languages/javascript",
        "evaluation/languages/support/python/plain",
        "evaluation/languages/support/python/solution",
        "evaluation/languages/support/python/tester",
    ],
    "tests/evaluation/languages/test_java.py": ["evaluation/languages/java_compiler"],
    "tests/evaluation/scoring/test_compat.py": ["evaluation/languages/support/python/compat_runner"],
    "tests/evaluation/sandbox/test_box.py": [
        "evaluation/sandbox/bubblewrap",
        "evaluation/sandbox/levels",
        "evaluation/sandbox/limits",
        "evaluation/sandbox/spawn",
    ],
    "tests/evaluation/sandbox/test_hostile.py": ["evaluation/sandbox/cgroups", "evaluation/sandbox/supervisor"],
    "tests/evaluation/generation/test_engine.py": ["evaluation/generation/batches"],
    # Rows of commits: stages on files, as a user runs them.
    "tests/commits/test_main.py": ["commits/__main__", "commits/commands"],
    "tests/commits/history/test_command.py": ["commits/history/stage"],
    "tests/commits/rows/test_stage.py": [
        "commits/rows/arguments",
        "commits/rows/job",
        "commits/rows/ledger",
        "commits/rows/progress",
        "commits/rows/tally",
    ],
    "tests/commits/rows/test_writing.py": ["commits/rows/arrow"],
    "tests/commits/tables/test_bots.py": ["commits/tables/bots_command"],
    "tests/commits/clean/test_decontaminate_command.py": ["commits/clean/benchmark_texts"],
    "tests/commits/clean/test_dedup_command.py": ["commits/clean/clusters", "commits/clean/keys"],
    "tests/commits/chain/test_run.py": ["commits/chain/command"],
    "tests/commits/scrape/test_stage.py": [
        "commits/scrape/command",
        "commits/scrape/fetch",
        "commits/scrape/ledger",
    ],
    "tests/commits/report/test_collect.py": ["commits/report/stages"],
    "tests/commits/report/test_report.py": [
        "commits/report/card",
        "commits/report/command",
        "commits/report/markdown",
        "commits/report/page",
        "commits/report/tables",
    ],
    "tests/commits/query/test_command.py": ["commits/query/bigquery"],
    "tests/commits/query/test_engines.py": ["commits/query/texts"],
    "tests/commits/sources/test_oasst.py": ["commits/sources/oasst_command", "commits/sources/stage"],
    "tests/commits/sources/test_xp3x.py": ["commits/sources/xp3x_command"],
    "tests/commits/sources/test_commit_pairs.py": ["commits/sources/pairs_command"],
    "tests/commits/sources/test_mix_command.py": ["commits/sources/mix_rows"],
    "tests/commits/filters/test_rule_sets.py": [
        "commits/filters/first_rules",
        "commits/filters/second_rules",
        "commits/filters/subject",
    ],
    "tests/commits/filters/test_tokens.py": ["commits/filters/models"],
    "tests/commits/tables/test_optout.py": [
        "commits/tables/languages_command",
        "commits/tables/optout_command",
    ],
    "tests/commits/tables/test_licences.py": ["commits/tables/licences_command"],
    # Commands and what they print, as a user meets them.
    "tests/test_inspect.py": [
        "data/view/differences",
        "data/view/plot",
        "data/view/report",
        "data/view/row_view",
    ],
    "tests/test_inspect_run.py": [
        "runview/charts",
        "runview/load",
        "runview/page",
        "runview/steps",
        "runview/text",
        "runview/words",
    ],
    "tests/test_submit.py": ["cluster/profile", "cluster/sbatch", "cluster/snapshot", "cluster/stages"],
    "tests/cluster/test_script.py": ["cluster/local"],
    "tests/cluster/test_queue.py": ["cluster/job_guard", "cluster/slurm", "cluster/run_commands"],
}


def modules() -> set[str]:
    files = LIBRARY.rglob("*.py")
    return {path.relative_to(LIBRARY).with_suffix("").as_posix() for path in files if path.name != "__init__.py"}


def own_test(module: str) -> Path:
    room, _, name = module.rpartition("/")
    return TESTS / room / f"test_{name}.py"


def test_every_module_has_a_test_file_or_a_reason() -> None:
    explained = {module for group in ELSEWHERE.values() for module in group}
    missing = sorted(module for module in modules() - explained if not own_test(module).exists())
    assert not missing, f"write {', '.join(str(own_test(module).relative_to(PROJECT)) for module in missing)}"


def test_the_reasons_are_current() -> None:
    explained = [module for group in ELSEWHERE.values() for module in group]
    assert sorted(set(explained)) == sorted(explained), "a module stands there twice"
    assert sorted(set(explained) - modules()) == [], "these modules are gone"
    assert [module for module in explained if own_test(module).exists()] == [], "these have a test file now"
    assert [test for test in ELSEWHERE if not (PROJECT / test).exists()] == [], "these test files are gone"
