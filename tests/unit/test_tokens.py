import base64

import pyarrow as pa
import pytest
from tokenizers import Tokenizer as HubTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from pipeline.signals.tokens import load_tokenizer, token_counts
from pipeline.table.errors import InputError


def documents(*texts: str) -> pa.Table:
    return pa.table({"doc_id": [str(number) for number in range(len(texts))], "text": list(texts)})


def test_a_tokenizers_file_counts_without_special_tokens_or_truncation(tmp_path):
    tokenizer = HubTokenizer(WordLevel({"[UNK]": 0, "the": 1, "mill": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_truncation(2)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))

    counts = token_counts(documents("the mill grinds the corn", "", "mill"), load_tokenizer(str(path)))

    assert counts["token_count"].to_pylist() == [5, 0, 1]


def test_a_tiktoken_file_counts_what_its_ranks_allow(tmp_path):
    path = tmp_path / "cl100k_test.tiktoken"
    ranks = [bytes([byte]) for byte in range(256)] + [b"th", b"the"]
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(ranks)))

    counts = token_counts(documents("the", "then", "é"), load_tokenizer(str(path)))

    assert counts["token_count"].to_pylist() == [1, 2, 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"version": "1.0"}', "not a tokenizers file"),
        ("cl100k.tiktoken", b"no ranks here", "neither a tokenizers nor a tiktoken file"),
        ("mine.tiktoken", b"aGk= 0", "split pattern of 'mine' is not known"),
    ],
)
def test_a_bad_tokenizer_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_tokenizer(str(tmp_path / name))


def test_an_absent_tokenizer_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json: No such file"):
        load_tokenizer(str(tmp_path / "nowhere.json"))
