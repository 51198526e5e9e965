"""The scripts of ``slurm/``, unedited, on the test cluster; sbatch's options and the environment make them small."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.distributed import train
from tests.places import PROJECT
from tests.slurm.conftest import Cluster, ask, wait_for
from tests.slurm.jobs import SlurmRun, assert_bit_equal, environment, make_desk, slow

SMALL = ("--cpus-per-task=1", "--mem=4G")


@pytest.fixture(scope="module")
def desk(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user stands. The tiny recipe is StarCoderBase's with other numbers."""
    desk = make_desk(tmp_path_factory.mktemp("desk"))
    tiny = yaml.safe_load((desk / "recipe.yaml").read_text())
    tiny["parallel"] = {"tensor": 2, "pipeline": 1, "sequence": True}
    tiny["data"] |= {"valid": None, "overlong": "window"}
    tiny["schedule"] = {"decay_steps": None}
    tiny["eval"] = {"interval": 0}
    tiny["checkpoint"] |= {"init_from": None}
    base = str(PROJECT / "recipes" / "starcoderbase_finetune.yaml")
    (desk / "tiny.yaml").write_text(yaml.safe_dump({"base": base, **tiny}))
    return desk


def sbatch(desk: Path, script: str, *options: str, arguments: Sequence[str] = (), **variables: str) -> str:
    words = ["sbatch", "--parsable", *options, str(PROJECT / "slurm" / script), *arguments]
    variables = {**environment(), "PYTHON": sys.executable, **variables}
    return subprocess.run(words, cwd=desk, env=variables, check=True, text=True, capture_output=True).stdout.strip()


def logs(desk: Path, pattern: str) -> str:
    return "\n".join(path.read_text() for path in sorted(desk.glob(f"{pattern}.log")))


@pytest.fixture(scope="module")
def data(cluster: Cluster, desk: Path) -> Path:
    """The data set, made by an array of two tasks and the merge that they queue."""
    variables = {
        "INPUT": "pairs*.jsonl",
        "FORMAT": "finetune",
        "TOKENIZER": "tokenizer.json",
        "OUTPUT_PREFIX": "data/pairs",
    }
    sbatch(desk, "preprocess.sh", "--array=0-1", *SMALL, **variables)
    wait_for("data set", lambda: (desk / "data/pairs.json").exists() and not ask("squeue", "--noheader"))
    said = logs(desk, "preprocess*")
    assert "--task 0/2" in said and "--task 1/2" in said and "--merge" in said
    assert "inspect" not in said and "documents" in said, "the merge ends with a look at the result"
    return desk / "data/pairs"


class TestFinetune:
    """Two nodes with two tasks each, tensor 2 x data 2."""

    size = ("--nodes=2", "--ntasks-per-node=2", *SMALL)

    def start(self, desk: Path, name: str, **variables: str) -> SlurmRun:
        run = SlurmRun(desk, name)
        overrides = f"run_dir={run.name} system.timeout_minutes=5"
        run.job = sbatch(
            desk,
            "finetune_starcoderbase.sh",
            *self.size,
            RECIPE="tiny.yaml",
            OVERRIDES=overrides,
            **variables,
        )
        return run

    def test_saved_and_queued_again_on_a_signal(
        self, cluster: Cluster, desk: Path, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = SlurmRun(desk, "whole")
        monkeypatch.chdir(desk)
        codes, text = train(4, ["tiny.yaml", f"run_dir={whole.name}"], desk / "whole.log")  # without SLURM
        assert codes == [0] * 4, text
        run = self.start(desk, "disturbed", OCTO_FAULT=slow(1, 0.2))
        run.wait_for_step(2, attempt=1)
        ask("scancel", "-s", "USR1", run.job)
        run.wait_for_attempt(2)
        cluster.wait(run.job, "COMPLETED", "FAILED", seconds=240)
        status = run.status()
        assert [row["reason"] for row in status["rows"]] == ["signal SIGUSR1", "finished"], logs(desk, "*")
        assert (status["state"], status["rows"][0]["nodes"]) == ("finished", ["node1", "node2"])
        assert run.attempts()[0]["world"] == 4
        assert run.saved_by(1) == run.attempts()[0]["last_step"], "everything was saved"
        assert_bit_equal(run, whole)

    def test_convert_and_verify(self, cluster: Cluster, desk: Path) -> None:
        job = sbatch(desk, "convert.sh", *SMALL, RUN="runs/disturbed")
        cluster.wait(job, "COMPLETED", "FAILED")
        assert "weights bit-equal" in logs(desk, f"convert-{job}")
        assert (desk / "runs/disturbed/hf/model.safetensors").is_file()

    def test_evaluation_in_two_parts(self, cluster: Cluster, desk: Path) -> None:
        """Of the converted model, by an array and the merge that it queues; submitted again, nothing is done twice."""
        variables = {"MODEL": "runs/disturbed/hf", "TASKS": "humanevalfix*-python", "DATA": "problems"}
        words = ("--limit", "3", "--jobs", "1")
        sbatch(desk, "evaluate.sh", "--array=0-1", *SMALL, arguments=words, **variables)
        output = desk / "runs/disturbed/evaluation"
        wait_for("report", lambda: (output / "report.html").exists() and not ask("squeue", "--noheader"), 240)
        said = logs(desk, "evaluate*")
        assert "--part 0/2" in said and "--part 1/2" in said and "2 parts to runs/disturbed/evaluation" in said
        for task in json.loads((output / "scores.json").read_text())["tasks"].values():
            assert (task["problems"], task["samples"]) == (3, 3)
        samples = sorted(output.glob("parts/*/samples/*.jsonl"))
        before = [path.read_bytes() for path in samples]
        assert len(samples) == 4
        job = sbatch(desk, "evaluate.sh", "--array=0-1", *SMALL, arguments=words, **variables)
        wait_for("end", lambda: not ask("squeue", "--noheader"), 240)
        assert "nothing new" in logs(desk, f"evaluate-{int(job) + 1}") + logs(desk, "evaluate*")
        assert [path.read_bytes() for path in samples] == before


def test_pretraining(cluster: Cluster, desk: Path, data: Path) -> None:
    """SantaCoderPack's script, with overrides as its arguments; submitted again it finds the run finished."""
    run = SlurmRun(desk, "pretrained")
    words = ["--nodes=1", "--ntasks-per-node=1", *SMALL]
    options = {"RECIPE": "recipe.yaml", "OVERRIDES": f"run_dir={run.name}"}
    for wanted in ("finished at step 10", f"{run.name} is finished"):
        job = sbatch(desk, "pretrain_santacoderpack.sh", *words, **options, arguments=("train.steps=10",))
        cluster.wait(job, "COMPLETED", "FAILED")
        assert wanted in logs(desk, f"santacoderpack-{job}")
    assert len(run.attempts()) == 1
