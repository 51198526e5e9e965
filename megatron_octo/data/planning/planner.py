"""Planner of a group of data sets: opens them, derives the key of their rows, builds each epoch's plan once."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from megatron_octo.common.errors import OctoError, run_command
from megatron_octo.common.files import digest_json
from megatron_octo.data.dataset.indexed import Corpus, IndexedDataset, open_corpus
from megatron_octo.data.dataset.manifest import Manifest, checked_manifest
from megatron_octo.data.planning.blend import Survey, draw, shares, survey
from megatron_octo.data.planning.build_once import holding, lock_path, take_lock
from megatron_octo.data.planning.fim import Fim, FimTokens, control_tokens, find_tokens
from megatron_octo.data.planning.packing import ALGORITHM
from megatron_octo.data.planning.paths import Group, read_group
from megatron_octo.data.planning.plan_cache import cached_plan, plan_directory, remove_plan, write_plan
from megatron_octo.data.planning.row_plan import Plan, build_plan, sum_counts
from megatron_octo.data.planning.settings import RowSettings

AHEAD = 1_000_000  # items from which the next epoch is planned by a process of its own, before it is needed


class Planner:
    """Plans of a group of data sets.

    Arguments and errors are those of :class:`.RowStream`; the first plan is not made yet.
    """

    def __init__(self, group: Group, settings: RowSettings):
        self.group, self.seed, self.settings = group, settings.seed, settings
        self.cache = Path(settings.cache_dir)
        opened = {source.prefix: open_corpus(source.prefix) for source in group.sources}
        self._digests = {prefix: corpus.digest() for prefix, corpus in opened.items()}
        found = {
            prefix: checked_manifest(prefix, self._digests[prefix])
            for prefix, corpus in opened.items()
            if isinstance(corpus, IndexedDataset)
        }
        manifests = {prefix: manifest for prefix, manifest in found.items() if manifest is not None}
        self.corpora: list[Corpus] = [opened[source.prefix] for source in group.sources]
        self._identify(manifests)
        self._fim: tuple[float, float, FimTokens] | None = None
        self._pretraining = [_pretraining(opened[s.prefix], manifests.get(s.prefix)) for s in group.sources]
        if settings.fim_rate:
            tokens = self._fim_tokens(manifests, settings.tokenizer)
            self._fim = settings.fim_rate, settings.fim_spm_rate, tokens
        self.key: dict[str, Any] = {
            "algorithm": ALGORITHM,
            "seed": self.seed,
            "rules": settings.rules(),
            "sources": [
                [str(source.weight), str(source.start), str(source.end), self._digests[source.prefix]]
                for source in group.sources
            ],
        }
        if self._fim:
            self.key["fim"] = [*self._fim[:2], asdict(self._fim[2]), self._pretraining]
        contents = [m.outputs["bin"].digest if (m := manifests.get(s.prefix)) else None for s in group.sources]
        self.corpora_digest = digest_json([self.key, contents])
        # Input of the process that plans ahead.
        self._arguments = {
            "group": f"{group.name}: "
            + ", ".join(f"{s.weight} {s.start}:{s.end} {Path(s.prefix).absolute()}" for s in group.sources),
            "settings": settings.to_json(),
        }

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Self:
        """Rebuild the planner of another process."""
        return cls(read_group(arguments["group"]), RowSettings(**arguments["settings"]))

    def _identify(self, manifests: dict[str, Manifest]) -> None:
        by_digest = {manifest.tokenizer.digest: prefix for prefix, manifest in manifests.items()}
        if len(by_digest) > 1:
            prefixes = ", ".join(by_digest.values())
            raise OctoError(
                f"data sets made with {len(by_digest)} different tokenizers: {prefixes}",
                where=f"group {self.group.name!r}",
                hint="run preprocess on all of them with one tokenizer.json",
            )
        self.tokenizer_digest: str | None = next(iter(by_digest), None)
        self.vocab_size: int | None = max((m.tokenizer.vocab_size for m in manifests.values()), default=None)
        # Ends of documents in the data: one, unless data sets were made with several.
        ends = {m.tokenizer.eod_token: m.tokenizer.eod_id for m in manifests.values()}
        self.ends = [{"token": token, "id": number} for token, number in ends.items()]
        self.pad = next((manifest.tokenizer.eod_id for manifest in manifests.values()), 0)

    def _fim_tokens(self, manifests: dict[str, Manifest], tokenizer: str | Path | None) -> FimTokens:
        if not any(self._pretraining):
            raise OctoError(
                "data.fim_rate is set, but no data set of this group is pretraining text",
                where=f"group {self.group.name!r}",
                hint="fill in the middle is for data of preprocess --format text, not for pairs of input and output",
            )
        for prefix, manifest in manifests.items():
            if manifest.tokenizer.control:
                return find_tokens(manifest.tokenizer.control, manifest.tokenizer.eod_id, f"{prefix}.json")
        if tokenizer is None:
            raise OctoError(
                "data.fim_rate is set, but nothing says which tokens mark the parts",
                where=f"group {self.group.name!r}",
                hint="set data.tokenizer, or run preprocess again: its manifest names them",
            )
        control = control_tokens(tokenizer)
        ends = [manifest.tokenizer.eod_id for manifest in manifests.values()] or [
            control[name] for name in ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>") if name in control
        ]
        if not ends:
            raise OctoError("no token that ends a document", where=str(tokenizer))
        return find_tokens(control, ends[0], str(tokenizer))

    @property
    def fim_tokens(self) -> FimTokens | None:
        """Ids of the tokens of fill in the middle, None if it is off."""
        return self._fim[2] if self._fim else None

    def fim(self, number: int, epoch: int) -> Fim | None:
        """Return fill in the middle for source ``number`` in an epoch, None without it."""
        if self._fim is None or not self._pretraining[number]:
            return None
        rate, spm_rate, tokens = self._fim
        return Fim(rate, spm_rate, tokens, (self.seed, epoch, self._digests[self.group.sources[number].prefix]))

    def plan(self, epoch: int) -> Plan:
        """Read or make the plan of an epoch; waits for another process that makes it."""
        return cached_plan(self.cache, {**self.key, "epoch": epoch}, lambda: self.build(epoch))

    def forget(self, epoch: int) -> None:
        """Remove the plan of an epoch from the cache; it is made again if it is needed."""
        remove_plan(plan_directory(self.cache, {**self.key, "epoch": epoch}))

    def build(self, epoch: int) -> Plan:
        """Make the plan of an epoch in memory: about 25 bytes per document at the peak."""
        sources = self.group.sources
        # What a blend takes of each source is decided by the documents as they are on disk: an epoch's order of
        # fill in the middle must not change whose turn it is.
        blend = len(sources) > 1
        surveys = self._surveys(None if blend else epoch)
        times: list[NDArray[np.uint8] | None] = [None]
        if blend:
            # A source's number is part of its stream: two ranges of one data set are drawn apart.
            times = [
                draw(
                    surveys[number],
                    share,
                    epoch,
                    self.seed,
                    "draw",
                    self._digests[sources[number].prefix],
                    number,
                )
                for number, share in enumerate(shares(sources, surveys))
            ]
            if self._fim:
                surveys.clear()
                surveys = self._surveys(epoch)
        counts = sum_counts(surveys, times)
        return build_plan(surveys, times, self.settings, counts, self.seed, epoch)

    def _surveys(self, epoch: int | None) -> list[Survey]:
        """Survey each source, with fill in the middle of an epoch or, for None, as it is on disk."""
        return [
            survey(
                self.corpora[number],
                number,
                source,
                self.settings,
                None if epoch is None else self.fim(number, epoch),
            )
            for number, source in enumerate(self.group.sources)
        ]

    def ahead(self, epoch: int) -> subprocess.Popen[bytes] | None:
        """Start a process that plans an epoch, unless a process of any host does so or has done so."""
        directory = plan_directory(self.cache, {**self.key, "epoch": epoch})
        if directory.exists() or not take_lock(directory):
            return None
        command = [sys.executable, "-m", "megatron_octo.data.planning.planner", str(epoch)]
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
            assert child.stdin is not None
            with child.stdin:
                child.stdin.write(json.dumps(self._arguments).encode())
        except OSError:  # no memory for a process: the epoch is planned when it begins
            lock_path(directory).unlink(missing_ok=True)
            return None
        return child


def _pretraining(corpus: Corpus, manifest: Manifest | None) -> bool:
    """Return whether a data set is running text, not made for fine-tuning."""
    if manifest is None:
        return isinstance(corpus, IndexedDataset) and corpus.modes is None
    return manifest.options.get("format") == "text" if manifest.pretraining is None else manifest.pretraining


def _main() -> None:
    """Plan one epoch under a lock that the parent took."""
    os.nice(10)  # training goes first
    planner = Planner.from_arguments(json.load(sys.stdin))
    epoch = int(sys.argv[1])
    key = {**planner.key, "epoch": epoch}
    directory = plan_directory(planner.cache, key)
    with holding(directory):
        if not directory.exists():
            write_plan(planner.build(epoch), directory, key)


if __name__ == "__main__":
    run_command(_main)
