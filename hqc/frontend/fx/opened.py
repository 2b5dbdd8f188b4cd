"""Library modules that are traced as the operations they consist of: attention and transformer layers.

Their own `forward` chooses fast paths by what the tensors are (nested, on which device, wanting gradients), which no trace can
follow; the functions here say the same in plain steps. The tracer runs them in place of `forward` where the rank of the first
argument is known, so that each product, softmax and norm is placed, observed and trained by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

OpenForward = Callable[..., Any]
_OPENED: dict[type[nn.Module], OpenForward] = {}


def opened_forward(module: nn.Module) -> OpenForward | None:
    """`forward(module, *args)` in plain steps, for a module of an opened class or a subclass that keeps its forward."""
    for base in type(module).__mro__:
        if base in _OPENED:
            return _OPENED[base] if type(module).forward is base.forward else None
    return None


def _opens(cls: type[nn.Module]) -> Callable[[OpenForward], OpenForward]:
    def register(function: OpenForward) -> OpenForward:
        _OPENED[cls] = function
        return function

    return register


@_opens(nn.MultiheadAttention)
def multihead_attention(
    m: nn.MultiheadAttention,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    """The steps that torch takes, and its exporter writes: sequences first, heads beside the samples. With weights,
    `softmax(q k^T / sqrt(d) + masks)` of rank 3; without, `F.scaled_dot_product_attention` of rank 4. The last projection keeps the
    layout of the result, so that what is added to it is added in it.

    `is_causal` says of the mask, which is given beside it, what it is; it changes nothing.
    """
    batched = query.dim() == 3
    if not batched:
        query, key, value = (x.unsqueeze(1) for x in (query, key, value))  # torch projects them apart then
    elif m.batch_first:
        query, key, value = _each(lambda x: x.transpose(0, 1), query, key, value)
    length = query.shape[0]
    query, key, value = _projected(m, query, key, value)
    if m.bias_k is not None and m.bias_v is not None:
        key, value = (torch.cat([x, row.expand(-1, x.shape[1], -1)]) for x, row in ((key, m.bias_k), (value, m.bias_v)))
    query, key, value = (_heads(m, item) for item in (query, key, value))
    if m.add_zero_attn:
        key, value = (torch.cat([item, torch.zeros_like(item[:, :1])], 1) for item in (key, value))
    extra = int(m.bias_k is not None) + int(m.add_zero_attn)
    masks = [] if attn_mask is None else [_reaching(attn_mask if attn_mask.dim() == 3 else attn_mask.unsqueeze(0), extra)]
    if key_padding_mask is not None:
        of_keys = _reaching(key_padding_mask if batched else key_padding_mask.unsqueeze(0), extra)
        masks.append(of_keys.view(-1, 1, 1, of_keys.shape[-1]).expand(-1, m.num_heads, -1, -1).flatten(0, 1))
    if not need_weights:
        query, key, value = (_apart(m, item) for item in (query, key, value))
        masks = [mask.unsqueeze(0) if mask.shape[0] == 1 else _apart(m, mask) for mask in masks]
        scores = (query @ key.transpose(-2, -1)) * (1.0 / math.sqrt(m.head_dim))
    else:
        scores = (query * (1.0 / math.sqrt(m.head_dim))) @ key.transpose(-2, -1)
    for mask in masks:
        scores = _masked(scores, mask)
    weights = torch.softmax(scores, -1)
    if m.dropout:
        weights = F.dropout(weights, m.dropout, m.training)
    result = weights @ value
    if m.batch_first and batched:
        result = (_apart(m, result) if need_weights else result).transpose(1, 2).flatten(-2)
    else:
        result = result.transpose(0, 1) if need_weights else result.permute(2, 0, 1, 3)
        result = result.reshape(length, -1, m.embed_dim)
    result = m.out_proj(result if batched else result.squeeze(1))
    if not need_weights:
        return result, None
    weights = _apart(m, weights)
    if average_attn_weights:
        weights = weights.mean(1)
    return result, weights if batched else weights.squeeze(0)


def _apart(m: nn.MultiheadAttention, x: Any) -> Any:
    """`[B * heads, ...]` as `[B, heads, ...]`."""
    return x.unflatten(0, (-1, m.num_heads))


def _each(change: Callable[[Any], Any], query: Any, key: Any, value: Any) -> tuple[Any, Any, Any]:
    """Queries, keys and values changed; what is one tensor stays one."""
    changed = change(key)
    return changed if query is key else change(query), changed, changed if value is key else change(value)


def _projected(m: nn.MultiheadAttention, query: Any, key: Any, value: Any) -> tuple[Any, Any, Any]:
    """Queries, keys and values. What is one tensor is projected by one linear layer."""
    same = key is value
    itself = same and query is key
    width = m.embed_dim
    if not m._qkv_same_embed_dim:
        biases = (None, None, None) if m.in_proj_bias is None else m.in_proj_bias.chunk(3)
        weights = (m.q_proj_weight, m.k_proj_weight, m.v_proj_weight)
        found = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
        return found[0], found[1], found[2]
    weight, bias = m.in_proj_weight, m.in_proj_bias
    if itself:
        parts = F.linear(query, weight, bias).chunk(3, -1)
        return parts[0], parts[1], parts[2]
    query = F.linear(query, weight[:width], None if bias is None else bias[:width])
    if same:
        parts = F.linear(key, weight[width:], None if bias is None else bias[width:]).chunk(2, -1)
        return query, parts[0], parts[1]
    key = F.linear(key, weight[width : 2 * width], None if bias is None else bias[width : 2 * width])
    value = F.linear(value, weight[2 * width :], None if bias is None else bias[2 * width :])
    return query, key, value


def _heads(m: nn.MultiheadAttention, x: Any) -> Any:
    """`[L, B, E]` to `[B * heads, L, E / heads]`."""
    return x.reshape(x.shape[0], -1, m.head_dim).transpose(0, 1)


def _reaching(mask: Any, extra: int) -> Any:
    """The mask with positions that it leaves alone, for the rows that were added."""
    if not extra:
        return mask
    if mask.dtype == torch.bool:
        return F.pad(mask.float(), (0, extra)) != 0
    return F.pad(mask, (0, extra))


def _masked(scores: Any, mask: Any) -> Any:
    """A boolean mask blocks where it is true; another is added, but for its minus infinities, which no grid holds: they block."""
    if mask.dtype == torch.bool:
        return scores.masked_fill(mask, -math.inf)
    blocked = mask == -math.inf
    return (scores + mask.masked_fill(blocked, 0.0)).masked_fill(blocked, -math.inf)


@_opens(nn.TransformerEncoderLayer)
def encoder_layer(
    m: nn.TransformerEncoderLayer, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
) -> Any:
    if m.norm_first:
        x = src + m._sa_block(m.norm1(src), src_mask, src_key_padding_mask, is_causal=is_causal)
        return x + m._ff_block(m.norm2(x))
    x = m.norm1(src + m._sa_block(src, src_mask, src_key_padding_mask, is_causal=is_causal))
    return m.norm2(x + m._ff_block(x))


@_opens(nn.TransformerDecoderLayer)
def decoder_layer(
    m: nn.TransformerDecoderLayer,
    tgt: Any,
    memory: Any,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    tgt_key_padding_mask: Any = None,
    memory_key_padding_mask: Any = None,
    tgt_is_causal: bool = False,
    memory_is_causal: bool = False,
) -> Any:
    own = (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
    other = (memory, memory_mask, memory_key_padding_mask, memory_is_causal)
    if m.norm_first:
        x = tgt + m._sa_block(m.norm1(tgt), *own)
        x = x + m._mha_block(m.norm2(x), *other)
        return x + m._ff_block(m.norm3(x))
    x = m.norm1(tgt + m._sa_block(tgt, *own))
    x = m.norm2(x + m._mha_block(x, *other))
    return m.norm3(x + m._ff_block(x))


@_opens(nn.TransformerEncoder)
def encoder(
    m: nn.TransformerEncoder, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool | None = None
) -> Any:
    x = src
    for layer in m.layers:
        x = layer(x, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
    return x if m.norm is None else m.norm(x)


@_opens(nn.TransformerDecoder)
def decoder(
    m: nn.TransformerDecoder,
    tgt: Any,
    memory: Any,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    tgt_key_padding_mask: Any = None,
    memory_key_padding_mask: Any = None,
    tgt_is_causal: bool | None = None,
    memory_is_causal: bool = False,
) -> Any:
    x = tgt
    for layer in m.layers:
        x = layer(
            x,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
        )
    return x if m.norm is None else m.norm(x)


@_opens(nn.Transformer)
def transformer(
    m: nn.Transformer,
    src: Any,
    tgt: Any,
    src_mask: Any = None,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    src_key_padding_mask: Any = None,
    tgt_key_padding_mask: Any = None,
    memory_key_padding_mask: Any = None,
    src_is_causal: bool | None = None,
    tgt_is_causal: bool | None = None,
    memory_is_causal: bool = False,
) -> Any:
    memory = m.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask)
    return m.decoder(
        tgt,
        memory,
        tgt_mask=tgt_mask,
        memory_mask=memory_mask,
        tgt_key_padding_mask=tgt_key_padding_mask,
        memory_key_padding_mask=memory_key_padding_mask,
    )
