"""Keys of Hugging Face's ``config.json``: each is read, has one understood value, is harmless, or is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megatron_octo.architectures.base import Architecture

# Keys of any config.json that do not change what a network computes: files, text, generation, classifiers.
_HARMLESS = """
architectures model_type dtype torch_dtype transformers_version _name_or_path name_or_path _commit_hash
_attn_implementation _attn_implementation_autoset attn_implementation use_cache gradient_checkpointing bos_token_id
eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id return_dict output_attentions
output_hidden_states output_scores return_dict_in_generate problem_type id2label label2id num_labels finetuning_task
task_specific_params tokenizer_class prefix torchscript use_bfloat16 is_decoder tf_legacy_loss
cross_attention_hidden_size chunk_size_feed_forward max_length min_length do_sample early_stopping num_beams
num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty
no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences forced_bos_token_id
forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
"""
HARMLESS = frozenset(_HARMLESS.split())
# Keys of any config.json with the only value that is understood; exports leave them out.
ONLY: dict[str, Any] = {"is_encoder_decoder": False, "tie_encoder_decoder": False, "pruned_heads": {}}


def known_keys(architecture: Architecture, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``config.json`` with other spellings replaced, all of whose keys are understood.

    Raises:
        ValueError: a key that may change the function is unknown, or has a value that is not supported.
    """
    found = dict(tree)
    for alias, key in architecture.aliases.items():
        if alias in found and found.setdefault(key, found[alias]) != found[alias]:
            raise ValueError(f"{key} {found[key]!r} and {alias} {found[alias]!r} are one key, and differ")
    defaults = dict(architecture.fields.values())
    fixed = {**architecture.fixed, **{key: (value,) for key, value in ONLY.items()}}
    read = {*defaults, "tie_word_embeddings", *architecture.extra, *architecture.aliases}
    known = read | HARMLESS | architecture.harmless | {*fixed, *architecture.equal}
    if unknown := sorted(key for key, value in found.items() if value is not None and key not in known):
        more = f" (and {len(unknown) - 1} more)" if unknown[1:] else ""
        raise ValueError(
            f"unknown key {unknown[0]!r}{more}, which may change what the model computes; remove it if it does not"
        )
    for key, values in fixed.items():
        if found.get(key, values[0]) not in values:
            raise ValueError(f"{key} {found[key]!r} is not supported, only {list(values)}")
    for key, (other, default) in architecture.equal.items():
        own, value = found.get(key, default), found.get(other, defaults[other])
        if own is not None and own != value:
            raise ValueError(f"{key} {own!r} is not supported, only the value of {other}, {value!r}")
    return found
