"""Adds the adapters of a LoRA run to the weights beneath, block by block, when they are read."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from megatron_octo.architectures.adapters import adapter_specs
from megatron_octo.checkpoint.source import Source


class MergedSource(Source):
    """``W + alpha / rank * B A``, computed in fp32; the writer rounds once and reports the error.

    Args:
        adapters: a checkpoint of adapters.
        base: the weights that they were trained beside.
        rounded: round to the base's dtype as a conversion does, for a comparison with its result.
    """

    def __init__(self, adapters: Source, base: Source, rounded: bool = False):
        trained = adapters.manifest
        assert trained.lora is not None
        manifest = replace(
            base.manifest,
            model=trained.model,
            step=trained.step,
            tokenizer=trained.tokenizer or base.manifest.tokenizer,
            tensors={"weights": base.manifest.tensors["weights"]},
            state={},
            provenance={
                **trained.provenance,
                "adapters": str(adapters.directory.absolute()),
                "base": str(base.directory.absolute()),
            },
        )
        super().__init__(adapters.directory, base.format, manifest, base.opened, adapters.tokenizer or base.tokenizer)
        self._adapters, self._base, self._rounded = adapters, base, rounded
        self._pairs = adapter_specs(trained.model, trained.lora)
        self._scale = trained.lora.alpha / trained.lora.rank

    def path_of(self, file: str) -> Path:
        """Return the path of a file of the base."""
        return self._base.path_of(file)

    def identity(self, kinds: tuple[str, ...] = ("weights",)) -> str:
        """Return the identities of base and adapters."""
        return f"{self._base.identity(kinds)} {self._adapters.identity(kinds)}"

    def check(self) -> None:
        """Compare copies of tensors in the base."""
        self._base.check()

    def finish(self, kinds: tuple[str, ...] = ("weights",)) -> None:
        """Compare digests of base and adapters."""
        self._base.finish()
        self._adapters.finish()

    def dtype(self, name: str, kind: str = "weights") -> torch.dtype:
        """Return fp32 for adapted weights, unless they are rounded."""
        exact = name in self._pairs and not self._rounded
        return torch.float32 if exact else super().dtype(name, kind)

    def rows(self, name: str, kind: str, rows: tuple[int, int], columns: tuple[int, int], out: Tensor) -> None:
        """Fill ``out`` [rows, columns] from a tensor, adapters added."""
        pair = self._pairs.get(name)
        if pair is None:
            super().rows(name, kind, rows, columns, out)
            return
        weight = torch.empty(out.shape, dtype=self.written_dtype(name, kind))
        super().rows(name, kind, rows, columns, weight)
        rank = pair.a.shape[0]
        a = self._adapters.read(pair.a.name, offset=(0, columns[0]), shape=(rank, out.size(1))).float()
        b = self._adapters.read(pair.b.name, offset=(rows[0], 0), shape=(out.size(0), rank)).float()
        out.copy_(torch.addmm(weight.float(), b, a, alpha=self._scale))
