"""The end of preprocess: what may be replaced, the merge of the shards, and the manifest."""

import json
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from megatron_octo import __version__
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_bytes, digest_file
from megatron_octo.data.dataset.manifest import (
    FileRecord,
    Manifest,
    TokenizerRecord,
    manifest_path,
    read_manifest,
)
from megatron_octo.data.dataset.writer import IndexedWriter
from megatron_octo.data.preprocessing.encode import NOT_ROWS, EncodeOptions
from megatron_octo.data.preprocessing.merge import merge
from megatron_octo.data.preprocessing.shards import Shard
from megatron_octo.data.preprocessing.sources import Input, open_input
from megatron_octo.data.preprocessing.work_directory import WorkDir
from megatron_octo.data.text.formats import is_pretraining, template_path
from megatron_octo.data.text.tokenizer import Tokenizer

DUPLICATES = "duplicate"
_SAME_DATA = ("on_error", "backend")  # options that do not change a data set that was completed


def _options(options: EncodeOptions) -> dict[str, Any]:
    values = {key: value for key, value in asdict(options).items() if key != "tokenizer"}
    return {**values, "template": digest_file(template_path(options.format))}


def check_existing(prefix: Path, work: WorkDir, options: EncodeOptions, tokenizer: Tokenizer) -> None:
    """Refuse to replace a complete data set that was made otherwise.

    A killed run of the same job may have left files without a manifest: its directory is still there.

    Raises:
        OctoError: there is such a data set.
    """
    files = [Path(f"{prefix}.{suffix}") for suffix in ("bin", "idx")]
    if not manifest_path(prefix).exists() and (not all(path.exists() for path in files) or work.path.exists()):
        return
    try:
        manifest = read_manifest(prefix)
    except OctoError:
        manifest = None
    what = _difference(manifest, work.inputs, options, tokenizer) if manifest else "by another program"
    if what:
        raise OctoError(
            f"there is a data set already, made {what}",
            where=str(prefix),
            hint="choose another --output-prefix, or replace it with --overwrite",
        )


def _difference(
    manifest: Manifest, inputs: Sequence[Input], options: EncodeOptions, tokenizer: Tokenizer
) -> str | None:
    if manifest.tokenizer.digest != tokenizer.digest:
        return "with another tokenizer"
    now = json.loads(json.dumps(_options(options)))
    for key, value in now.items():
        if key not in _SAME_DATA and manifest.options.get(key, value) != value:
            return f"with other options ({key}: {manifest.options[key]!r}, now {value!r})"
    made = [(record.path, record.bytes) for record in manifest.inputs]
    if made != [(source.path, source.size) for source in inputs]:
        return "from other inputs"
    if any(record.digest != _digest(source) for record, source in zip(manifest.inputs, inputs)):
        return "from inputs with other content"
    return None


def _digest(source: Input) -> str:
    return digest_file(source.path) if source.is_file else digest_bytes(source.identity.encode())


class Digests:
    """Digests of the input files, computed in a thread: most of their time is waiting for the disk."""

    def __init__(self, inputs: Sequence[Input]):
        self._inputs, self._found = inputs, dict[str, tuple[str, str]]()
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        for source in self._inputs:
            if self._stop:
                return
            try:
                self._found[source.path] = open_input(source.path).stamp, _digest(source)
            except (OSError, OctoError):
                return  # the next look at it fails, too

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._stop = True

    def records(self) -> list[FileRecord]:
        """Return the inputs for the manifest.

        Raises:
            OctoError: one changed since the start.
        """
        self._thread.join()
        found = []
        for source in self._inputs:
            now = open_input(source.path)
            if now != source:
                raise OctoError("this input changed during the run", where=source.path, hint="start again")
            stamp, digest = self._found.get(source.path, ("", ""))
            if not stamp or stamp != now.stamp:
                digest = _digest(source)
            found.append(FileRecord(path=source.path, bytes=source.size, digest=digest))
        return found


def _check_rows(shards: Sequence[Shard], inputs: Sequence[Input]) -> None:
    """Refuse an input of which no row is a JSON object: leaving out bad rows must not leave out a file."""
    documents, skipped = Counter[int](), [Counter[str]() for _ in inputs]
    for shard in shards:
        documents[shard.input] += shard.documents
        skipped[shard.input].update(shard.skipped)
    for number, (source, reasons) in enumerate(zip(inputs, skipped)):
        if not documents[number] and reasons and set(reasons) <= NOT_ROWS:
            counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
            raise OctoError(
                f"not one row of this file is a JSON object ({counts})",
                where=source.path,
                hint="give one JSON object per line; a whole file is never left out",
            )


def merge_shards(work: WorkDir, options: EncodeOptions, tokenizer: Tokenizer, digests: Digests) -> Manifest:
    """Write the data set and its manifest from all shards.

    Raises:
        OctoError: a shard is missing, there is not one document, or an input changed.
    """
    prefix, shards = work.prefix, work.shards()
    _check_rows(shards, work.inputs)
    skipped, notes = Counter[str](), Counter[str]()
    for shard in shards:
        skipped.update(shard.skipped)
        notes.update(shard.notes)
    with IndexedWriter(prefix, tokenizer.vocab_size, work.path) as writer:
        dropped = merge(shards, writer, work.scratch, dedup=options.dedup, shuffle=options.shuffle)
        if not writer.documents:
            what = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "no rows"
            where = ", ".join(source.path for source in work.inputs)
            work.forget()
            raise OctoError(f"not one document in the input ({what})", where=where)
        outputs = writer.finish()
        skipped.update({DUPLICATES: dropped} if options.dedup else {})
        manifest = Manifest(
            version=__version__,
            documents=writer.documents,
            tokens=writer.tokens,
            targets=writer.targets,
            skipped=dict(skipped),
            notes=dict(notes),
            tokenizer=TokenizerRecord(
                path=str(Path(tokenizer.path).resolve()),
                digest=tokenizer.digest,
                vocab_size=tokenizer.vocab_size,
                eod_id=tokenizer.eod_id,
                eod_token=tokenizer.eod_token,
                control={token: tokenizer.control_id(token, "a special token") for token in tokenizer.control},
                backend=tokenizer.backend,
                why_no_fast_path=tokenizer.why_not,
                compared=sum(shard.checked for shard in shards),
            ),
            inputs=digests.records(),
            outputs={
                name: FileRecord(path=f"{prefix.name}.{name}", bytes=int(found["bytes"]), digest=str(found["digest"]))
                for name, found in outputs.items()
            },
            options=_options(options),
            pretraining=is_pretraining(options.format),
        )
        # Between these steps a crash leaves files without manifest, never with a wrong one.
        manifest_path(prefix).unlink(missing_ok=True)
        writer.commit()
        manifest.write(prefix)
        return manifest
