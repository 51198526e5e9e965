"""Writes the small files of a Hugging Face model directory: tokenizer, configuration, model card."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from megatron_octo import __version__
from megatron_octo.architectures import find_architecture
from megatron_octo.architectures.parameters import count_parameters
from megatron_octo.checkpoint.source import TEXT_FILES, Source
from megatron_octo.common.terminal import printable
from megatron_octo.data.text.tokenizer import Tokenizer
from megatron_octo.runfiles.history import Contribution, contributions


def write_json_file(path: Path, tree: Mapping[str, Any], keep: Sequence[str] = ()) -> None:
    """Write JSON without nulls, except under keys that begin with one of ``keep``.

    A null stays where transformers' own default would be wrong: the end of a document is not token 50256.
    """
    kept = {key: value for key, value in tree.items() if value is not None or key.startswith(tuple(keep) or ("\0",))}
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def write_tokenizer(directory: Path, tokenizer: Tokenizer, max_length: int) -> None:
    """Copy tokenizer.json with the files beside it that AutoTokenizer needs."""
    shutil.copyfile(tokenizer.path, directory / "tokenizer.json")
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), tokenizer.eod_token)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        **special,
    }
    write_json_file(directory / "tokenizer_config.json", settings)
    write_json_file(directory / "special_tokens_map.json", special)


def provenance(source: Source) -> dict[str, Any]:
    """Return the origin of the weights for the model card and conversion.json."""
    manifest = source.manifest
    return {
        "made_with": f"megatron_octo {__version__}",
        "format": source.format,
        "directory": str(source.directory.absolute()),
        "step": manifest.step,
        "tokenizer": manifest.tokenizer,
        **{key: value for key, value in manifest.provenance.items() if key != TEXT_FILES},
    }


def write_card(directory: Path, source: Source, dtype: str) -> None:
    """Write README.md: the model's shape, its origin, and the recipe of its run if that is known."""
    model = source.manifest.model
    facts = {
        "architecture": find_architecture(model.architecture).hf_class,
        "parameters": f"{count_parameters(model):,}",
        "layers": model.num_layers,
        "hidden size": model.hidden_size,
        "heads": f"{model.num_attention_heads} for queries, {model.num_query_groups} for keys and values",
        "context": f"{model.max_position_embeddings:,} tokens",
        "vocabulary": f"{model.vocab_size:,} tokens",
        "dtype": dtype,
    }
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "---", ""]
    lines += [f"# {directory_title(source)}", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    lines += ["", "## Where the weights come from", "", "| | |", "|---|---|"]
    lines += [
        f"| {printable(key)} | `{printable(value)}` |" for key, value in provenance(source).items() if value is not None
    ]
    lines += ["", "`conversion.json` has the digests of the files."]
    if source.format == "checkpoint":
        lines += _training(contributions(source.directory.parent.parent, source.manifest.step))
    (directory / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _training(attempts: Sequence[Contribution]) -> list[str]:
    """Return the lines on the attempts that trained the weights, and the recipe of the last one."""
    if not attempts:
        return []
    lines = [
        "",
        "## Training",
        "",
        "| attempt | steps | ranks | settings that changed |",
        "|---|---|---|---|",
    ]
    for each in attempts:
        changed = "; ".join(f"`{change}`" for change in each.changed)
        lines.append(f"| {each.attempt} ({each.date}) | {each.first} to {each.last} | {each.world} | {changed} |")
    recipe = yaml.safe_dump(attempts[-1].recipe, sort_keys=False, allow_unicode=True).rstrip()
    return [*lines, "", f"Recipe of attempt {attempts[-1].attempt}:", "", "```yaml", recipe, "```"]


def directory_title(source: Source) -> str:
    """Return a name for the model: its run's, or that of the directory that it was converted from."""
    known = source.manifest.provenance.get("run") or source.manifest.provenance.get("from_hf")
    return Path(str(known)).name if known else source.directory.name
