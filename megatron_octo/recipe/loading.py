"""Recipes in YAML: strict reading, dotted overrides, and errors that name the line and the nearest key."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json
from megatron_octo.common.strict_yaml import dump_yaml, explain, key_lines, parse_yaml, read_text
from megatron_octo.recipe.schema import Recipe

# Keys by the names that transformers, Megatron and nanoGPT give them: used in hints only.
_NAMES_ELSEWHERE = {
    "run_dir": "output_dir save save_dir out_dir",
    "model.num_layers": "n_layer n_layers num_hidden_layers",
    "model.hidden_size": "n_embd d_model hidden_dim dim",
    "model.num_attention_heads": "n_head n_heads num_heads",
    "model.num_query_groups": "num_key_value_heads n_kv_heads num_kv_heads",
    "model.ffn_hidden_size": "intermediate_size n_inner d_ff",
    "model.max_position_embeddings": "n_positions n_ctx max_positions",
    "model.vocab_size": "n_vocab padded_vocab_size",
    "model.vocab_multiple": "make_vocab_size_divisible_by pad_vocab_size_multiple_of pad_to_multiple_of",
    "model.layernorm_epsilon": "layer_norm_epsilon layer_norm_eps norm_epsilon norm_eps rms_norm_eps",
    "model.init_std": "init_method_std initializer_range",
    "model.hidden_dropout": "resid_pdrop embd_pdrop residual_dropout",
    "model.attention_dropout": "attn_pdrop",
    "model.rotary_base": "rope_theta rope_base",
    "model.tied_embeddings": "tie_word_embeddings untie_embeddings_and_output_weights",
    "model.activation": "activation_function hidden_act",
    "data.train": "data_path train_data_path train_data train_file dataset",
    "data.valid": "valid_data_path validation_file eval_dataset",
    "data.tokenizer": "tokenizer_name tokenizer_path tokenizer_model tokenizer_file",
    "data.seq_length": "max_seq_length max_seq_len seq_len sequence_length sequence_len max_length block_size "
    "cutoff_len model_max_length",
    "batch.global_size": "global_batch_size train_batch_size total_batch_size gradient_accumulation_steps",
    "batch.micro_size": "micro_batch_size per_device_train_batch_size per_device_batch_size batch_size",
    "optimizer.lr": "learning_rate peak_lr max_lr",
    "optimizer.min_lr": "min_learning_rate",
    "optimizer.beta1": "adam_beta1",
    "optimizer.beta2": "adam_beta2",
    "optimizer.eps": "adam_epsilon adam_eps epsilon",
    "optimizer.clip_grad": "max_grad_norm grad_clip gradient_clipping max_norm",
    "schedule.style": "lr_scheduler_type lr_decay_style lr_scheduler",
    "schedule.warmup_steps": "num_warmup_steps warmup_iters lr_warmup_iters lr_warmup_steps",
    "schedule.warmup_fraction": "warmup_ratio lr_warmup_fraction",
    "schedule.decay_steps": "lr_decay_iters lr_decay_steps",
    "train.steps": "max_steps num_train_epochs num_epochs epochs train_iters max_iters num_steps total_steps",
    "train.precision": "bf16 fp16 dtype torch_dtype params_dtype mixed_precision",
    "train.recompute": "gradient_checkpointing activation_checkpointing recompute_granularity",
    "parallel.tensor": "tensor_model_parallel_size tensor_parallel_size tensor_parallel tp tp_size",
    "parallel.pipeline": "pipeline_model_parallel_size pipeline_parallel_size pipeline_parallel pp pp_size",
    "parallel.sequence": "sequence_parallel",
    "eval.interval": "eval_interval eval_steps evaluation_strategy eval_strategy",
    "eval.steps": "eval_iters",
    "checkpoint.interval": "save_interval save_steps checkpoint_interval save_every",
    "checkpoint.keep": "save_total_limit",
    "checkpoint.init_from": "model_name_or_path load pretrained pretrained_checkpoint finetune_from",
    "log.interval": "log_interval logging_steps log_every",
    "log.wandb_project": "wandb wandb_name report_to",
    "lora.rank": "lora_r lora_rank r",
    "lora.alpha": "lora_alpha",
    "lora.dropout": "lora_dropout",
    "lora.target_modules": "lora_target_modules",
    "system.attention": "attn_implementation use_flash_attn use_flash_attention",
}
ALIASES = {name: key for key, names in _NAMES_ELSEWHERE.items() for name in names.split()}


def _explain(error: ValidationError, where: str, lines: dict[str, str], overridden: set[str]) -> OctoError:
    hint = "train --help-keys [SECTION] and docs/recipes.md describe the keys"
    return explain(error, Recipe, "recipe", where=where, lines=lines, hint=hint, overridden=overridden, aliases=ALIASES)


def _apply_override(tree: dict[str, Any], override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise OctoError(f"cannot read the override {override!r}", where="command line", hint="write section.key=value")
    node = tree
    *sections, leaf = key.split(".")
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            raise OctoError(f"{key!r}: {section!r} is a value, not a section", where="command line")
        node = child
    parsed = parse_yaml(value, "command line") if value else None
    # "NAME: 1.0 0:1 PREFIX" is text here: a mapping on the command line has braces.
    node[leaf] = value if isinstance(parsed, dict) and not value.lstrip().startswith("{") else parsed
    return key


def build_recipe(tree: Any, where: str = "recipe") -> Recipe:
    """Check a plain mapping and build the recipe.

    Raises:
        OctoError: a key is unknown or missing, or a value is wrong.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, where, {}, set()) from None


