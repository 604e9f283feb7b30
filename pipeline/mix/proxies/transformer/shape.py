"""The model's shape by its number of parameters, where each weight lies in one flat vector, what a token costs, and the
steps of a run.

The shape, for P parameters outside the embedding and the head: SwiGLU of 8/3 width makes a layer 12 width^2, and the
width over the depth is aimed at 16 (P / 200,000)^0.2, deeper being slower on CPU and wider costing more in the head:

    P       width  depth  heads         P       width  depth  heads
    50 k       32      4      1         10 M      320      8     10
    200 k      64      4      2         100 M     768     14     12
    1 M       128      5      4         1 B      1920     23     30
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HEAD_WIDTH = 32
WIDE_HEAD = 64
"""Head width from a model width of 512 on."""
ROPE_BASE = 10_000.0

WARM_UP = 0.02
WARM_UP_STEPS = 10
"""The rate rises over this share of the steps, and over at least so many where the run is not too short for that."""
DECAY = 0.4
"""Share of the steps over which the rate falls to zero in a straight line; before it is constant, so that the curves
of runs that stop early can be extrapolated (warm-up, stable, decay)."""
BETAS = (0.9, 0.95)
EPSILON = 1e-9
WEIGHT_DECAY = 0.1
CLIP = 1.0
CURVE_POINTS = 100
CPU_PASS_TOKENS = 4096
"""Tokens of one forward and backward pass on CPU: few enough for the caches, enough to make calls worth their cost."""
GPU_PASS_TOKENS = 65_536


@dataclass(frozen=True)
class Shape:
    """A decoder: RMSNorm without gains, rotary attention, SwiGLU, an embedding and a head of their own."""

    width: int
    depth: int
    heads: int
    hidden: int
    vocabulary: int
    context: int

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def body(self) -> int:
        """Parameters outside the embedding and the head."""
        return self.depth * self.width * (4 * self.width + 3 * self.hidden)


@dataclass(frozen=True)
class Weight:
    """Where a matrix lies in the flat vector: rows x columns from `start`."""

    name: str
    start: int
    rows: int
    columns: int

    @property
    def stop(self) -> int:
        return self.start + self.rows * self.columns


def shape_for(parameters: int, vocabulary: int, context: int) -> Shape:
    """Return the shape of a model of about this many parameters outside the embedding and the head."""
    aspect = 16.0 * (parameters / 200_000) ** 0.2
    wished = (aspect * parameters / 12) ** (1 / 3)
    step = HEAD_WIDTH if wished < 512 else 2 * WIDE_HEAD
    width = max(step, round(wished / step) * step) if wished >= 0.75 * HEAD_WIDTH else (16 if wished > 12 else 8)
    hidden = max(16, round(8 * width / 3 / 16) * 16)
    head_width = min(width, HEAD_WIDTH if width < 512 else WIDE_HEAD)
    depth = max(1, round(parameters / (width * (4 * width + 3 * hidden))))
    return Shape(width, depth, width // head_width, hidden, vocabulary, context)


def layout(shape: Shape) -> tuple[Weight, ...]:
    """Return every matrix in its place: the layers' (which weight decay shrinks), then the head and the embedding."""
    sizes = []
    for layer in range(shape.depth):
        sizes += [
            (f"layer{layer}.qkv", 3 * shape.width, shape.width),
            (f"layer{layer}.out", shape.width, shape.width),
            (f"layer{layer}.up", 2 * shape.hidden, shape.width),
            (f"layer{layer}.down", shape.width, shape.hidden),
        ]
    sizes += [("head", shape.vocabulary, shape.width), ("embedding", shape.vocabulary, shape.width)]
    weights: list[Weight] = []
    for name, rows, columns in sizes:
        weights.append(Weight(name, weights[-1].stop if weights else 0, rows, columns))
    return tuple(weights)


def flops_per_token(shape: Shape) -> float:
    """Return the floating-point operations of training on one token, forward and backward.

    6 (N + head) for the matrices (the embedding is a look-up), and 6 * 2 * depth * width * context / 2 for scores and
    weighted values over half of the context on average, the causal half alone being counted.

    Source: Kaplan et al. 2020 (arXiv:2001.08361), section 2.1, with the head, which dominates in a small model.
    """
    matrices = shape.body + shape.vocabulary * shape.width
    return 6.0 * matrices + 6.0 * shape.depth * shape.width * shape.context


def initial_deviation(weight: Weight) -> float:
    """Return the standard deviation that a matrix starts from; matrices that write to the residual start at zero."""
    kind = weight.name.rpartition(".")[2]
    if kind in ("out", "down"):
        return 0.0
    if kind == "embedding":
        return 0.3
    return 0.02 if kind == "head" else 1.0 / math.sqrt(weight.columns)


@dataclass(frozen=True)
class Schedule:
    """Steps of a run, of `rows` sequences each."""

    steps: int
    rows: int
    context: int
    peak: float

    @property
    def step_tokens(self) -> int:
        return self.rows * self.context

    @property
    def curve_every(self) -> int:
        """Steps between two points of the training curve."""
        return max(1, self.steps // CURVE_POINTS)

    def pass_rows(self, tokens: int) -> int:
        """Return the sequences of a pass of at most this many tokens: a divisor of `rows`, so that passes are equal."""
        most = min(self.rows, max(1, tokens // self.context))
        return max(n for n in range(1, most + 1) if self.rows % n == 0)

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step, counted from 0."""
        warm_up = max(1, round(max(WARM_UP * self.steps, min(WARM_UP_STEPS, self.steps / 5))))
        left = (self.steps - step) / max(1.0, DECAY * self.steps)
        return self.peak * min(1.0, (step + 1) / warm_up, left)

    def steps_until(self, share: float) -> int:
        """Return how many steps make up this share of the run, at least one."""
        return min(self.steps, max(1, round(share * self.steps)))
