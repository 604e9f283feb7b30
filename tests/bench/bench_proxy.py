"""Tokens a CPU second of proxy training, against a plain eager float32 loop of the same model.

    python -m tests.bench.bench_proxy [--seconds 20]

The eager loop is what one would write first: an `nn.Module`, torch's scaled dot product attention, cross-entropy over
the whole batch, `torch.optim.AdamW` as it comes. Both train the same model on the same sequences from the same weights
with one thread, step about, in turns; CPU time of this process is what counts, so that a busy machine slows both.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from torch.nn import functional

from pipeline.mix.config import ProxyConfig
from pipeline.mix.proxies.transformer import model, shape, training
from pipeline.mix.proxies.transformer.data import MixStream, RunProgress
from pipeline.mix.proxies.transformer.proxy import TransformerProxy
from pipeline.mix.proxies.transformer.shape import Shape
from pipeline.mix.types import ProxyData, RunSpec, SliceTokens
from tests.bench.tables import Table, bench_parser

VOCABULARY = 4096


class Layer(nn.Module):
    """Attention and SwiGLU, each behind a norm."""

    def __init__(self, of: Shape) -> None:
        super().__init__()
        self.of = of
        self.qkv = nn.Linear(of.width, 3 * of.width, bias=False)
        self.out = nn.Linear(of.width, of.width, bias=False)
        self.up = nn.Linear(of.width, 2 * of.hidden, bias=False)
        self.down = nn.Linear(of.hidden, of.width, bias=False)

    def forward(self, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        rows, tokens, width = x.shape
        mixed = self.qkv(functional.rms_norm(x, (width,), eps=model.EPSILON))
        q, k, v = mixed.view(rows, tokens, 3, self.of.heads, self.of.head_width).permute(2, 0, 3, 1, 4)
        q, k = model.rotate(q, cosine, sine), model.rotate(k, cosine, sine)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(rows, tokens, width))
        gate, up = self.up(functional.rms_norm(x, (width,), eps=model.EPSILON)).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up)


class Decoder(nn.Module):
    """The proxy's model as a module."""

    def __init__(self, of: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(of.vocabulary, of.width)
        self.layers = nn.ModuleList(Layer(of) for _ in range(of.depth))
        self.head = nn.Linear(of.width, of.vocabulary, bias=False)
        self.cosine, self.sine = model.rotary_tables(of, of.context)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        x = self.embedding(rows[:, :-1])
        for layer in self.layers:
            x = layer(x, self.cosine, self.sine)
        logits = self.head(functional.rms_norm(x, (x.shape[-1],), eps=model.EPSILON))
        return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def load(decoder: Decoder, of: Shape, flat: torch.Tensor) -> None:
    """Start the module from the proxy's weights."""
    weights = model.split(flat, of)
    named = {"embedding.weight": weights["embedding"], "head.weight": weights["head"]}
    for layer in range(of.depth):
        for name in ("qkv", "out", "up", "down"):
            named[f"layers.{layer}.{name}.weight"] = weights[f"layer{layer}.{name}"]
    decoder.load_state_dict({name: weight.clone() for name, weight in named.items()})


def synthetic(folder: Path) -> ProxyData:
    """Tokens of a Zipf distribution with some repetition, in one slice."""
    tokens = (np.random.default_rng(1).zipf(1.2, 2_000_000) % (VOCABULARY - 1) + 1).astype(np.uint16)
    tokens[1::2] = tokens[::2]
    tokens[499::500] = 0
    np.save(folder / "a.npy", tokens)
    starts = np.arange(0, len(tokens), 500)
    columns = {"start": starts, "tokens": np.full(len(starts), 500, np.int32)}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    only = SliceTokens("a", folder / "a.npy", folder / "a.parquet", len(starts), len(tokens), len(tokens))
    return ProxyData((only,), np.array([len(tokens)]), VOCABULARY, 0)


def compare(data: ProxyData, parameters: int, seconds: float, table: Table) -> None:
    """Train both in turns for about this many CPU seconds; add a row."""
    config = ProxyConfig(kind="transformer", parameters=parameters, tokens=10_000_000, device="cpu")
    proxy, run = TransformerProxy(config, data), RunSpec("bench", "natural", np.array([1.0]), 1)
    trainer = training.TrainingRun(proxy.plan(run), MixStream(data, run, config.seed, config.context))
    decoder = Decoder(proxy.shape)
    load(decoder, proxy.shape, trainer.flat)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=proxy.schedule.peak, betas=shape.BETAS)
    stream = MixStream(data, run, config.seed, config.context)
    ours, eager, losses = [], [], []

    def eager_step(number: int) -> None:
        for group in optimiser.param_groups:
            group["lr"] = proxy.schedule.learning_rate(number)
        loss = decoder(torch.from_numpy(stream.rows(proxy.schedule.rows)))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), shape.CLIP)
        optimiser.step()
        losses.append(float(loss.detach()))

    begun = time.process_time()
    while time.process_time() - begun < seconds or len(ours) < 5:
        at = time.process_time()
        with torch.no_grad():
            trainer.step()
        between = time.process_time()
        eager_step(len(ours))
        ours.append(between - at)
        eager.append(time.process_time() - between)
    step_tokens = proxy.schedule.step_tokens
    fast, slow = (step_tokens * (len(t) - 2) / sum(t[2:]) for t in (ours, eager))  # two steps to warm up
    flops = shape.flops_per_token(proxy.shape) * fast / 1e9
    loss, median_ratio = mean_loss(trainer.progress), float(np.median(eager) / np.median(ours))
    table.row(
        *(parameters, fast, slow, fast / slow, median_ratio, loss, float(np.mean(losses))),
        *(len(ours), str(proxy.precision), flops),
    )


def mean_loss(progress: RunProgress) -> float:
    """Return the mean training loss of all steps so far."""
    nats, before = progress.pending[0], 0
    for tokens, loss in progress.curve:
        nats += loss * (tokens - before)
        before = tokens
    return nats / progress.tokens


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="CPU seconds of each comparison")
    parser.add_argument("--parameters", type=int, nargs="+", default=[200_000, 1_000_000])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, training.one_thread():
        data = synthetic(Path(folder))
        columns = (
            "parameters tokens_per_cpu_s eager_per_cpu_s ratio median_ratio loss eager_loss steps precision gflops"
        )
        table = Table("proxy", arguments.csv, columns)
        for parameters in arguments.parameters:
            compare(data, parameters, arguments.seconds, table)


if __name__ == "__main__":
    main()
