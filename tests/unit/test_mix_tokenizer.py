"""The tokenizer of a mix: the library's tokens, no end of document made from text, clear errors."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pipeline.kernels import byte_pieces
from pipeline.mix.material.tokenizer import END_OF_DOCUMENT, MixTokenizer, load_tokenizer, train_tokenizer
from pipeline.table.errors import ConfigError, InputError

WORDS = ["the", "mill", "grinds", "slowly,", "don't", "we'll", "1984", "naïve", "磨坊", "x = y;\n", "  ", "\t", "she's"]
TEXTS = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 9)) for i in range(60)]
ODD = [
    "",
    " ",
    "\n\n a",
    "a  b   c ",
    "it's 'S 're'll '",
    "a\u00a0b \u3000c",
    "\u0378 unassigned",
    "😀😀 ١٢٣",
    END_OF_DOCUMENT,
]


@pytest.fixture(scope="module")
def trained() -> MixTokenizer:
    return train_tokenizer(TEXTS, 400)


def library(tokenizer: MixTokenizer) -> Tokenizer:
    """The same tokenizer by the library alone."""
    plain = Tokenizer.from_str(tokenizer.text)
    plain.encode_special_tokens = True
    return plain


def expected(tokenizer: MixTokenizer, texts: list[str]) -> list[list[int]]:
    return [item.ids for item in library(tokenizer).encode_batch_fast(texts, add_special_tokens=False)]


def test_tokens_are_the_library_s_and_decode_to_the_text(trained):
    texts = TEXTS + ODD
    found = trained.encode_batch(texts)
    assert [tokens.tolist() for tokens in found] == expected(trained, texts)
    assert [trained.decode(tokens) for tokens in found] == texts
    assert all(tokens.dtype == np.uint16 for tokens in found)
    assert trained._pieces is not None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.one_of(st.sampled_from("a'sdlTvre m 1\n\t ,é漢"), st.characters(codec="utf-8")))))
def test_any_text_has_the_library_s_tokens(texts):
    tokenizer = train_tokenizer(TEXTS, 300)
    assert [tokens.tolist() for tokens in tokenizer.encode_batch(texts)] == expected(tokenizer, texts)


def test_every_character_is_cut_as_the_library_cuts_it(trained):
    codes = [*range(0x3000), *range(0x3000, 0xD800, 97), *range(0xE000, 0x20000, 13)]
    characters = [chr(code) for code in codes]
    assert sum(unicodedata.category(each) == "Cn" for each in characters) > 1000  # left to the library, and equal too
    texts = [f"a{each}1{each}{each} {each}." for each in characters]
    flat, counts = trained.encode_flat(pa.array(texts))
    theirs = expected(trained, texts)
    assert counts.tolist() == [len(tokens) for tokens in theirs]
    assert flat.tolist() == [token for tokens in theirs for token in tokens]


def test_text_that_spells_the_end_of_a_document_does_not_end_it(trained):
    (tokens,) = trained.encode_batch([f"a{END_OF_DOCUMENT}b"])
    assert trained.eos not in tokens.tolist()
    assert trained.decode(tokens) == f"a{END_OF_DOCUMENT}b"
    assert trained.decode([trained.eos]) == END_OF_DOCUMENT


def test_full_tables_and_long_texts_change_no_token(trained, monkeypatch):
    texts = [*TEXTS, " ".join(f"w{i}" for i in range(3000))]
    monkeypatch.setattr("pipeline.mix.material.tokenizer._PIECES", 700)
    monkeypatch.setattr("pipeline.mix.material.tokenizer._CHUNK_BYTES", 500)
    small = train_tokenizer(TEXTS, 400)
    assert [tokens.tolist() for tokens in small.encode_batch(texts)] == expected(trained, texts)


def test_arrays_sliced_and_with_nulls(trained):
    array = pa.array(["drop", "the mill", None, "grinds"]).slice(1)
    assert [trained.decode(tokens) for tokens in trained.encode_batch(array)] == ["the mill", "", "grinds"]
    assert trained.encode_batch([]) == []


TRAIN = """
import sys
from pipeline.mix.material.tokenizer import train_tokenizer
from tests.unit.test_mix_tokenizer import TEXTS
print(train_tokenizer(TEXTS if sys.argv[1] == "0" else TEXTS[::-1], 400).content_hash)
"""


def test_training_is_the_same_in_another_process_with_more_threads_and_in_another_order(trained):
    for order, parallel in (("0", "false"), ("1", "true")):
        environment = {"TOKENIZERS_PARALLELISM": parallel, "PATH": "", "PYTHONHASHSEED": order}
        run = subprocess.run(
            [sys.executable, "-c", TRAIN, order], capture_output=True, text=True, env=environment, check=True
        )
        assert run.stdout.strip() == trained.content_hash


def test_a_saved_tokenizer_is_the_same(trained, tmp_path):
    (tmp_path / "t.json").write_text(trained.text, "utf-8")
    loaded = load_tokenizer(tmp_path / "t.json")
    assert (loaded.content_hash, loaded.eos, loaded.vocabulary) == (
        trained.content_hash,
        trained.eos,
        trained.vocabulary,
    )


def test_little_text_gives_a_smaller_vocabulary_and_no_text_is_an_error(caplog):
    assert train_tokenizer(["abab abab"], 5000).vocabulary < 300
    assert "of the 5000 asked for" in caplog.text
    with pytest.raises(InputError, match="hold no text"):
        train_tokenizer([], 400)


def write(tmp_path: Path, **changes: object) -> Path:
    """Write a word tokenizer, which does not go through the table of pieces."""
    plain = Tokenizer(models.WordLevel({"a": 0, "b": 70_000, "[UNK]": 2, "</s>": 3}, "[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.decoder = decoders.Fuse()
    added = {"id": 3, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content = json.loads(plain.to_str()) | {"added_tokens": [{**added, "special": True}]} | changes
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    return path


def test_a_file_of_another_kind_and_large_ids(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path))
    assert (tokenizer.eos, tokenizer.vocabulary, tokenizer.dtype) == (3, 70_001, np.uint32)
    assert [t.tolist() for t in tokenizer.encode_batch(["a b", "b"] * 80)] == [[0, 70_000], [70_000]] * 80


def test_an_end_that_the_file_does_not_mark_as_special_is_still_not_made_from_text(tmp_path):
    content = json.loads(write(tmp_path).read_text())
    content["added_tokens"][0]["special"] = False
    (tmp_path / "plain.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path / "plain.json")
    assert 3 not in tokenizer.encode_batch(["a </s> b"])[0].tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a tokenizers file"),
        ("[]", "has no `model`"),
        ("{" * 50_000, "is not a tokenizers file"),
        ('{"model": {"type": "BPE"}, "added_tokens": 3}', "no list of tokens"),
        ('{"model": {"type": "BPE"}, "added_tokens": []}', "no end-of-document token"),
        ('{"model": {"type": "NoSuch"}, "added_tokens": [{"content": "</s>"}]}', "is not a tokenizers file"),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises((InputError, ConfigError), match=message) as caught:
        load_tokenizer(tmp_path / "bad.json")
    assert "\n" not in str(caught.value)


def test_absent_binary_and_wrong_end(tmp_path, trained):
    with pytest.raises(InputError, match="No such file"):
        load_tokenizer(tmp_path / "none.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        load_tokenizer(tmp_path / "binary")
    (tmp_path / "t.json").write_text(trained.text, "utf-8")
    with pytest.raises(ConfigError, match=r"'<eod>'.*among its added tokens \('<\|endoftext\|>'\)"):
        load_tokenizer(tmp_path / "t.json", "<eod>")


def test_a_word_that_is_the_end_is_refused(tmp_path):
    content = json.loads(write(tmp_path).read_text())
    content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="would end a document"):
        load_tokenizer(tmp_path / "t.json")


def test_missing_pieces_are_counted_beyond_what_fits():
    text = "'" * 1000 + "a1" * 100
    out = np.zeros(0, np.uint32)
    table = byte_pieces.empty_table(16, 16, 16)
    data = np.frombuffer(text.encode(), np.uint8)
    missing = np.empty((4, 2), np.int64)
    counts = np.zeros(1, np.int64)
    filled, lacking = byte_pieces.encode(data, np.array([0, data.size]), table, out, counts, missing)
    assert filled == 0
    assert lacking > 4
    assert missing[0].tolist() == [0, 1000]
