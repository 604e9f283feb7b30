"""The model as plain functions of one flat parameter vector, with torch's own differentiation.

What is written here is the definition. Evaluation and training on a GPU use it; `hand` computes the same loss and the
same gradient on CPU, faster, and is tested against it.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch.nn import functional

from pipeline.mix.proxies.transformer import shape as shapes
from pipeline.mix.proxies.transformer.shape import Shape

EPSILON = 1e-6


def initial_weights(shape: Shape, seed: int, run_seed: int) -> torch.Tensor:
    """Return the flat float32 vector that runs of these two seeds start from, whatever their mixture."""
    weights = shapes.layout(shape)
    flat = np.zeros(weights[-1].stop, np.float32)
    for weight in weights:
        deviation = shapes.initial_deviation(weight)
        if deviation:
            name = int.from_bytes(hashlib.blake2b(weight.name.encode(), digest_size=8).digest(), "big")
            chance = np.random.default_rng(np.random.SeedSequence([seed, run_seed, name]))
            drawn = chance.standard_normal(weight.rows * weight.columns, np.float32)
            flat[weight.start : weight.stop] = drawn * np.float32(deviation)
    return torch.from_numpy(flat)


def split(flat: torch.Tensor, shape: Shape) -> dict[str, torch.Tensor]:
    """Return each matrix as a view (rows, columns) of the flat vector."""
    return {w.name: flat[w.start : w.stop].view(w.rows, w.columns) for w in shapes.layout(shape)}


def rotary_tables(shape: Shape, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine of each position's angles, both (tokens, head_width / 2)."""
    half = shape.head_width // 2
    rates = shapes.ROPE_BASE ** -(torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * rates
    return angles.cos().float(), angles.sin().float()


def normalise(x: torch.Tensor) -> torch.Tensor:
    """Return `x` divided by its root mean square over the last axis (RMSNorm, without a gain)."""
    return functional.rms_norm(x, (x.shape[-1],), eps=EPSILON)


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Return queries or keys (..., tokens, head_width) turned by their positions' angles (RoPE, by halves)."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1).to(x.dtype)


def hidden_states(flat: torch.Tensor, shape: Shape, inputs: torch.Tensor) -> torch.Tensor:
    """Return the normalised last hidden states (rows, tokens, width) for token ids (rows, tokens)."""
    weights = split(flat, shape)
    rows, tokens = inputs.shape
    cosine, sine = (table.to(flat.device) for table in rotary_tables(shape, tokens))
    x = functional.embedding(inputs, weights["embedding"])
    for layer in range(shape.depth):
        mixed = functional.linear(normalise(x), weights[f"layer{layer}.qkv"])
        q, k, v = mixed.view(rows, tokens, 3, shape.heads, shape.head_width).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        attended = attended.transpose(1, 2).reshape(rows, tokens, shape.width)
        x = x + functional.linear(attended, weights[f"layer{layer}.out"])
        gate, up = functional.linear(normalise(x), weights[f"layer{layer}.up"]).chunk(2, -1)
        x = x + functional.linear(functional.silu(gate) * up, weights[f"layer{layer}.down"])
    return normalise(x)


def loss(flat: torch.Tensor, shape: Shape, rows: torch.Tensor) -> torch.Tensor:
    """Return the summed nats of predicting tokens 1.. of each row (rows, context + 1) from those before."""
    states = hidden_states(flat, shape, rows[:, :-1])
    logits = functional.linear(states, split(flat, shape)["head"])
    return functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten(), reduction="sum")


def scale_of(shape: Shape) -> float:
    """Return what scores are multiplied by."""
    return 1.0 / math.sqrt(shape.head_width)
