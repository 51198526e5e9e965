"""Generated tokenizers: the tokens of preprocess are the reference's, whichever path encodes."""

import random
from pathlib import Path

from benchmarks.campaigns.attack import Campaign, Outcome
from benchmarks.support import forks

DOCUMENTS = 10_000


class Attacks(Campaign):
    """A tokenizer with odd structures, and ten thousand documents that hit them."""

    count = 200

    def __init__(self, folder: Path) -> None:
        """Import the generator."""
        super().__init__(folder)
        forks.warm_up("benchmarks.tokenizer_fuzz")

    def attack(self, generator: random.Random, folder: Path) -> Outcome:
        """Encode with both."""
        from benchmarks import tokenizer_fuzz as fuzz

        # Almost every change sends a tokenizer to the reference; two of five stay near what the fast path takes.
        near = generator.random() < 0.4
        tree = (fuzz.trained if near else generator.choice([fuzz.trained, fuzz.merged, fuzz.merged]))(generator)
        kinds = [] if near else generator.sample(fuzz.MODEL_CHANGES, generator.randint(0, 2))
        others = generator.sample(fuzz.OTHER_CHANGES, generator.randint(0, 1 if near else 2))
        for kind in kinds:
            fuzz.change_model(tree, generator, kind)
        for kind in others:
            fuzz.change_rest(tree, generator, kind)
        texts = list(fuzz.documents(tree, generator, DOCUMENTS))
        code, found = forks.call(lambda: fuzz.check(tree, texts, folder), folder / "log", limit=300)
        name = ", ".join(sorted({*kinds, *others})) or "as it is"
        if code != 0 or found is None:
            return Outcome("all", "", f"{name}: exit code {code}: {(folder / 'log').read_text()[-300:]}")
        how, wrong = found
        return Outcome("all", how, f"{name}: {len(wrong)} documents differ, {wrong[0]!r}" if wrong else "")