def _read_tree(path: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a recipe file's mapping laid over its base's, and ``FILE:LINE`` of each key; ``above`` led here."""
    text = read_text(path)
    tree = parse_yaml(text, path)
    if not isinstance(tree, dict):
        raise OctoError("a recipe is a YAML mapping of sections", where=path, hint="start from recipes/demo.yaml")
    lines = key_lines(text, path)
    if "base" not in tree:
        return tree, lines
    where, base = lines["base"], tree.pop("base")
    if not isinstance(base, str):
        raise OctoError(f"base: expected a recipe file, found {base!r}", where=where)
    chain, target = (*above, path.resolve()), path.parent / base
    if target.resolve() in chain:
        shown = " -> ".join(file.name for file in (*chain, target.resolve()))
        raise OctoError(f"bases go in a circle: {shown}", where=where)
    if not target.is_file():
        raise OctoError(f"no recipe at {target}", where=where, hint="base is relative to the file that names it")
    under, under_lines = _read_tree(target, chain)
    return _merge(under, tree), {**under_lines, **lines}


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge sections key by key; replace everything else."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _shipped(path: Path) -> Path:
    """Return the installed library's own recipe for a ``recipes/NAME.yaml`` that is not in the current directory."""
    installed = Path(__file__).parents[1] / path
    return installed if not path.exists() and path.parts[0:1] == ("recipes",) and installed.is_file() else path


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and its ``base``, and apply ``section.key=value`` overrides (values are YAML).

    Raises:
        OctoError: a file is missing or no YAML mapping, bases go in a circle, or the recipe is wrong; names file and
            line.
    """
    tree, lines = _read_tree(_shipped(Path(path)), ())
    overridden = {_apply_override(tree, override) for override in overrides}
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, str(path), lines, overridden) from None


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested sections by dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return found


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that :func:`load_recipe` reads back to an equal object."""
    return dump_yaml(recipe.model_dump())


def recipe_digest(recipe: Recipe) -> str:
    """Return a digest of all settings."""
    return digest_json(recipe.model_dump())


def check_batch(recipe: Recipe, data_size: int) -> int:
    """Micro-batches a step and rank.

    Raises:
        OctoError: the global batch cannot be shared out evenly.
    """
    together = recipe.batch.micro_size * data_size
    if recipe.batch.global_size % together:
        raise OctoError(
            f"batch.global_size {recipe.batch.global_size} is no multiple of micro_size {recipe.batch.micro_size} "
            f"x {data_size} data-parallel ranks",
            where="batch.global_size",
            hint=f"use a multiple of {together}",
        )
    return recipe.batch.global_size // together
