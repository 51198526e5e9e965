"""Random tokens in documents with the lengths of real source files, without text and tokenizer."""

from pathlib import Path

import numpy as np

from megatron_octo.data.dataset.writer import IndexedWriter


def write_random_corpus(
    prefix: Path, tokens: int, vocabulary: int, mean_length: int, seed: int = 0, learnable: bool = False
) -> Path:
    """Write documents of context and target with lognormal lengths (sigma 1, as source files have) around a mean.

    Args:
        prefix: path of the data set without its suffixes.
        tokens: size of all documents together, approximately.
        vocabulary: number of tokens to draw from; 0 is not drawn.
        mean_length: mean tokens per document.
        seed: seed of all draws.
        learnable: draw tokens with the frequencies of a language (Zipf), so that a loss falls; else uniformly.
    """
    generator = np.random.default_rng(seed)
    written = 0
    with IndexedWriter(prefix, vocabulary) as writer:
        while written < tokens:
            length = max(8, int(generator.lognormal(np.log(mean_length) - 0.5, 1.0)))
            ids = generator.integers(1, vocabulary, length)
            if learnable:  # of rank r with a probability of about 1 / r
                ids = (vocabulary ** generator.random(length)).astype(np.int64).clip(1, vocabulary - 1)
            cut = length // 3
            writer.add_document([(ids[:cut], 0), (ids[cut:], 1)])
            written += length
        writer.finish()
        writer.commit()
    return prefix


def overrides_on(corpus: Path) -> list[str]:
    """Return the overrides with which a recipe trains on such a corpus from random weights, with a line per step."""
    return [
        f"data.train=train: 1.0 0:1 {corpus}",
        "data.valid=null",
        "data.tokenizer=null",
        "eval.interval=0",
        "checkpoint.init_from=null",
        "log.tensorboard=false",
        "log.interval=1",
    ]
