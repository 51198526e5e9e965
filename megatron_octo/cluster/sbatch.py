"""Submission of readable scripts through submitit.

submitit would submit a pickled function. That needs the same Python and libraries days later, cannot be read or
submitted by hand, returns the first run's result to a job that was requeued, and installs signal handlers where the
training wants to save. Here submitit calls sbatch, reads its answer, and keeps a copy of the script.
"""

import contextlib
import getpass
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megatron_octo.cluster import slurm
from megatron_octo.cluster.script import Job
from megatron_octo.common.errors import OctoError


def submit(job: Job, folder: Path, after: str | None = None) -> str:
    """Submit one script and return the job's id.

    Args:
        job: the script.
        folder: where submitit keeps the script as it was submitted.
        after: a job that has to succeed before; if it fails, this one is cancelled.

    Raises:
        OctoError: SLURM is not there, or sbatch refuses; explains its message.
    """
    if not slurm.installed():
        raise OctoError(
            "no sbatch on this machine: SLURM is not installed here",
            where="--cluster",
            hint="submit where sbatch works, or run the stages on this machine with --cluster local",
        )
    from submitit.core.utils import FailedJobError

    options = [f"--output={job.log}"]
    options += [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []
    try:
        # submitit prints what it raises, too
        with contextlib.redirect_stderr(io.StringIO()), _outside_of_jobs():
            return str(_executor(folder, job, options)._submit_command("").job_id)
    except FailedJobError as error:
        for left in folder.glob(".submission_file_*.sh"):
            left.unlink()
        raise _explain(str(error), job.script) from None


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of an interactive job that submits, so that the new job does not inherit its size."""
    inherited = {
        name: value for name, value in os.environ.items() if name.startswith("SLURM_") and name != "SLURM_CONF"
    }
    for name in inherited:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(inherited)


def _executor(folder: Path, job: Job, options: list[str]) -> Any:
    from submitit import SlurmExecutor

    class ScriptExecutor(SlurmExecutor):
        """submitit's SLURM executor for a script that is there already."""

        def _make_submission_file_text(self, command: str, uid: str) -> str:
            return job.text

        def _make_submission_command(self, submission_file_path: Path) -> list[str]:
            # The file in the run, not the copy: the script asks SLURM where it lies.
            return ["sbatch", *options, str(job.script)]

    return ScriptExecutor(folder)


_WORDS = (
    (
        r"invalid partition",
        "partition",
        "the partitions here: {partitions}; choose with --partition or in the profile",
    ),
    (
        r"violates accounting/QOS policy|(Assoc|QOS)\w+Limit",
        "limits of your account or QOS",
        "wait for jobs of yours to end, or ask for less: "
        "`sacctmgr show association user=$USER` and `sacctmgr show qos` list the limits",
    ),
    (
        r"invalid account|account not permitted",
        "account",
        "your accounts: {accounts}; choose with --account or in the profile",
    ),
    (r"qos", "QOS", "your QOS: {qos}; choose with --qos or in the profile"),
    (r"invalid feature", "constraint", "`sinfo -o '%N %f'` lists the features of the nodes"),
    (r"gres|GPU", "GPUs", "`sinfo -o '%P %G'` lists the GPUs of the nodes; see gpus_per_node in the profile"),
    (r"time limit", "time limit", "`sinfo -o '%P %l'` lists the limits; choose with --time"),
    (
        r"node configuration|More processors|nodes.*(busy|available)",
        "nodes",
        "no node has what is asked for: `sinfo -Nl`",
    ),
    (r"node name|node list", "node names", "`sinfo -N` lists the nodes; see --exclude"),
    (r"contact|connection|respond", "controller", "SLURM's controller does not answer: `scontrol ping`"),
)


def _explain(said: str, script: Path) -> OctoError:
    lines = [line.strip() for line in said.splitlines() if line.strip().startswith("sbatch:")]
    words = "\n    ".join(dict.fromkeys(lines)) or said.strip()
    for pattern, what, hint in _WORDS:
        if re.search(pattern, words, re.IGNORECASE):
            return OctoError(
                f"sbatch refuses the job because of its {what}:\n    {words}",
                where=script,
                hint=_filled(hint),
            )
    return OctoError(f"sbatch refuses the job:\n    {words}", where=script, hint="sbatch's options are in this script")


def _filled(hint: str) -> str:
    questions = {
        "partitions": ("sinfo", "--noheader", "--format=%R"),
        "accounts": ("sacctmgr", "-nP", "show", "association", "user=" + getpass.getuser(), "format=account"),
        "qos": ("sacctmgr", "-nP", "show", "qos", "format=name"),
    }
    for name, question in questions.items():
        if f"{{{name}}}" in hint:
            try:
                found = dict.fromkeys(slurm.ask(*question).split())
            except OctoError:
                found = {}
            hint = hint.replace(f"{{{name}}}", ", ".join(found) or "none that SLURM lists")
    return hint


def submit_chain(
    jobs: list[Job], folder: Path, record: Callable[[str, str, str | None], None]
) -> list[tuple[str, str]]:
    """Submit jobs, each after the one before; ``record(stage, job, after)`` is called after each submission.

    Returns:
        Stage and job id.

    Raises:
        OctoError: one was refused; those before it are cancelled, so that half a chain does not run.
    """
    done: list[tuple[str, str]] = []
    for job in jobs:
        after = done[-1][1] if done else None
        try:
            name = submit(job, folder, after)
        except OctoError:
            for _, earlier in reversed(done):
                slurm.ask("scancel", earlier)
            raise
        record(job.stage, name, after)
        done.append((job.stage, name))
    return done
