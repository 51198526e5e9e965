"""The five statements in BigQuery itself, through its client library, where credentials are."""

from collections.abc import Iterator
from typing import Any

from megatron_octo.commits.query.engines import Say
from megatron_octo.commits.query.texts import COLUMNS, STAGES, statement
from megatron_octo.common.errors import OctoError


def run_bigquery(data_set: str, say: Say) -> Iterator[Any]:
    """Run the statements; gives batches of pyarrow, sorted by commit.

    Args:
        data_set: ``project.data_set`` for the stages' tables, in the region of the public tables (US).
        say: is told the stage and its number of rows.

    Raises:
        OctoError: the library or credentials are missing, or BigQuery refuses something.
    """
    try:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import bigquery
    except ImportError:
        hint = "pip install google-cloud-bigquery pyarrow, or --print and run the statements by hand"
        raise OctoError("this engine needs BigQuery's client library", hint=hint) from None
    project, dot, _ = data_set.partition(".")
    if not dot:
        raise OctoError(f"not a data set: {data_set!r}", where="--data-set", hint="write project.data_set")
    try:
        client = bigquery.Client(project=project)
        for stage in STAGES:
            text = statement(stage, "bigquery", data_set)
            client.query(f"CREATE OR REPLACE TABLE `{data_set}.{stage}` AS\n{text}").result()
            say(stage, client.get_table(f"{data_set}.{stage}").num_rows)
        names = ", ".join(f"`{name}`" for name in COLUMNS)
        rows = client.query(f"SELECT {names} FROM `{data_set}.{STAGES[-1]}` ORDER BY `commit`").result()
        yield from rows.to_arrow_iterable()
    except (GoogleAPIError, GoogleAuthError) as error:
        hint = "gcloud auth application-default login, or --print and run the statements by hand"
        raise OctoError(f"BigQuery: {str(error).splitlines()[0]}", where=data_set, hint=hint) from None
