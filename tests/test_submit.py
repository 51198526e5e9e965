"""What is decided before anything is submitted: profiles, layouts, scripts as texts, and the words for mistakes."""

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from megatron_octo import submit
from megatron_octo.cluster import sbatch, snapshot
from megatron_octo.cluster.profile import _STAGE, Container, Profile, Resources, find_profile
from megatron_octo.cluster.script import jobs_of
from megatron_octo.cluster.stages import STAGES, Order
from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.loading import load_recipe
from tests.places import PROJECT

GOLDEN = Path(__file__).parent / "golden"
RECIPE = PROJECT / "recipes" / "starcoderbase_finetune.yaml"


def order(profile: Profile, *stages: str, array: str | None = None) -> Order:
    return Order(
        recipe=load_recipe(RECIPE),
        profile=profile,
        stages=stages,
        folder=Path("/home/me/octo"),
        python="/home/me/octo/.venv/bin/python",
        array=array,
        arguments={
            "preprocess": ["--input", "data/a b.jsonl", "--format", "finetune"],
            "evaluate": ["--prompt", "octocoder"],
        },
    )


EVERYTHING = Profile(
    partition="gpu",
    account="code",
    qos="long",
    constraint="ib",
    exclude="bad[1-2]",
    nodes=8,
    modules=["cuda/13.0", "gcc"],
    container=Container(image="octo.sqsh", mounts=["/data:/data"], options=["--container-writable"]),
    environment={"NCCL_SOCKET_IFNAME": "ib0", "NOTE": "it's here"},
    scratch="/scratch/$USER",
    setup=["ulimit -n 65536"],
    python="python3",
    srun=["--cpu-bind=none"],
    sbatch={"mail-type": "FAIL", "switches": 1, "overcommit": True},
    stages={
        "preprocess": Resources(partition="cpu", cpus_per_task=64, memory="64G", time="2:00:00"),
        "evaluate": Resources(gpus_per_node=2),
    },
)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("plain", order(Profile(nodes=8), "train")),
        ("everything", order(EVERYTHING, "train")),
        ("chain", order(EVERYTHING, "preprocess", "convert", "verify", "evaluate", array="0-7%4")),
    ],
)
def test_golden_text(name: str, given: Order) -> None:
    """The very text that sbatch gets. After a change on purpose: UPDATE_GOLDEN=1 pytest, and read the difference."""
    text = "\n".join(f"=== {job.script}\n{job.text}" for job in jobs_of(given))
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
    for job in jobs_of(given):
        subprocess.run(["bash", "-n"], input=job.text, text=True, check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", "--shell=bash", "-"], input=job.text, text=True, check=True)


def test_what_is_evaluated() -> None:
    """The export where the chain makes one, else the run; further arguments come last, and count."""
    for stages, model in ((("evaluate",), "/runs/"), (("convert", "evaluate"), "/hf")):
        given = order(Profile(), *stages)
        (command,) = STAGES["evaluate"].commands(given)
        assert command.words[:2] == ["run", "--model"] and command.words[-2:] == ["--prompt", "octocoder"]
        assert command.words[2] == str(given.hugging_face if model == "/hf" else given.run)
        assert command.words[4] == str(given.run / "evaluation")


def refused(*words: str) -> str:
    with pytest.raises(OctoError) as error:
        submit.main(list(words))
    return str(error.value)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to submit from, on a machine without SLURM."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    (tmp_path / "clusters").mkdir()
    return tmp_path


def test_layouts_that_do_not_fit(desk: Path) -> None:
    said = refused(str(RECIPE), "--nodes", "1")
    assert "1 node x 8 GPUs = 8 ranks: 8 processes cannot hold tensor 4 x pipeline 4 = 16 ranks per model" in said
    assert "a multiple of that many" in said
    said = refused(str(RECIPE), "--nodes", "6")
    assert "= 48 ranks: batch.global_size 128 is no multiple of" in said
    said = refused(str(RECIPE), "--nodes", "2", "--gpu", "a100-40", "train.recompute=none", "parallel.pipeline=1")
    assert "this run does not fit" in said and "--force" in said
    assert list(desk.glob("runs")) == []


def test_stages_and_their_arguments(desk: Path) -> None:
    said = refused(str(RECIPE), "--nodes", "2", "--stages", "train,publish")
    assert "unknown stage 'publish'" in said and ", ".join(STAGES) in said
    assert "no stage is named" in refused(str(RECIPE), "--stages", ",")
    every = (str(RECIPE), "--nodes", "2", "--stages", "verify,preprocess,train")
    assert "preprocess: the following arguments are required: --input" in refused(*every)
    said = refused(*every, "--preprocess", "--input a.jsonl --formt text")
    assert "preprocess: unrecognized arguments: --formt text" in said
    assert "convert: " not in said
    said = refused(*every, "--preprocess", "--input 'a b.jsonl")
    assert "cannot read the arguments" in said and "No closing quotation" in said and "--preprocess" in said
    assert "cannot read --array 3" in refused(*every, "--preprocess", "--input a", "--array", "3")
    said = refused(str(RECIPE), "--nodes", "2", "--stages", "train,evaluate")
    assert "evaluate: the following arguments are required: --prompt" in said and "--evaluate '--prompt" in said
    assert "--array is about preprocess" in refused(str(RECIPE), "--nodes", "2", "--array", "0-3")
    said = refused(*every, "--preprocess", "--input a", "data.tokenizer=null")
    assert "preprocess needs a tokenizer" in said


def test_profiles(desk: Path) -> None:
    assert find_profile(str(PROJECT / "clusters/example.yaml")).time == "20:00:00"
    (desk / "clusters" / "mine.yaml").write_text("account: me\npartiton: gpu\nstages:\n  convert: {cpus: 4}\n")
    said = refused(str(RECIPE), "--cluster", "mine")
    assert "unknown key 'partiton'; did you mean 'partition'?" in said
    assert "unknown key 'stages.convert.cpus'; did you mean 'stages.convert.cpus_per_task'?" in said
    assert "clusters/mine.yaml:2" in said
    (desk / "clusters" / "mine.yaml").write_text("nodes: two\ntime: soon\n")
    said = refused(str(RECIPE), "--cluster", "mine")
    assert "nodes: input should be a valid integer, found 'two'" in said and "time: " in said
    (desk / "clusters" / "mine.yaml").write_text("a: [1\nb: 2\n")
    assert "clusters/mine.yaml:2" in refused(str(RECIPE), "--cluster", "mine")
    said = refused(str(RECIPE), "--cluster", "other")
    assert "no cluster profile 'other'" in said and "here are mine" in said and "--cluster local" in said


def test_names_in_profiles(desk: Path) -> None:
    """Of stages, variables and options: a wrong one would do nothing, or fail in the job."""
    path = desk / "clusters" / "mine.yaml"
    path.write_text("nodes: 2\nstages:\n  covert: {time: 1:00:00}\n")
    said = refused(str(RECIPE), "--cluster", "mine")
    assert "stages: unknown name 'covert'; did you mean 'convert'?" in said and "mine.yaml:3" in said
    path.write_text("environment: {A B: x}\nsbatch: {--mail-type: FAIL}\n")
    said = refused(str(RECIPE), "--cluster", "mine")
    assert "environment: 'A B' does not match" in said and "sbatch: '--mail-type' does not match" in said
    assert set(get_args(_STAGE)) == {*STAGES, "merge"}
    path.write_bytes(b"nodes: 2\naccount: caf\xe9\n")
    said = refused(str(RECIPE), "--cluster", "mine")
    assert "not UTF-8" in said and "mine.yaml:2" in said


HOSTILE = ["a\\nb", "a\\x1b[2J", "\\u202eb", "a\\0"]


@pytest.mark.parametrize("text", HOSTILE)
def test_control_characters_are_refused(text: str, desk: Path) -> None:
    """In each text of a profile and of a recipe, and in the folder: they would become lines of a script."""
    profile = desk / "clusters" / "mine.yaml"
    for line in (
        'partition: "{}"',
        'account: "{}"',
        'constraint: "{}"',
        'exclude: "{}"',
        'memory: "{}"',
        'python: "{}"',
        'modules: ["{}"]',
        'environment: {{A: "{}"}}',
        'srun: ["{}"]',
        'sbatch: {{comment: "{}"}}',
        'scratch: "{}"',
        'container: {{image: "{}"}}',
        'container: {{image: a, mounts: ["{}"]}}',
        'stages: {{train: {{qos: "{}"}}}}',
    ):
        profile.write_text(line.format(text) + "\n")
        said = refused(str(RECIPE), "--nodes", "2", "--cluster", "mine", "--dry-run")
        assert "control characters" in said or "should match pattern" in said, (line, said)
    for key in ("run_dir", "data.tokenizer", "checkpoint.init_from", "log.wandb_project"):
        said = refused(str(RECIPE), "--nodes", "2", "--dry-run", f'{key}="{text}"')
        assert "control characters" in said
    for option in ("--partition", "--account", "--qos", "--constraint", "--exclude"):
        said = refused(str(RECIPE), "--nodes", "2", option, text.encode().decode("unicode_escape"), "--dry-run")
        assert "control characters" in said


@pytest.mark.parametrize("scratch", ['a"; touch x; "', "$(touch x)", "`touch x`", "a\\b", "$((1))", "${x:-$(y)}"])
def test_scratch_is_no_command(scratch: str) -> None:
    with pytest.raises(ValidationError, match="scratch"):
        Profile(scratch=scratch)
    assert Profile(scratch="/s/$USER/${SLURM_JOB_ID} x").scratch


def test_words_of_the_user_stay_words(tmp_path: Path) -> None:
    """What a job's script runs, with names that are code to a shell, against the words that were meant."""
    names = ["$(touch x)", "`touch x`", "a b", "it's", 'say "x"', "a;b", "*", "--x", "a\\b", "#a", "%j", "~"]
    for name in names:
        recipe = load_recipe(RECIPE, [f"run_dir={json.dumps('runs/' + name)}", f"data.tokenizer={json.dumps(name)}"])
        profile = Profile(
            nodes=2,
            environment={"A": name},
            srun=[name],
            modules=[name],
            python=name,
            sbatch={"comment": name},
        )
        given = Order(
            recipe,
            profile,
            ("preprocess",),
            tmp_path / name,
            name,
            arguments={"preprocess": ["--input", name]},
        )
        (job,) = jobs_of(given)
        said = re.search(r"^srun .*$", job.text, re.M)
        assert said is not None
        words = shlex.split(said[0].replace('"${SLURM_CPUS_PER_TASK:-1}"', "1"))
        assert words[:5] == ["srun", "--ntasks=1", name, name, "-m"]
        assert words[words.index("--tokenizer") + 1] == words[words.index("--input") + 1] == name
        assert f"export A={shlex.quote(name)}\n" in job.text
        assert (
            shlex.split(next(line for line in job.text.splitlines() if "--comment" in line))[1] == f"--comment={name}"
        )
        subprocess.run(["bash", "-n"], input=job.text, text=True, check=True)


def test_zero_is_a_value() -> None:
    (job,) = jobs_of(order(Profile(nodes=8, sbatch={"mem-per-cpu": 0, "overcommit": False}), "train"))
    assert "#SBATCH --mem-per-cpu=0\n" in job.text and "overcommit" not in job.text


def test_a_merge_has_what_preprocess_has() -> None:
    stages = {"preprocess": Resources(partition="cpu", time="2:00:00"), "merge": Resources(time="1:00:00")}
    own = Profile(partition="gpu", stages=stages).resources("merge")
    assert (own.partition, own.time, own.memory) == ("cpu", "1:00:00", None)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", "limits"),
        ("QOSMaxSubmitJobPerUserLimit", "limits"),
        ("Invalid account or account/partition combination specified", "account"),
        ("Job's account not permitted to use this partition (x allows a not b)", "account"),
        ("Invalid qos specification", "QOS"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "time limit"),
    ],
)
def test_what_sbatch_says(said: str, what: str, desk: Path) -> None:
    error = sbatch._explain(f"sbatch: error: Batch job submission failed: {said}", desk / "submit.sh")
    assert error.what.startswith(f"sbatch refuses the job because of its {what}"), error
    assert error.hint


