"""Rows of commits: their columns, files of them, and stages that turn files into files.

Rules about what a row holds do not belong here.
"""

from megatron_octo.commits.rows.folder import FolderWriter
from megatron_octo.commits.rows.job import Job
from megatron_octo.commits.rows.reading import input_files, read_rows
from megatron_octo.commits.rows.row import KINDS, PUBLISHED, UNKNOWN, Kind, Row
from megatron_octo.commits.rows.stage import Task, run_stage, run_tasks
from megatron_octo.commits.rows.tally import Tally, each_kept
from megatron_octo.commits.rows.writing import Writer

__all__ = [
    "KINDS",
    "PUBLISHED",
    "UNKNOWN",
    "FolderWriter",
    "Job",
    "Kind",
    "Row",
    "Tally",
    "Task",
    "Writer",
    "each_kept",
    "input_files",
    "read_rows",
    "run_stage",
    "run_tasks",
]
