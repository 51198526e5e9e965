"""Plans: what is printed, what is refused, how often to save, and which layouts are proposed."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.estimates import MEASURED
from megatron_octo import plan as door
from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.recipe.schema import Recipe
from megatron_octo.sizing.checkpoint_size import checkpoint_bytes
from megatron_octo.sizing.estimate import Plan, estimate, search
from megatron_octo.sizing.gpus import GPUS
from megatron_octo.sizing.measured import correction, load_measurements
from megatron_octo.sizing.save_interval import RESTART_SECONDS, best_interval, lost_share
from megatron_octo.sizing.step_time import step_seconds
from tests.places import PROJECT


def recipe(name: str = "starcoderbase_finetune", *overrides: str) -> Recipe:
    return load_recipe(PROJECT / f"recipes/{name}.yaml", overrides)


def on(loaded: Recipe, gpu: str = "h100", nodes: int = 8) -> Plan:
    return estimate(loaded, gpu, nodes)


def test_octopacks_run_fits_its_64_gpus() -> None:
    found = on(recipe())
    assert found.fits and found.replicas == 4 and found.micro_batches == 32
    text = "\n".join(found.lines())
    assert "tensor 4 x pipeline 4 x data 4" in text
    for part in ("weights", "gradients", "optimizer", "activations", "logits", "workspace", "total"):
        assert f"\n  {part} " in text
    tokens = 10_000 * 128 * 8192
    assert found.tokens_per_second == pytest.approx(128 * 8192 / found.step_seconds)
    assert found.seconds * (1 - found.saving.lost) == pytest.approx(tokens / found.tokens_per_second)
    assert found.gpu_hours == pytest.approx(found.seconds / 3600 * 64)
    assert "by a model fitted to measured steps" in text


def test_what_does_not_fit_comes_with_changes_that_do() -> None:
    found = on(recipe("starcoderbase_finetune", "parallel.tensor=2", "parallel.pipeline=1"), nodes=1)
    assert not found.fits and found.changes
    assert len({words for words, _ in found.changes}) == len(found.changes)
    for words, _ in found.changes:
        changed = recipe("starcoderbase_finetune", "parallel.tensor=2", "parallel.pipeline=1", *words.split())
        assert on(changed, nodes=1).fits
        assert f"would fit with {words}" in "\n".join(found.lines())


@pytest.mark.slow
def test_search_proposes_what_fits_fastest_first() -> None:
    start = on(recipe("starcoderbase_finetune", "parallel.tensor=1", "parallel.pipeline=1", "parallel.sequence=false"))
    assert not start.fits
    found = search(start.recipe, start.cluster)
    assert found and all(other.fits for _, other in found)
    speeds = [other.tokens_per_second for _, other in found]
    assert speeds == sorted(speeds, reverse=True)
    words, best = found[0]
    again = on(
        recipe(
            "starcoderbase_finetune",
            "parallel.tensor=1",
            "parallel.pipeline=1",
            "parallel.sequence=false",
            *words.split(),
        )
    )
    assert again.recipe == best.recipe and again.memory == best.memory


ROWS = load_measurements(MEASURED, PROJECT)


def test_modelled_times_are_near_the_measured_ones() -> None:
    """37 of 42 rows are within 5 %; the others are of former kernels."""
    errors = [abs(row.ratio - 1) for row in ROWS]
    assert len(ROWS) >= 40
    assert sum(error <= 0.05 for error in errors) >= 0.85 * len(errors)
    assert max(errors) < 0.15


def test_time_follows_the_shape() -> None:
    row = next(row for row in ROWS if row.recipe.parallel.tensor == 1)
    more = row.recipe.model_copy(update={"batch": row.recipe.batch.model_copy(update={"global_size": 64})})
    one, eight = (step_seconds(each, row.gpu, 1, 8, row.mean_document) for each in (row.recipe, more))
    # Eight times the micro-batches, but one optimizer step.
    assert 0.9 < eight / one / (64 / row.recipe.batch.global_size) < 1
    times = {
        attention: on(recipe("santacoderpack", f"system.attention={attention}"), nodes=1).step_seconds
        for attention in ("te", "flash4", "torch")
    }
    assert times["flash4"] < times["te"] < times["torch"]
    assert 1.03 < times["te"] / times["flash4"] < 1.15
    fp8 = on(recipe("santacoderpack", "train.fp8=current", "system.attention=te"), nodes=1).step_seconds
    assert 0.75 < fp8 / times["te"] < 0.95


def test_own_measurements_correct_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that take twice as long as the model says, on one kind of GPU."""
    monkeypatch.chdir(PROJECT)
    row = json.loads(MEASURED.read_text().splitlines()[0])
    file = tmp_path / "rows.jsonl"
    slow = 2e3 * ROWS[0].ratio * ROWS[0].seconds
    file.write_text("".join(json.dumps({**row, "step_ms": slow * factor}) + "\n" for factor in (0.7, 1, 9)))
    plans = {
        (gpu, rows): estimate(recipe("santacoderpack"), gpu, 1, measured=rows)
        for gpu in ("h100", "h200")
        for rows in (None, file)
    }
    assert plans["h100", file].step_seconds == pytest.approx(2 * plans["h100", None].step_seconds)
    assert "times 2.000, the median of 3 measured steps" in "\n".join(plans["h100", file].lines())
    assert plans["h200", file].step_seconds == plans["h200", None].step_seconds
    assert correction([], GPUS["h100"])[0] == 1.0


