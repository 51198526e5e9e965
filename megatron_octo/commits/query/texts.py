"""The five statements, in a subset of BigQuery's dialect that the other engines read alike after sqlglot.

What is left out, because engines differ without an error: TRIM and LOWER (white space, ``İ``), LIKE with an escape,
sampling by a hash, ARRAY_AGG with DISTINCT and ORDER BY, aggregates of DISTINCT values, an UNNEST beside a JOIN.
"""

from importlib import resources
from typing import Literal

from megatron_octo.common.errors import OctoError

Dialect = Literal["bigquery", "duckdb", "spark"]
STAGES = ("base", "dedup", "difference", "files", "single")
TABLES = ("commits", "languages", "licenses")
PUBLIC = "bigquery-public-data.github_repos"
# Columns of the result, in this order; single's rows are sorted by the first.
COLUMNS = (
    "commit", "subject", "message", "repos", "license", "author_name", "author_email", "committer_name",
    "committer_email", "time_sec", "tz_offset", "old_file", "new_file", "old_blob", "new_blob",
)  # fmt: skip
# What the statements read of the tables: a column, or a field of a column's structs.
NEEDED = {
    "commits": (
        "commit", "subject", "message", "repo_name", "author", "committer", "difference", "difference_truncated",
    ),
    "languages": ("repo_name", "language"),
    "licenses": ("repo_name", "license"),
}  # fmt: skip


def statement(stage: str, dialect: Dialect, prefix: str = "") -> str:
    """Return the SELECT of a stage.

    Args:
        stage: of :data:`STAGES`.
        dialect: to translate into; BigQuery's text is returned as it is written.
        prefix: for BigQuery, the data set in which the stages' tables lie; the public tables have theirs.

    Raises:
        OctoError: sqlglot is missing.
    """
    name = f"{STAGES.index(stage) + 1}_{stage}.sql"
    text = resources.files("megatron_octo.commits.query").joinpath(f"sql/{name}").read_text(encoding="utf-8")
    if dialect == "bigquery" and not prefix:
        return text
    try:
        import sqlglot
        from sqlglot import exp
    except ImportError:
        hint = "pip install 'megatron-octo[commits]'"
        raise OctoError("queries need the sqlglot library", hint=hint) from None
    if dialect != "bigquery":
        level = sqlglot.ErrorLevel.RAISE
        return str(sqlglot.transpile(text, read="bigquery", write=dialect, unsupported_level=level)[0])
    tree = sqlglot.parse_one(text, read="bigquery")
    for table in tree.find_all(exp.Table):
        if table.name in TABLES:
            table.replace(exp.to_table(f"`{PUBLIC}.{table.name}`", dialect="bigquery", alias=table.alias or None))
        elif table.name in STAGES:
            table.replace(exp.to_table(f"`{prefix}.{table.name}`", dialect="bigquery", alias=table.alias or None))
    return str(tree.sql("bigquery", pretty=True))


def script(data_set: str) -> str:
    """Return the five statements for BigQuery, each making its table in a data set."""
    parts = [
        f"CREATE OR REPLACE TABLE `{data_set}.{stage}` AS\n{statement(stage, 'bigquery', data_set)};"
        for stage in STAGES
    ]
    return "\n\n".join(parts) + "\n"
