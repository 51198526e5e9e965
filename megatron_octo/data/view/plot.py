"""Charts of document lengths and of the fill of rows, as a PNG. Needs matplotlib, the extra ``plot``."""

import tempfile
from pathlib import Path

import numpy as np

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write
from megatron_octo.data.dataset.indexed import open_corpus
from megatron_octo.data.planning.settings import RowSettings
from megatron_octo.data.view.row_view import open_data_set

SEQ_LENGTHS = (1024, 2048, 4096, 8192, 16384)


def plot(prefix: str, path: str | Path) -> None:
    """Draw three charts: documents by length, tokens by length, fill by length of the row.

    Raises:
        OctoError: matplotlib is missing, or the data set cannot be opened.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise OctoError(
            "plots need matplotlib, which is not installed", where="--plot", hint="pip install -e '.[plot]'"
        ) from None
    corpus = open_corpus(prefix)
    lengths = corpus.document_lengths()
    edges = 2.0 ** np.arange(0, int(lengths.max(initial=1)).bit_length() + 1, 0.5)
    figure = Figure(figsize=(12, 4), layout="constrained")
    documents, tokens, fill = figure.subplots(1, 3)
    figure.suptitle(f"{prefix}: {len(lengths):,} documents, {int(lengths.sum()):,} tokens")
    documents.hist(lengths, edges)
    documents.set_ylabel("documents")
    tokens.hist(lengths, edges, weights=lengths / max(int(lengths.sum()), 1) * 100, color="tab:green")
    tokens.set_ylabel("% of the tokens")
    for axis in (documents, tokens):
        axis.set_xscale("log", base=2)
        axis.set_xlabel("tokens of a document")
    for overlong in ("split", "window", "truncate", "skip"):
        fill.plot(
            SEQ_LENGTHS,
            [_fill(prefix, length, overlong) for length in SEQ_LENGTHS],
            marker="o",
            label=overlong,
        )
    fill.set_xscale("log", base=2)
    fill.set_xlabel("positions of a row")
    fill.set_ylabel("% of the positions used")
    fill.legend(title="data.overlong")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _fill(prefix: str, seq_length: int, overlong: str) -> float:
    """Return the fill of rows in percent; nan if nothing fits."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            settings = RowSettings(seq_length, 1234, folder, overlong)
            return 100 * open_data_set(prefix, settings).fill(0)
        except OctoError:
            return float("nan")
