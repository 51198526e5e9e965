"""Looks at data sets and tokenizer of a recipe, by their heads and manifests."""

from pathlib import Path

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file, read_json
from megatron_octo.data.dataset.header import count_documents
from megatron_octo.data.dataset.manifest import read_manifest
from megatron_octo.data.planning.paths import Group, read_groups
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.run_directory import RunDirectory


def training_group(recipe: Recipe) -> tuple[Group]:
    """Return the group of training data sets.

    Raises:
        OctoError: there are several, or the data paths are wrong.
    """
    groups = read_groups(recipe.data.train)
    if len(groups) != 1:
        raise OctoError(f"{len(groups)} groups of training data, expected one", where="data.train")
    return (groups[0],)


def check_vocabulary(recipe: Recipe, ours: str | None, theirs: str | None, vocab_size: int | None) -> None:
    """Compare data with the tokenizer and the vocabulary of a recipe.

    Args:
        recipe: of the run.
        ours: digest of its tokenizer.json.
        theirs: digest of the data's; None for either: unknown.
        vocab_size: of the data.

    Raises:
        OctoError: they do not belong together.
    """
    if ours and theirs and ours != theirs:
        raise OctoError(
            "the data was made with another tokenizer",
            where=f"data.tokenizer {recipe.data.tokenizer}",
            hint="preprocess the data with this tokenizer.json, or name the one that was used",
        )
    if vocab_size and vocab_size > recipe.model.vocab_size:
        raise OctoError(
            f"the data's vocabulary has {vocab_size} tokens, the model's {recipe.model.vocab_size}",
            where="model.vocab_size",
            hint=f"set it to {vocab_size} or use the model's tokenizer",
        )


def check_data(recipe: Recipe, key: str, tokenizer: list[str | None]) -> str:
    """Look at the files of all data sets of a key.

    Args:
        recipe: of the run.
        key: ``data.train`` or ``data.valid``.
        tokenizer: one digest, of the tokenizer of the data seen so far; updated.

    Returns:
        What was found.

    Raises:
        OctoError: files are missing, damaged or cut, a range is empty, or tokenizer or vocabulary do not fit.
    """
    groups = training_group(recipe) if key == "data.train" else read_groups(str(recipe.data.valid))
    prefixes, chosen = set(), 0
    for group in groups:
        for source in group.sources:
            documents = count_documents(source.prefix)
            first, last = source.documents(documents)
            if first == last:
                where = f"{source.prefix} {float(source.start):g}:{float(source.end):g}"
                raise OctoError(f"no documents in this range: {documents} in the data set", where=where)
            chosen += last - first
            if source.prefix not in prefixes and (manifest := read_manifest(source.prefix)):
                record = manifest.tokenizer
                check_vocabulary(recipe, tokenizer[0], record.digest, record.vocab_size)
                tokenizer[0] = record.digest
            prefixes.add(source.prefix)
    return f"{chosen:,} documents of {len(prefixes)} data set{'s' * (len(prefixes) > 1)}"


def check_tokenizer(recipe: Recipe, run: RunDirectory, found: list[str | None]) -> str:
    """Compare the recipe's tokenizer.json with that of the data (``found``, updated) and of the run.

    Raises:
        OctoError: it is missing, broken, or another one.
    """
    path = Path(str(recipe.data.tokenizer))
    digest = digest_file(path)
    check_vocabulary(recipe, digest, found[0], None)
    tree = read_json(path)
    if not isinstance(tree, dict) or "model" not in tree:
        raise OctoError("not a tokenizer.json of the tokenizers library", where=path)
    run.check_tokenizer(str(path))
    found[0] = digest
    return str(path)
