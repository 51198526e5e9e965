"""A corpus of random tokens with the lengths of real source files, for benchmarks: no text, no tokenizer."""

from pathlib import Path

import numpy as np

from megatron_octo.data.dataset.writer import IndexedWriter


def write_random_corpus(
    prefix: Path, tokens: int, vocabulary: int, mean_length: int, seed: int = 0, learnable: bool = False
) -> Path:
    """Documents of context and target with lognormal lengths (sigma 1, as source files have) around a mean.

    Args:
        prefix: of the .bin and .idx to write.
        tokens: about so many in all.
        mean_length: mean tokens of a document.
        learnable: words are as frequent as in a language (Zipf), so that a loss falls; else all are alike.
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
    """What a recipe needs to train on such a corpus, from its own random weights, with a line a step."""
    return [
        f"data.train=train: 1.0 0:1 {corpus}",
        "data.valid=null",
        "data.tokenizer=null",
        "eval.interval=0",
        "checkpoint.init_from=null",
        "log.tensorboard=false",
        "log.interval=1",
    ]