def test_rows_that_are_no_measurements_are_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"machine": {"gpus": ["NVIDIA H100"]}, "megatron_lm": {"step_ms": 1}}\n')
    assert load_measurements(file) == []  # a peer's
    file.write_text('{"recipe": "recipes/demo.yaml", "machine": {"gpus": ["NVIDIA H100"]}}\n')
    with pytest.raises(OctoError, match="not a row of benchmarks") as caught:
        load_measurements(file)
    assert str(caught.value.where) == f"{file}:1"
    old = json.loads(MEASURED.read_text().splitlines()[0])
    old["overrides"] = ["model.no_such_key=1"]  # of a version whose recipes were others
    file.write_text(json.dumps(old) + "\n")
    assert load_measurements(file) == []


@pytest.mark.parametrize("save,failure", [(1.0, 3600.0), (60.0, 86400.0), (600.0, 7200.0)])
def test_the_best_interval_loses_least(save: float, failure: float) -> None:
    """Daly's formula against the minimum of the cost that it approximates, found by trying."""
    best = best_interval(save, failure)
    tried = [math.exp(x / 200) for x in range(200, 2400)]
    least = min(tried, key=lambda interval: lost_share(interval, save, failure))
    assert best == pytest.approx(least, rel=0.02)
    # No failure, nothing lost but saves.
    assert lost_share(100.0, 1.0, 1e12) == pytest.approx(1 / 101, rel=1e-3)
    assert lost_share(1e-9 + failure * 200, save, failure) == 1.0
    assert lost_share(best, save, failure) > RESTART_SECONDS / (RESTART_SECONDS + failure) * 0.9


def test_an_asynchronous_save_costs_its_copy_alone() -> None:
    """186 GB over 64 GPUs at 10 GB/s each, or at the disk's 2 GB/s; never more often than one can be written."""
    loaded = recipe("starcoderbase_finetune", "checkpoint.asynchronous=true")
    size = checkpoint_bytes(loaded.model, loaded.compute)
    waiting = on(recipe("starcoderbase_finetune", "checkpoint.asynchronous=false")).saving
    copying = on(loaded).saving
    assert waiting.save_seconds == waiting.write_seconds == copying.write_seconds == size / 2e9
    assert copying.save_seconds == pytest.approx(size / 64 / 10e9)
    assert copying.best_lost < waiting.best_lost
    slow = estimate(loaded, "h100", 8, disk=1e7).saving
    assert slow.best_seconds >= slow.write_seconds == size / 1e7
    assert on(recipe("starcoderbase_finetune", "checkpoint.keep_every=1000")).saving.disk_bytes == 14 * size


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (10, ["time: 10.0 s, 0.022 GPU hours, for 10 steps and 5.24 million tokens"]),
        (500_000, ["time: 5.8 days, 1,110 GPU hours, for 500,000 steps and 262 billion tokens"]),
    ],
)
def test_units_are_of_a_sensible_size(steps: int, words: list[str]) -> None:
    lines = on(recipe("santacoderpack", f"train.steps={steps}", "checkpoint.interval=50"), nodes=1).lines()
    for word in words:
        assert word in lines, lines


def test_bytes_of_a_checkpoint() -> None:
    """What a saved run takes on disk: 12 bytes a parameter in bf16 and in fp32, 8 with bf16 moments."""
    loaded = recipe("santacoderpack")
    assert checkpoint_bytes(loaded.model, loaded.compute) == 12 * 1_137_207_296
    assert on(loaded, nodes=1).saving.disk_bytes == 4 * 12 * 1_137_207_296
    for override, each in (("optimizer.state_dtype=bf16", 8), ("train.precision=fp32", 12)):
        changed = recipe("santacoderpack", override)
        assert checkpoint_bytes(changed.model, changed.compute) == each * 1_137_207_296


@pytest.mark.parametrize(
    "argv,words",
    [
        (["recipes/demo.yaml", "--gpu", "h1000"], "unknown GPU 'h1000'"),
        (["recipes/demo.yaml", "--nodes", "0"], "--nodes is 0"),
        (["recipes/starcoderbase_finetune.yaml", "--nodes", "3"], "cannot hold tensor 4 x pipeline 4"),
        (["recipes/santacoderpack.yaml", "--nodes", "5"], "is no multiple of micro_size 2 x 40"),
        (["recipes/santacoderpack.yaml", "--measured", "nowhere"], "no such file"),
    ],
)
def test_mistakes(argv: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    with pytest.raises(OctoError) as caught:
        door.main(argv)
    assert words in str(caught.value)


def test_the_command_answers_without_torch() -> None:
    script = (
        "import sys; from megatron_octo import plan\n"
        "code = plan.main(['recipes/starcoderbase_finetune.yaml', '--gpu', 'h100', '--nodes', '8', '--search'])\n"
        "print(code, [m for m in ('torch', 'numpy', 'megatron') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=True, cwd=PROJECT)
    lines = done.stdout.splitlines()
    assert lines[-1] == "0 []"
    assert any(line.startswith("search: ") for line in lines)


def test_exit_code_says_that_it_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(PROJECT)
    code = door.main(["recipes/starcoderbase_finetune.yaml", "parallel.pipeline=1", "--gpu", "a100-40"])
    assert code == 2
    assert "does NOT fit" in capsys.readouterr().out
