"""The n-gram proxy on real text: tokens counted a second, mixtures a minute, and bits per byte by order.

    python tests/bench/bench_ngram.py [FOLDER_OF_JSONL_ZST] [--eval FOLDER] [--rounds N] [--mixtures N]

A BPE of vocabulary 4096 is trained on the folder's files, each of which is a slice; every twentieth document is held
out. Counting is timed beside a pass of NumPy over the same tokens (its bincount), in interleaved rounds.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zstandard
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from pipeline.mix.config import ProxyConfig
from pipeline.mix.proxies.ngram import SMOOTHING, NgramProxy
from pipeline.mix.proxies.ngram_tasks import build_trie, count_nodes
from pipeline.mix.types import ProxyData, SliceTokens, TokenItem, TokenTask
from tests.bench.tables import Table, bench_parser

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
VOCABULARY, HELD_OUT, ITEM_TOKENS, ITEMS, TASKS, SLICES = 4096, 20, 600, 200, 20, 10


def texts(path: Path) -> list[str]:
    with path.open("rb") as stream:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(stream), "utf-8")
        return [text[:200_000] for line in lines if (text := json.loads(line)["text"])]


def train_tokenizer(corpora: dict[str, list[str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((text[:20_000] for part in corpora.values() for text in part[::4]), trainer)
    return tokenizer


def held_out(name: str, part: list[str], tokenizer: Tokenizer) -> TokenTask:
    items = []
    for text in part[::HELD_OUT][:ITEMS]:
        ids = tokenizer.encode(text[:2000]).ids[:ITEM_TOKENS]
        items.append(TokenItem(np.array([0, *ids], np.int32), 1, len(text[:2000].encode())))
    return TokenTask(f"held_out_{name}", name, tuple(items))


def evaluation(path: Path, tokenizer: Tokenizer) -> TokenTask | None:
    items = []
    for line in path.read_text("utf-8").splitlines()[:ITEMS]:
        row = json.loads(line)
        if "prompt" not in row:
            return None
        prompt, ids = tokenizer.encode(row["prompt"]).ids, tokenizer.encode(row["continuation"]).ids
        item = TokenItem(np.array([0, *prompt, *ids], np.int32), 1 + len(prompt), len(row["continuation"].encode()))
        items.append(item)
    return TokenTask(path.stem, path.stem, tuple(items))


def build_slices(corpora: dict[str, list[str]], tokenizer: Tokenizer, folder: Path) -> Iterator[SliceTokens]:
    for name, part in corpora.items():
        kept = [text for i, text in enumerate(part) if i % HELD_OUT]
        tokens = np.concatenate([np.array([*ids.ids, 0], np.uint16) for ids in tokenizer.encode_batch(kept)])
        np.save(folder / f"{name}.npy", tokens)
        size = sum(len(text.encode()) for text in kept)
        yield SliceTokens(name, folder / f"{name}.npy", folder / "none.parquet", len(kept), tokens.size, size)


def time_counting(data: ProxyData, tasks: list[TokenTask], rounds: int, table: Table) -> None:
    trie = build_trie(tasks, len(SMOOTHING), VOCABULARY)
    part = max(data.slices, key=lambda part: part.n_tokens)
    tokens = np.array(part.tokens())
    count_nodes(trie, tokens[:1000], 0, VOCABULARY, part.name)
    ours, numpy = [], []
    for _ in range(rounds):
        start = time.process_time()
        count_nodes(trie, tokens, 0, VOCABULARY, part.name)
        ours.append(time.process_time() - start)
        start = time.process_time()
        np.bincount(tokens, minlength=VOCABULARY)
        numpy.append(time.process_time() - start)
    rate, plain = tokens.size / min(ours), tokens.size / min(numpy)
    counted = f"counting {trie.prefix.size:,} n-grams of {len(tasks)} tasks in {tokens.size:,} tokens ({part.name})"
    table.row(counted, rate / 1e6, "million tokens a CPU s")
    table.row("np.bincount of single tokens", plain / 1e6, "million tokens a CPU s")


def time_mixtures(data: ProxyData, tasks: list[TokenTask], count: int, rounds: int, table: Table) -> None:
    mixtures = np.random.default_rng(1).dirichlet(np.ones(len(data.slices)), count)
    proxy = NgramProxy(ProxyConfig(tokens=10_000_000), data)
    start = time.perf_counter()
    proxy.measure_mixtures(mixtures[:1], tasks)
    first = time.perf_counter() - start
    times = []
    for _ in range(rounds):
        start = time.process_time()
        proxy.measure_mixtures(mixtures, tasks)
        times.append(time.process_time() - start)
    scored = sum(item.tokens.size - item.start for task in tasks for item in task.items)
    of = f"{len(tasks)} tasks, {scored:,} scored tokens, {len(data.slices)} slices"
    table.row(f"{of}: counted and prepared", first, "s")
    table.row(f"{of}: then", 60 * count / min(times), "mixtures a CPU minute")


def bits_by_order(data: ProxyData, tasks: list[TokenTask], table: Table) -> None:
    sizes = np.array([part.n_tokens for part in data.slices])
    natural = (sizes / sizes.sum())[None]
    for order in range(1, len(SMOOTHING) + 1):
        proxy = NgramProxy(ProxyConfig(tokens=int(sizes.sum())), data, smoothing=SMOOTHING[:order])
        bits = float(proxy.measure_mixtures(natural, tasks).mean())
        table.row(f"{len(tasks)} held-out tasks, {sizes.sum():,} tokens, 1- to {order}-grams", bits, "bits per byte")


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DATA / "sources")
    parser.add_argument("--eval", type=Path, default=DATA / "eval")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mixtures", type=int, default=200)
    options = parser.parse_args()
    corpora = {path.name.split(".")[0]: texts(path) for path in sorted(options.folder.glob("*.jsonl.zst"))[:SLICES]}
    tokenizer = train_tokenizer(corpora)
    with tempfile.TemporaryDirectory() as folder:
        slices = tuple(build_slices(corpora, tokenizer, Path(folder)))
        sizes = np.array([part.n_tokens for part in slices], np.int64)
        data = ProxyData(slices, sizes, VOCABULARY, 0)
        own = [held_out(name, part, tokenizer) for name, part in corpora.items()]
        others = [evaluation(path, tokenizer) for path in sorted(options.eval.glob("*.jsonl"))]
        tasks = [*(task for task in others if task), *own][:TASKS]
        table = Table("ngram", options.csv, "what figure unit")
        time_counting(data, tasks, options.rounds, table)
        time_mixtures(data, tasks, options.mixtures, options.rounds, table)
        bits_by_order(data, own, table)


if __name__ == "__main__":
    main()
