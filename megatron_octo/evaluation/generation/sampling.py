"""Choice of tokens, with a random stream of each sample's own.

A sample's numbers follow from its key, the step and the token alone, never from what else is in the batch: the same
logits give the same tokens whatever the batch is, and a run that was killed goes on with what it would have chosen.
"""

from collections.abc import Sequence

import torch

from megatron_octo.common.files import digest_bytes

_MASK = (1 << 64) - 1
_STEP, _TOKEN = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03  # odd constants, so that steps and tokens are spread
_NUCLEUS = 1024  # candidates that are looked at first; where they hold too little, all are


def stream_key(seed: int, task: str, problem: int, sample: int) -> int:
    """Return the key of a sample's stream, 64 bits."""
    text = f"{seed}/{task}/{problem}/{sample}"
    return int(digest_bytes(text.encode()).rpartition(":")[2][:16], 16)


def as_signed(keys: Sequence[int]) -> torch.Tensor:
    """Return 64-bit numbers as int64 [B], which torch computes with."""
    return torch.tensor([key - (1 << 64) if key >> 63 else key for key in keys], dtype=torch.int64)


def _constant(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _shift(values: torch.Tensor, count: int) -> torch.Tensor:
    """Shift right without the sign."""
    return (values >> count) & ((1 << (64 - count)) - 1)


def uniforms(keys_B: torch.Tensor, steps_B: torch.Tensor, tokens_BN: torch.Tensor) -> torch.Tensor:
    """Return numbers in (0, 1), float32 [B, N], by the mixer of SplitMix64 (Steele et al. 2014).

    Args:
        keys_B: of the streams, int64 [B].
        steps_B: number of the token that is chosen, int64 [B].
        tokens_BN: ids, int64 [B, N].
    """
    mixed = keys_B + steps_B * _constant(_STEP)
    values = _mix(mixed)[:, None] + tokens_BN * _constant(_TOKEN)
    bits = _shift(_mix(values), 41)  # 23 of them: with the half these are the 24 that float32 holds, so never 1
    return (bits.to(torch.float32) + 0.5) * 2.0**-23


def _mix(values: torch.Tensor) -> torch.Tensor:
    values = (values ^ _shift(values, 30)) * _constant(0xBF58476D1CE4E5B9)
    values = (values ^ _shift(values, 27)) * _constant(0x94D049BB133111EB)
    return values ^ _shift(values, 31)


def choose(
    logits_BV: torch.Tensor, keys_B: torch.Tensor, steps_B: torch.Tensor, temperature: float, top_p: float
) -> torch.Tensor:
    """Choose the next token of each sequence, int64 [B].

    Args:
        logits_BV: float [B, V].
        keys_B: of the streams, int64 [B].
        steps_B: number of the token that is chosen, int64 [B].
        temperature: 0 takes the most probable token.
        top_p: smallest set of tokens with at least this probability is chosen from; 1: all.
    """
    if temperature == 0:
        return logits_BV.argmax(dim=-1)
    scaled = logits_BV.to(torch.float32) / temperature
    if top_p >= 1:
        tokens_BV = torch.arange(scaled.shape[1], device=scaled.device).expand_as(scaled)
        return _gumbel_max(scaled, keys_B, steps_B, tokens_BV)
    total = torch.logsumexp(scaled, dim=-1, keepdim=True)
    count = min(_NUCLEUS, scaled.shape[1])
    values, tokens = scaled.topk(count, dim=-1)
    chance = (values - total).exp()
    before = chance.cumsum(dim=-1) - chance
    if count < scaled.shape[1] and bool((before[:, -1] + chance[:, -1] < top_p).any()):
        values, tokens = scaled.sort(dim=-1, descending=True, stable=True)
        chance = (values - total).exp()
        before = chance.cumsum(dim=-1) - chance
    values = values.masked_fill(before >= top_p, float("-inf"))
    return _gumbel_max(values, keys_B, steps_B, tokens)


def _gumbel_max(
    values_BN: torch.Tensor, keys_B: torch.Tensor, steps_B: torch.Tensor, tokens_BN: torch.Tensor
) -> torch.Tensor:
    """Draw from softmax(values): the largest of values plus Gumbel noise."""
    noise = -(-uniforms(keys_B, steps_B, tokens_BN).log()).log()
    place = (values_BN + noise).argmax(dim=-1, keepdim=True)
    return tokens_BN.gather(-1, place).squeeze(-1)
