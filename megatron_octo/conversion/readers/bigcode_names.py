"""Names and cuts of the parameters of a multi-query GPT in BigCode's fork of Megatron-LM.

    DIR/latest_checkpointed_iteration.txt       an iteration's number, or "release"
    DIR/release/mp_rank_00/model_optim_rng.pt   tensor rank 0; mp_rank_00_000 (tensor_pipeline) with pipeline stages

Layers are numbered within their stage, and stages hold equally many. Queries, and the key and value that all of them
share, are two tensors: the first is cut over the tensor ranks, the second (key first, then value) is on all of them.
The vocabulary is padded to a multiple of 128 x tensor ranks. With several stages the last one has a copy of the word
embeddings for the tied output layer.
"""

import re
from dataclasses import dataclass
from typing import Any

from megatron_octo.architectures import is_multi_query_gpt
from megatron_octo.architectures.parameters import (
    LAYER_PREFIX,
    POSITION_EMBEDDINGS,
    WORD_EMBEDDINGS,
    parameter_specs,
)
from megatron_octo.common.errors import OctoError
from megatron_octo.config.model import ModelConfig

FILES = ("model_optim_rng.pt", "model_rng.pt")  # the second with a distributed optimizer
HEAD = "word_embeddings_for_head.weight"
ENCODER = "language_model.encoder."
TRUE_VOCABULARY = "true_vocab_size"  # our argument: real tokens, which the fork does not record
_EMBEDDING = "language_model.embedding."
_VOCABULARY_MULTIPLE = 128
_TOP = {
    WORD_EMBEDDINGS: f"{_EMBEDDING}word_embeddings.weight",
    POSITION_EMBEDDINGS: f"{_EMBEDDING}position_embeddings.weight",
}
_MODULES = {
    "input_layernorm": "input_layernorm",
    "self_attention.linear_proj": "self_attention.dense",
    "pre_mlp_layernorm": "post_attention_layernorm",
    "mlp.linear_fc1": "mlp.dense_h_to_4h",
    "mlp.linear_fc2": "mlp.dense_4h_to_h",
}
_QKV = "self_attention.linear_qkv"
_LAYER = re.compile(rf"^{re.escape(LAYER_PREFIX)}(\d+)\.(.+)\.(weight|bias)$")


@dataclass(frozen=True)
class StageTensor:
    """A tensor of one pipeline stage: rows of one of our parameters.

    Attributes:
        key: path in the stage's ``model``, joined with dots.
        shape: over all tensor ranks.
        axis: cut over the tensor ranks; None: every rank holds all of it.
        start: first row of our parameter.
    """

    stage: int
    key: str
    name: str
    shape: tuple[int, ...]
    axis: int | None
    start: int = 0

    def box(self, rank: int, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the offset in our parameter and the shape of one tensor rank's rows."""
        offset, shape = [0] * len(self.shape), list(self.shape)
        if self.axis is not None:
            shape[self.axis] //= size
            offset[self.axis] = rank * shape[self.axis]
        offset[0] += self.start
        return tuple(offset), tuple(shape)


def padded_vocabulary(vocab_size: int, tensor: int) -> int:
    """Return the rows of the fork's word embeddings."""
    multiple = _VOCABULARY_MULTIPLE * tensor
    return -(-vocab_size // multiple) * multiple


def check_model(model: ModelConfig, where: Any) -> None:
    """Check that the fork has such a model.

    Raises:
        OctoError: it has not.
    """
    if not is_multi_query_gpt(model):
        raise OctoError(
            f"a {model.architecture} model with {model.num_query_groups} key/value heads"
            f"{'' if model.tied_embeddings else ' and untied embeddings'} has no BigCode format",
            where=where,
            hint="it is for multi-query gpt_bigcode models with tied embeddings",
        )


def stage_tensors(model: ModelConfig, vocabulary: int, pipeline: int) -> list[StageTensor]:
    """Return all tensors of a checkpoint by stage, in the order of the fork.

    ``vocabulary`` is the number of rows of the word embeddings over all ranks.
    """
    per_stage = model.num_layers // pipeline
    found = []
    for name, spec in parameter_specs(model).items():
        if name in _TOP:
            shape = (vocabulary, *spec.shape[1:]) if name == WORD_EMBEDDINGS else spec.shape
            found.append(StageTensor(0, _TOP[name], name, shape, spec.axis))
        elif match := _LAYER.match(name):
            number, module, kind = int(match[1]), match[2], match[3]
            prefix = f"{ENCODER}layers.{number % per_stage}."
            stage = number // per_stage
            if module == _QKV:
                rest, hidden = spec.shape[1:], model.hidden_size
                queries, shared = (hidden, *rest), (2 * model.head_dim, *rest)
                found += [
                    StageTensor(stage, f"{prefix}self_attention.query.{kind}", name, queries, 0),
                    StageTensor(stage, f"{prefix}self_attention.key_value.{kind}", name, shared, None, hidden),
                ]
            else:
                found.append(StageTensor(stage, f"{prefix}{_MODULES[module]}.{kind}", name, spec.shape, spec.axis))
        else:
            key = name.replace("decoder.final_layernorm", f"{ENCODER}final_layernorm")
            found.append(StageTensor(pipeline - 1, key, name, spec.shape, spec.axis))
    if pipeline > 1:
        found.append(
            StageTensor(pipeline - 1, HEAD, WORD_EMBEDDINGS, (vocabulary, model.hidden_size), 0),
        )
    return found


def flatten(tree: Any, prefix: str = "", budget: list[int] | None = None) -> dict[str, Any]:
    """Return the leaves of nested dicts by their dotted paths.

    Raises:
        RecursionError: there are more than any model has, as where dicts hold each other.
    """
    budget = budget or [200_000]
    budget[0] -= 1
    if budget[0] < 0:
        raise RecursionError
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(flatten(value, f"{prefix}{key}.", budget))
    return found


def nest(tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the ``model`` of a file: nested by module, flat below the encoder."""
    tree: dict[str, Any] = {}
    for key, tensor in tensors.items():
        if key.startswith(ENCODER):
            path = [*ENCODER.removesuffix(".").split("."), key.removeprefix(ENCODER)]
        else:
            path = key.split(".")
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = tensor
    return tree