def test_changes_in_any_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The patch of what was not committed holds them byte by byte."""
    source = tmp_path / "megatron_octo"
    source.mkdir()
    (source / "__init__.py").write_bytes(b"# caf\xe8\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    (source / "__init__.py").write_bytes(b"# caf\xe9\n")
    monkeypatch.setattr(snapshot.megatron_octo, "__file__", str(source / "__init__.py"))
    (tmp_path / "run").mkdir()
    snapshot._copy_code(tmp_path / "run")
    assert b"+# caf\xe9\n" in (tmp_path / "run/diff.patch").read_bytes()


def test_no_slurm_here(desk: Path) -> None:
    said = refused(str(RECIPE), "--nodes", "2", "--force")
    assert "no sbatch on this machine" in said and "--cluster local" in said


def test_the_run_of_another_recipe(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (str(RECIPE), "--nodes", "2", "--dry-run")
    (desk / "runs/starcoderbase_finetune").mkdir(parents=True)
    assert submit.main(list(words)) == 2  # the data are not there
    text = capsys.readouterr().out.partition("# resolved recipe\n")[2].partition("# plan")[0]
    (desk / "runs/starcoderbase_finetune/recipe.yaml").write_text(text)
    assert submit.main(list(words)) == 2
    said = refused(*words, "optimizer.lr=1e-3", "data.overlong=skip")
    assert "optimizer.lr: 5e-05 -> 0.001" in said and "data.overlong: 'window' -> 'skip'" in said
    assert submit.main([*words, "optimizer.lr=1e-3", "--change-recipe"]) == 2


def test_dry_run_shows_all_of_it_and_leaves_nothing(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(RECIPE), "--nodes", "2", "--gpu", "h100", "--dry-run", "--stages", "train,convert"]
    assert submit.main(words) == 2
    said = capsys.readouterr().out
    assert "tensor: 4" in said and "memory of the fullest GPU" in said
    assert re.search(r"^#SBATCH --nodes=2$", said, re.M) and "megatron_octo.convert to-hf" in said
    assert "ok       layout: 1 x 16 ranks" in said and "WRONG    data.train: no such data set file" in said
    assert sorted(path.name for path in desk.iterdir()) == ["clusters"]


def test_what_would_stop_the_training_is_not_submitted(desk: Path) -> None:
    said = refused(str(RECIPE), "--nodes", "2")
    assert "- data.train: no such data set file" in said and "- weights: no such directory" in said
    said = refused(str(RECIPE), "--nodes", "2", "--stages", "preprocess,train", "--preprocess", "--input x.jsonl")
    assert "data.train" not in said and "no such directory" in said  # the first stage makes the data
    assert sorted(path.name for path in desk.iterdir()) == ["clusters"]


@pytest.mark.slow
def test_quick_and_without_torch() -> None:
    heavy = ("torch", "transformers", "megatron.core")
    for words in (
        ["--help"],
        [str(RECIPE), "--nodes", "2", "--gpu", "h100", "--dry-run"],
        ["status", "--help"],
    ):
        code = f"""
import sys
from megatron_octo import submit
try:
    submit.main({words!r})
except SystemExit:
    pass
print([name for name in {heavy} if name in sys.modules])
"""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert said.endswith("[]\n"), said
        # The wall clock belongs to the neighbours, too: count the processor's seconds.
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
