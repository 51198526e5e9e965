"""Engines that run the five statements over parquet files: DuckDB in this process, Spark for a lake."""

import contextlib
import glob
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.commits.query.texts import COLUMNS, NEEDED, STAGES, TABLES, statement
from megatron_octo.common.errors import OctoError

Say = Callable[[str, int], None]
_BATCH = 65_536  # rows


@dataclass(frozen=True)
class Sources:
    """Files of the three tables.

    Attributes:
        files: sorted paths by table.
    """

    files: Mapping[str, tuple[str, ...]]

    @classmethod
    def find(cls, patterns: Mapping[str, str]) -> "Sources":
        """Find the files of patterns, and check that the tables have the columns that are read.

        Raises:
            OctoError: a pattern matches nothing, a file is damaged, or a column is missing.
        """
        return cls({table: tuple(_files(table, patterns[table])) for table in TABLES})

    def identity(self) -> list[dict[str, Any]]:
        """Return what the files are known again by: path, bytes, time of the last change."""
        found = []
        for path in (path for table in TABLES for path in self.files[table]):
            state = Path(path).stat()
            found.append({"path": path, "bytes": state.st_size, "identity": str(state.st_mtime_ns)})
        return found


def _files(table: str, pattern: str) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    found = sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())  # noqa: PTH207
    if not found:
        raise OctoError(f"no file of the table {table!r}", where=pattern, hint=f"--{table} takes a path or a pattern")
    for path in found:
        try:
            names = pyarrow.parquet.read_schema(path).names
        except (pyarrow.ArrowException, OSError) as error:
            raise OctoError(f"not a parquet file, or a damaged one: {error}", where=path) from None
        if missing := [name for name in NEEDED[table] if name not in names]:
            what = f"no column {missing[0]!r}; there are {', '.join(names)}"
            raise OctoError(what, where=path, hint="the tables have the shape of BigQuery's github_repos")
    return found


@contextlib.contextmanager
def run_duckdb(sources: Sources, work: Path, *, memory: str, threads: int, say: Say) -> Iterator[Iterator[Any]]:
    """Run the statements in DuckDB; gives batches of pyarrow, sorted by commit.

    The stages' tables lie in ``work/query.duckdb``; those of an earlier start are taken. Joins and groups beyond the
    memory spill into ``work/spill``.

    Args:
        sources: the tables.
        work: a folder.
        memory: DuckDB's limit, as ``2GB``; the process takes some hundred megabytes more.
        threads: number of threads.
        say: is told the stage and its number of rows.

    Raises:
        OctoError: the library is missing, or DuckDB refuses something.
    """
    try:
        import duckdb
    except ImportError:
        hint = "pip install 'megatron-octo[commits]'"
        raise OctoError("this engine needs the duckdb library", hint=hint) from None
    try:
        with contextlib.closing(duckdb.connect(str(work / "query.duckdb"))) as connection:
            connection.execute("SET preserve_insertion_order = false")
            for name, value in (
                ("memory_limit", memory),
                ("threads", threads),
                ("temp_directory", str(work / "spill")),
            ):
                connection.execute(f"SET {name} = ?", [value])
            for table in TABLES:
                files = ", ".join("'" + path.replace("'", "''") + "'" for path in sources.files[table])
                connection.execute(f"CREATE OR REPLACE TEMP VIEW {table} AS SELECT * FROM read_parquet([{files}])")
            known = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
            for stage in STAGES:
                if stage not in known:
                    connection.execute(f"CREATE TABLE {stage} AS {statement(stage, 'duckdb')}")
                counted = connection.execute(f"SELECT COUNT(*) FROM {stage}").fetchall()
                say(stage, int(counted[0][0]))
            names = ", ".join(f'"{name}"' for name in COLUMNS)
            rows = connection.sql(f"SELECT {names} FROM single ORDER BY commit")
            yield iter(rows.to_arrow_reader(_BATCH))
    except duckdb.Error as error:
        raise OctoError(
            f"DuckDB: {str(error).splitlines()[0]}", where=work, hint="see --memory and --threads"
        ) from None


@contextlib.contextmanager
def run_spark(sources: Sources, work: Path, *, master: str | None, memory: str, say: Say) -> Iterator[Iterator[Any]]:
    """Run the statements in Spark; gives batches of pyarrow, sorted by commit.

    Each stage is written as parquet below ``work``, which executors on other machines have to reach; finished ones of
    an earlier start are taken.

    Args:
        sources: the tables.
        work: a folder.
        master: as spark-submit's; None for what the environment says, else all cores of this machine.
        memory: of the driver, where this process starts it.
        say: is told the stage and its number of rows.

    Raises:
        OctoError: pyspark or Java is missing, or Spark refuses something.
    """
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        hint = "pip install 'megatron-octo[spark]'"
        raise OctoError("this engine needs the pyspark library", hint=hint) from None
    if shutil.which("java") is None:
        raise OctoError("this engine needs Java", hint="install a JDK of version 17 or newer")
    import pyarrow.parquet

    builder = SparkSession.builder.appName("megatron_octo commits query").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.memory", memory.replace("GB", "g").replace("MB", "m"))
    builder = builder.config("spark.sql.session.timeZone", "UTC").config("spark.sql.caseSensitive", "true")
    if master:
        builder = builder.master(master)
    try:
        session = builder.getOrCreate()
        try:
            session.sparkContext.setLogLevel("ERROR")
            for table in TABLES:
                session.read.parquet(*sources.files[table]).createOrReplaceTempView(table)
            for stage in (*STAGES, "sorted"):
                path = work / stage
                if not (path / "_SUCCESS").exists():
                    text = "SELECT * FROM single ORDER BY commit" if stage == "sorted" else statement(stage, "spark")
                    session.sql(text).write.mode("overwrite").parquet(str(path))
                frame = session.read.parquet(str(path))
                frame.createOrReplaceTempView(stage)
                if stage != "sorted":
                    say(stage, frame.count())
        finally:
            session.stop()
    except PySparkException as error:
        raise OctoError(f"Spark: {str(error).splitlines()[0]}", where=work) from None
    files = sorted((work / "sorted").glob("part-*.parquet"))  # their names follow the order

    def batches() -> Iterator[Any]:
        for path in files:
            with pyarrow.parquet.ParquetFile(path) as file:
                yield from file.iter_batches(_BATCH, columns=list(COLUMNS))

    yield batches()
