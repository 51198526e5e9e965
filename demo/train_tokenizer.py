"""A small byte-level BPE tokenizer with StarCoder's special tokens, for the demo.

python demo/train_tokenizer.py demo/out/pairs.jsonl demo/out/tokenizer.json
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from megatron_octo.common.errors import run_command
from megatron_octo.common.files import atomic_write

VOCABULARY = 2048
# In the order of StarCoder's ids 0-18, so that a recipe can be moved to the real tokenizer.
SPECIAL_TOKENS = (
    "<|endoftext|> <fim_prefix> <fim_middle> <fim_suffix> <fim_pad> <filename> <gh_stars> <issue_start> "
    "<issue_comment> <issue_closed> <jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output> "
    "<empty_output> <commit_before> <commit_msg> <commit_after> <reponame>"
)


def texts(path: Path) -> Iterator[str]:
    """Yield the text of every pair."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield row["inputs"] + row["outputs"]


def main(argv: list[str] | None = None) -> int:
    """Train the tokenizer and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("input", type=Path, help="jsonl with inputs and outputs")
    parser.add_argument("output", type=Path, help="tokenizer.json")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="tokens (default: %(default)s)")
    arguments = parser.parse_args(argv)
    tokenizer = Tokenizer(models.BPE())
    # As StarCoder's: single digits, then GPT-2's words.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=arguments.vocabulary,
        special_tokens=SPECIAL_TOKENS.split(),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(arguments.input), trainer)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(arguments.output, "w") as file:
        file.write(tokenizer.to_str())
    print(f"{arguments.output}: {tokenizer.get_vocab_size():,} tokens")
    return 0


if __name__ == "__main__":
    run_command(main)
