"""Rows with their contents: what is wanted goes into a ledger, repositories are asked, rows are written."""

import functools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from megatron_octo.commits.rows import Row, each_kept, input_files, run_stage
from megatron_octo.commits.rows.job import known_inputs
from megatron_octo.commits.rows.progress import Meter
from megatron_octo.commits.rows.reading import manifest_of, open_rows, read_rows
from megatron_octo.commits.scrape.fetch import Fetcher, Options
from megatron_octo.commits.scrape.ledger import ABSENT, OK, Found, ScrapeLedger, joined
from megatron_octo.commits.scrape.politeness import Host
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json, read_json, remove_any
from megatron_octo.common.leases import flock

_KEYS = 2000  # of one repository at a time
_ROWS = 5000  # whose keys are noted in one go


@dataclass(frozen=True)
class Manners:
    """How fast a host is asked.

    Attributes:
        rate: requests per second.
        in_flight: repositories at a time.
        refusals: in a row, after which the work ends.
    """

    rate: float = 1.0
    in_flight: int = 4
    refusals: int = 20


@dataclass(frozen=True)
class Settings:
    """What the rows follow from: the ledger, and which of its states they were made of."""

    ledger: str
    states: str
    most_bytes: int


def keys_of(row: Row) -> tuple[str | None, str | None]:
    """Return the keys of the versions before and after; None for one that there is not.

    A row with an id of one side only was made so: the other side has no file.
    """
    if row.old_blob or row.new_blob:
        return row.old_blob or None, row.new_blob or None
    return f"{row.commit}^:{row.old_file}", f"{row.commit}:{row.new_file}"


def has_contents(row: Row) -> bool:
    """Return whether a row needs nothing."""
    return row.old_contents is not None or row.new_contents is not None


@functools.cache
def _opened(path: str) -> ScrapeLedger:
    return ScrapeLedger(Path(path)).__enter__()  # closed with the process, which reads only


def fill_rows(rows: Iterable[Row], settings: Settings) -> Iterator[Row]:
    """Give the contents to all rows that are not dropped; drop those without."""
    ledger = _opened(settings.ledger)

    def one(row: Row) -> Row:
        if has_contents(row):
            row.signals["scrape"] = OK
            return row
        sides = [Found(ABSENT) if key is None else ledger.find(key) for key in keys_of(row)]
        state = joined([side.state for side in sides])
        row.signals["scrape"] = state
        if state != OK:
            return row.mark(state, row.repos)
        row.old_contents, row.new_contents = sides[0].text, sides[1].text
        return row

    return each_kept(one, rows)


def scrape_rows(
    inputs: Sequence[str | Path],
    output: Path,
    options: Options,
    manners: Manners,
    *,
    jobs: int,
    drop: bool,
    retry: bool,
) -> dict[str, object]:
    """Fetch the contents of all rows, and write them.

    The ledger is ``OUTPUT.scrape/ledger.sqlite``: a blob is in it once, however many rows have it. A start after a kill
    asks for what is not there yet.

    Args:
        inputs: rows.
        output: as of other stages.
        options: how repositories are asked.
        manners: how fast.
        jobs: processes that write rows.
        drop: leave rows without contents out.
        retry: ask again what an earlier start did not get for a reason that may have passed.

    Raises:
        OctoError: a bad row, a host that refuses, or another process works on the same output.
    """
    folder = output.with_name(f"{output.name}.scrape")
    folder.mkdir(parents=True, exist_ok=True)
    busy = OctoError("another process scrapes into the same output", where=output, hint="wait for it, or end it")
    handle = flock(folder, busy)
    try:
        sources = [open_rows(path) for path in input_files(inputs)]
        with ScrapeLedger(folder / "ledger.sqlite") as ledger:
            for left in folder.glob("fetch-*"):
                shutil.rmtree(left, ignore_errors=True)
            known = digest_json([known_inputs(sources), asdict(options) | {"timeout": 0, "agent": ""}])
            if ledger.fact("made_of") not in (None, known):
                what = "the ledger is of other inputs or options"
                raise OctoError(what, where=folder, hint="remove the folder, or choose another output")
            if ledger.fact("wanted") is None:
                ledger.note("made_of", known)
                _note_wanted(inputs, ledger)
                ledger.note("wanted", "all")
            if retry:
                ledger.forget_transient()
            _fetch_all(ledger, options, manners, folder)
            states = ledger.states()
        settings = Settings(str(folder / "ledger.sqlite"), digest_json(states), options.most_bytes)
        if retry:
            _remove_earlier(output, settings)
        found = run_stage(
            "scrape",
            inputs,
            output,
            fill_rows,
            settings=settings,
            jobs=jobs,
            signals={"scrape": "text"},
            leave_out=drop,
        )
        return found | {"states": states}
    finally:
        os.close(handle)


def _remove_earlier(output: Path, settings: Settings) -> None:
    """Remove an output that the same ledger gave before."""
    manifest = read_json(manifest_of(output)) if manifest_of(output).is_file() else {}
    if manifest.get("stage") == "scrape" and manifest.get("settings", {}).get("ledger") == settings.ledger:
        manifest_of(output).unlink()
        remove_any(output)


def _note_wanted(inputs: Sequence[str | Path], ledger: ScrapeLedger) -> None:
    pairs: list[tuple[str, str]] = []
    for number, row in enumerate(read_rows(*inputs)):
        if row.kept and not has_contents(row):
            keys = [key for key in keys_of(row) if key is not None]
            pairs += [(key, repo) for key in keys for repo in row.repo_names]
        if number % _ROWS == 0:
            ledger.want(pairs)
            pairs = []
    ledger.want(pairs)


def _fetch_all(ledger: ScrapeLedger, options: Options, manners: Manners, folder: Path) -> None:
    """Ask repositories, round by round: what one lacks is asked of the row's next."""
    host = Host(urlsplit(options.url.format(repo="a/b")).hostname or "local", manners.rate, manners.refusals)
    total = ledger.left()
    with Meter("scrape", total) as meter, ThreadPoolExecutor(manners.in_flight) as pool:
        while True:
            asked = 0
            pending: dict[Future[dict[str, Found]], str] = {}
            try:
                for repo, keys in ledger.next_round(_KEYS):
                    asked += 1
                    pending[pool.submit(Fetcher(options, host, folder).fetch, repo, keys)] = repo
                    if len(pending) >= 2 * manners.in_flight:
                        _settle(ledger, meter, pending)
                while pending:
                    _settle(ledger, meter, pending)
            except BaseException:
                for future in pending:
                    future.cancel()
                raise
            if not asked:
                return


def _settle(ledger: ScrapeLedger, meter: Meter, pending: dict[Future[dict[str, Found]], str]) -> None:
    """Note what the requests that have ended gave; an error among them is raised after that."""
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    errors = []
    for future in done:
        repo = pending.pop(future)
        try:
            found = future.result()
        except OctoError as error:
            errors.append(error)
            continue
        ledger.settle(repo, found)
        meter.add(len(found), len(found))
    if errors:
        raise errors[0]
