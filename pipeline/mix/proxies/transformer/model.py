"""The model as plain functions of one flat parameter vector, with torch's own differentiation, and what it loses.

What is written here is the definition. Evaluation and training on a GPU use it; `cpu_gradients` computes the same loss
and the same gradient on CPU, faster, and is tested against it.

To measure an item, an end-of-document token stands before it, as it stood before every training document. What fits the
model's context is read at once. Otherwise the prompt is cut from the left, and a long continuation is read in windows
that overlap: each token is scored once, with all that stands before it or at least half a context of it. Computed in
float32, the tokens of one item after another; what else is in the batch changes a result by rounding only (about 1e-6
of it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.mix.proxies.transformer import shape as shapes
from pipeline.mix.proxies.transformer.shape import Shape
from pipeline.mix.types import Measure, TokenItem, TokenTask
from pipeline.table.errors import InputError

EPSILON = 1e-6
PASS_TOKENS = 2048
"""Tokens of one forward pass of evaluation, padding included."""
HEAD_LOGITS = 1 << 20
"""Logits held at once."""


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


# What it loses on items -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """Tokens read at once, and the item that the last `scored` of their successors count for."""

    item: int
    tokens: NDArray[np.int64]
    scored: int


def windows(number: int, item: TokenItem, context: int, eos: int) -> list[Window]:
    """Return what has to be read to score an item: each window's `tokens` are its inputs and the last target."""
    tokens = np.concatenate([[eos], np.asarray(item.tokens, np.int64)])
    found, at, stop = [], item.start + 1, len(tokens)
    while at < stop:
        last = stop - at <= context // 2
        begin = max(0, stop - 1 - context if last else at - context // 2)
        end = min(stop, begin + context + 1)
        found.append(Window(number, tokens[begin:end], end - at))
        at = end
    return found


def measure(flat: torch.Tensor, shape: Shape, tasks: Sequence[TokenTask], eos: int) -> list[Measure]:
    """Return what the model loses on each task, in order.

    Raises: InputError when an item has no bytes or a token outside the vocabulary.
    """
    items = [item for task in tasks for item in task.items]
    todo: list[Window] = []
    for task in tasks:
        for item in task.items:
            _check(task.name, item, shape.vocabulary)
    for number, item in enumerate(items):
        todo += windows(number, item, shape.context, eos)
    todo.sort(key=lambda window: len(window.tokens))  # stable: ties stay in the items' order
    nats = np.zeros(len(items))
    with torch.inference_mode():
        for batch in _batches(todo):
            np.add.at(nats, [window.item for window in batch], _losses(flat, shape, batch))
    measures, start = [], 0
    for task in tasks:
        stop = start + len(task.items)
        n_bytes = np.array([item.n_bytes for item in task.items], np.int64)
        measures.append(Measure(nats[start:stop].copy(), n_bytes))
        start = stop
    return measures


def _check(task: str, item: TokenItem, vocabulary: int) -> None:
    if not 0 <= item.start <= len(item.tokens):
        raise InputError(f"task {task}: an item of {len(item.tokens)} tokens cannot be scored from {item.start} on")
    if len(item.tokens) and not 0 <= int(item.tokens.min()) <= int(item.tokens.max()) < vocabulary:
        raise InputError(f"task {task}: token {item.tokens.max()} lies outside the vocabulary of {vocabulary}")


def _batches(todo: Sequence[Window]) -> list[list[Window]]:
    """Cut windows, sorted by length, into batches of about PASS_TOKENS with padding."""
    batches: list[list[Window]] = []
    for window in todo:
        length = len(window.tokens)
        if not batches or (len(batches[-1]) + 1) * length > max(PASS_TOKENS, length):
            batches.append([])
        batches[-1].append(window)
    return batches


def _losses(flat: torch.Tensor, shape: Shape, batch: Sequence[Window]) -> NDArray[np.float64]:
    """Return the nats of each window's scored tokens; padding stands on the right, where nothing looks at it."""
    longest = max(len(window.tokens) for window in batch)
    rows = np.zeros((len(batch), longest), np.int64)
    scored = np.zeros((len(batch), longest - 1), bool)
    for row, mark, window in zip(rows, scored, batch, strict=True):
        row[: len(window.tokens)] = window.tokens
        mark[len(window.tokens) - 1 - window.scored : len(window.tokens) - 1] = True
    tokens, marks = torch.from_numpy(rows).to(flat.device), torch.from_numpy(scored).to(flat.device)
    states = hidden_states(flat, shape, tokens[:, :-1])[marks]
    wanted = tokens[:, 1:][marks]
    losses = _cross_entropies(states, split(flat, shape)["head"], wanted)
    owners = np.repeat(np.arange(len(batch)), [window.scored for window in batch])
    nats = np.zeros(len(batch))
    np.add.at(nats, owners, losses.double().cpu().numpy())
    return nats


def _cross_entropies(states: torch.Tensor, head: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the nats of each wanted token (n,), given the states before it, in one buffer of logits."""
    size = max(16, HEAD_LOGITS // len(head))
    logits = torch.empty(min(size, len(states)), len(head), device=states.device)
    losses = torch.empty(len(states), device=states.device)
    for start in range(0, len(states), size):
        part, target = states[start : start + size], wanted[start : start + size, None]
        shares = torch.mm(part, head.t(), out=logits[: len(part)])
        torch.log_softmax(shares, 1, out=shares)
        losses[start : start + size] = -shares.gather(1, target)[:, 0]
    return losses
