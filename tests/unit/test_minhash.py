"""Words, shingles and signatures: literal words, a plain-Python reference, and datasketch bit for bit."""

from __future__ import annotations

import itertools
import subprocess
import sys
import unicodedata
from pathlib import Path

import datasketch
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pipeline.kernels
from pipeline.dedup.minhash import (
    permutations,
    sign_table,
    signature_matrix,
    signatures_schema,
    to_datasketch,
)
from pipeline.kernels import minhash, words
from pipeline.table.errors import SchemaError
from pipeline.table.schema import text_buffers

TEXTS = [
    "",
    " \n\t\u3000",
    "!?... --- ©",
    "one",
    "The quick brown fox jumps over the lazy dog. " * 60,
    "naïve café, Ärger im Büro; El Niño — ΑΘΗΝΑ",
    "漢字かな交じり文とカタカナ。",
    "ภาษาไทยไม่มีช่องว่าง",
    "हिन्दी में लिखा हुआ पाठ",
    "مرحبا بالعالم ١٢٣",
    "한국어 문장입니다",
    "emoji 👩‍👩‍👧 ❤️ and flags 🇩🇪 between words",
    "x" * 5000,
    "a b " * 3000,
]
texts = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(["the", "The", "of", "ærø", "漢", "か\u3099", "ก\u0e34", "e\u0301", "_", "9", "ß", "ﬁ"]),
        max_size=40,
    ).map(" ".join),
)


def arrow(values: list[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def split(text: str) -> list[str]:
    """Return the normalised words of `text`: the documented rules in plain Python, over the kernel's own table."""
    table = words.class_table()
    found: list[str] = []
    state = words.SEPARATOR
    for character in text:
        entry = int(table[ord(character)])
        kind, mapped = entry >> 21 & 7, chr(entry & 0x1FFFFF)
        if kind == words.SKIPPED or (kind == words.MARK and state == words.SEPARATOR):
            continue
        if kind == words.SEPARATOR:
            state = words.SEPARATOR
        elif kind == words.MARK or (kind == words.WORD and state == words.WORD):
            found[-1] += mapped
        else:
            found.append(mapped)
            state = kind
    return found


MASK = (1 << 64) - 1


def mix(value: int) -> int:
    value = ((value ^ value >> 33) * 0xFF51AFD7ED558CCD) & MASK
    value = ((value ^ value >> 33) * 0xC4CEB9FE1A85EC53) & MASK
    return value ^ value >> 33


def reference_shingles(text: str, size: int, any_number: bool = False) -> list[int]:
    """Return the shingle hashes as `pipeline.kernels.minhash` documents them, in plain Python."""
    table = words.class_table()
    hashes = []
    after_number = False
    for word in split(text):
        value = 0x9E3779B97F4A7C15
        for character in word:
            value = ((value ^ int(table[ord(character)])) * 0x9FB21C651E98DF25) & MASK
        number = all(character in "0123456789" for character in word)
        flagged = value & ~1 | (not number)
        general = any_number and number and not after_number
        hashes.append(0x8EBC6AF09C88C6E2 if general else mix(flagged) & ~1 | (not number))
        after_number = number
    size = min(size, len(hashes))
    windows = [hashes[i : i + size] for i in range(len(hashes) - size + 1)] if hashes else []
    out = []
    for window in windows:
        value = 0
        for word_hash in window:
            value = (value * 0xD6E8FEB86659FD93 + word_hash) & MASK
        out.append(mix(value) >> 32)
    return out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("...", []),
        ("Hello, World!", ["hello", "world"]),
        ("snake_case x2 3.14", ["snake_case", "x2", "3", "14"]),
        ("don't", ["don", "t"]),
        ("Café = Cafe\u0301", ["cafe", "cafe"]),
        ("ＦＵＬＬ　ｗｉｄｔｈ①", ["full", "width1"]),
        ("co\u00adop zero\u200bwidth zwj\u200dzwnj\u200c", ["coop", "zero", "width", "zwjzwnj"]),
        ("Straße ΣΊΣΥΦΟΣ", ["straße", "σισυφοσ"]),
        ("漢字かな", ["漢", "字", "か", "な"]),
        ("が か\u3099", ["が", "か\u3099"]),
        ("abc漢def", ["abc", "漢", "def"]),
        ("กิน", ["กิ", "น"]),
        ("हिन्दी", ["हिन्दी"]),
        ("\u0301\u0915", ["\u0915"]),
        ("\u093fx", ["x"]),
        ("한국어", ["한국어"]),
        ("❤\ufe0f", []),
        ("\ufeffbom", ["bom"]),
        ("a\u2028b", ["a", "b"]),
        ("x\U000e0041y", ["xy"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert split(text) == expected
    assert minhash.shingle_hashes(text.encode(), 1).tolist() == reference_shingles(text, 1)
    assert len(minhash.shingle_hashes(text.encode(), 1)) == len(expected)


def test_table_normalises_to_itself() -> None:
    """Normalising twice changes nothing."""
    table = words.class_table()
    mapped = table & np.uint32(0x1FFFFF)
    wordlike = np.flatnonzero((table >> 21 & 7 == words.WORD) | (table >> 21 & 7 == words.SINGLE))
    assert wordlike.size > 130_000
    unstable = wordlike[table[mapped[wordlike]] != table[wordlike]]
    assert [hex(code) for code in unstable] == []


def test_table_knows_every_letter_and_digit() -> None:
    table = words.class_table()
    for code in itertools.chain(range(0x20000), range(0x2F800, 0x2FA20)):
        category = unicodedata.category(chr(code))
        if category[0] == "L" or category == "Nd":
            halfwidth_mark = code in (0xFF9E, 0xFF9F)  # they stand for the combining voicing marks
            assert (table[code] >> 21 & 7 == words.MARK) == halfwidth_mark, hex(code)
            assert halfwidth_mark or table[code] >> 21 & 7 in (words.WORD, words.SINGLE), hex(code)


@settings(deadline=None, max_examples=200)
@given(texts, st.integers(1, 7), st.booleans())
@example("a b " * 600, 5, False)
@example("1 2 a " * 600, 5, True)
@example("word " * (minhash.CHUNK_SHINGLES + 4), 5, False)
@example("word " * (minhash.CHUNK_SHINGLES * 2 + 4), 5, False)
def test_shingles_equal_the_reference(text: str, size: int, any_number: bool) -> None:
    found = minhash.shingle_hashes(text.encode(), size, any_number)
    assert found.tolist() == reference_shingles(text, size, any_number)


def check_datasketch(values: list[str], size: int, seed: int, num_perm: int) -> None:
    any_number = bool(seed % 2)
    data, offsets = text_buffers(arrow(list(values)))
    signed = minhash.sign(data, offsets, size, *permutations(num_perm, seed), any_number)
    for row, text in enumerate(values):
        theirs = datasketch.MinHash(num_perm=num_perm, seed=seed, scheme="affine32", hashfunc=int)
        hashes = minhash.shingle_hashes(text.encode(), size, any_number)
        theirs.update_batch(hashes.tolist())
        assert signed.signatures[row].tolist() == theirs.hashvalues.tolist()
        assert signed.shingles[row] == hashes.size
        assert to_datasketch(signed.signatures[row], seed).jaccard(theirs) == 1.0
        assert to_datasketch(signed.signatures[row], seed).is_empty() == (hashes.size == 0)


@settings(deadline=None, max_examples=60)
@given(st.lists(texts, max_size=4), st.integers(1, 7), st.integers(0, 99), st.integers(1, 33))
def test_signatures_equal_datasketch(values: list[str], size: int, seed: int, num_perm: int) -> None:
    check_datasketch(values, size, seed, num_perm)


def test_signatures_of_long_texts_equal_datasketch() -> None:
    check_datasketch(TEXTS, 5, 1, 112)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=40), st.data())
def test_malformed_bytes_never_read_past_the_text(noise: bytes, data: st.DataObject) -> None:
    """What follows a text in the buffer must not change it, however its last code point is cut."""
    cut = data.draw(st.integers(0, len(noise)))
    offsets = np.array([0, cut], np.int64)
    alone = minhash.text_hashes(np.frombuffer(noise[:cut], np.uint8), offsets)
    followed = minhash.text_hashes(np.frombuffer(noise, np.uint8), offsets)
    assert alone.tolist() == followed.tolist()


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("Same words, here", "same   WORDS here!", True),
        ("same words here", "same words her e", False),
        ("same words here", "same here words", False),
        ("a", "a a", False),
        ("", "?!", True),
    ],
)
def test_text_hashes(left: str, right: str, equal: bool) -> None:
    first, second = minhash.text_hashes(*text_buffers(arrow([left, right]))).tolist()
    assert (first == second) is equal
    assert (first == minhash.EMPTY_TEXT_HASH) == (left == "")


def test_text_hash_does_not_depend_on_the_shingle_size() -> None:
    data, offsets = text_buffers(arrow(list(TEXTS)))
    for size in (1, 5, 13):
        signed = minhash.sign(data, offsets, size, *permutations(4))
        assert signed.text_hashes.tolist() == minhash.text_hashes(data, offsets).tolist()


@pytest.mark.parametrize(
    ("left", "right", "exact", "general"),
    [
        ("page 12 of the annual report", "page 7 of the annual report", False, True),
        ("1 22 333 4444 55555", "1 99 888 7777 66666", False, False),
        ("on 5 May 2021", "on 6 May 2022", False, True),
        ("chapter x2 of three", "chapter x3 of three", False, False),
    ],
)
def test_a_number_counts_as_itself_or_as_any(left: str, right: str, exact: bool, general: bool) -> None:
    """With `any_number` counters do not tell shingles apart, and tables of numbers do; text hashes always differ."""
    for any_number, equal in ((False, exact), (True, general)):
        sets = [minhash.shingle_hashes(text.encode(), 3, any_number).tolist() for text in (left, right)]
        assert (sets[0] == sets[1]) is equal
    data, offsets = text_buffers(arrow([left, right]))
    assert len(set(minhash.text_hashes(data, offsets).tolist())) == 2


PINNED_SHINGLES = [3674148629, 3015179187]
PINNED_SIGNATURES = [[1211979016, 431615383, 575088161], [1146672455, 2829612762, 1308700382]]
PINNED_TEXTS = [5864133490258559192, 18276488346161757140]
PINNED_KEYS = [[17262677383535076087], [11062307082404044161]]


def test_hashes_are_pinned() -> None:
    """Stored signatures outlive a release: these values change only together with the stage's version."""
    data, offsets = text_buffers(arrow(["The quick brown fox jumps over the lazy dog", "漢字"]))
    signed = minhash.sign(data, offsets, 5, *permutations(3))
    assert minhash.shingle_hashes(b"The quick brown fox", 3).tolist() == PINNED_SHINGLES
    assert signed.signatures.tolist() == PINNED_SIGNATURES
    assert signed.text_hashes.tolist() == PINNED_TEXTS
    assert minhash.band_keys(signed.signatures, 1, 3).tolist() == PINNED_KEYS


def test_shingles_take_no_more_memory_than_they_are() -> None:
    text = b"of " * (8 << 20)
    minhash.shingle_hashes(b"compiled", 3)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _memory_kib("VmRSS")
    found = minhash.shingle_hashes(text, 3)
    assert found.size == (8 << 20) - 2
    assert _memory_kib("VmHWM") - before < (found.nbytes >> 10) + (8 << 10)


def _memory_kib(field: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_sign_table_reads_slices_chunks_and_nulls(kind: pa.DataType) -> None:
    values = ["skipped", "eins zwei drei", None, "", "漢字 vier", "last one"]
    whole = pa.chunked_array([pa.array(values[:3], kind), pa.array([], kind), pa.array(values[3:], kind)])
    documents = pa.table({"doc_id": [f"{i:032x}" for i in range(6)], "text": whole}).slice(1, 4)
    result = sign_table(documents, 2, 2, 2)
    assert result.schema.equals(signatures_schema(4))
    assert result["doc_id"].equals(documents["doc_id"])
    assert result["shingles"].to_pylist() == [2, 0, 0, 2]
    for row, text in zip(result.to_pylist(), ["eins zwei drei", "", "", "漢字 vier"], strict=True):
        alone = sign_table(pa.table({"doc_id": ["x"], "text": [text]}), 2, 2, 2).to_pylist()[0]
        assert {**alone, "doc_id": row["doc_id"]} == row


def test_signatures_survive_parquet(tmp_path: Path) -> None:
    signed = sign_table(pa.table({"doc_id": ["a", "b"], "text": ["one two", ""]}), 14, 8, 5)
    pq.write_table(signed, tmp_path / "s.parquet")
    read = pq.read_table(tmp_path / "s.parquet")
    assert read.equals(signed)
    assert signature_matrix(read["signature"].chunk(0).slice(1)).tolist() == [[0xFFFFFFFF] * 112]


def test_sign_table_of_no_documents() -> None:
    empty = pa.table({"doc_id": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    assert sign_table(empty, 14, 8, 5).num_rows == 0


def test_sign_table_refuses_other_types() -> None:
    with pytest.raises(SchemaError, match="text is int64, expected string"):
        sign_table(pa.table({"doc_id": ["a"], "text": [1]}), 2, 2, 2)
    with pytest.raises(SchemaError, match="'text' is missing"):
        sign_table(pa.table({"doc_id": ["a"]}), 2, 2, 2)


@pytest.mark.parametrize("offsets", [[0, 9], [-1, 2], [0, 3, 2], []])
def test_offsets_outside_the_data_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="do not rise within the 4 bytes"):
        minhash.text_hashes(np.zeros(4, np.uint8), np.array(offsets, np.int64))


def test_band_keys_depend_on_band_and_rows() -> None:
    signatures = np.array([[1, 2, 1, 2], [1, 2, 3, 4], [2, 1, 1, 2]], np.uint32)
    keys = minhash.band_keys(signatures, 2, 2)
    assert keys[0, 0] == keys[1, 0]
    assert keys[0, 1] == keys[2, 1]
    assert len(set(keys.ravel().tolist())) == 4
    with pytest.raises(ValueError, match="3 bands x 2 rows do not fit 4 permutations"):
        minhash.band_keys(signatures, 3, 2)


def test_estimates_are_unbiased() -> None:
    """Of 2,000 texts with true Jaccard similarity 1/3, the mean estimate lies within four standard errors."""
    random = np.random.default_rng(0)
    pairs = []
    for _ in range(2000):
        numbers = random.integers(0, 1 << 40, 60)
        pairs += [" ".join(f"w{n}" for n in numbers[:40]), " ".join(f"w{n}" for n in numbers[20:])]
    signatures = minhash.sign(*text_buffers(arrow(list(pairs))), 1, *permutations(112)).signatures
    estimates = (signatures[::2] == signatures[1::2]).mean(axis=1)
    deviation = (1 / 3 * 2 / 3 / 112) ** 0.5
    assert abs(estimates.mean() - 1 / 3) < 4 * deviation / 2000**0.5
    assert 0.8 < estimates.std() / deviation < 1.2


def test_cache_folder_covers_the_sources_and_falls_back(tmp_path: Path) -> None:
    digest = pipeline.kernels.source_digest()
    assert pipeline.kernels.cache_folder(tmp_path) == tmp_path / "gristmill" / f"numba-{digest}"
    (tmp_path / "file").write_text("")
    private = pipeline.kernels.cache_folder(tmp_path / "file")
    assert private.is_dir()
    assert private.stat().st_mode & 0o077 == 0
    assert tmp_path not in private.parents
    assert pipeline.kernels.cache_folder(Path("~/.cache")).is_absolute()


def test_a_users_numba_cache_is_respected(tmp_path: Path) -> None:
    code = "import pipeline.kernels, numba; print(numba.config.CACHE_DIR)"
    for variables, expected in (
        ({"NUMBA_CACHE_DIR": str(tmp_path / "mine")}, str(tmp_path / "mine")),
        ({"XDG_CACHE_HOME": str(tmp_path)}, str(tmp_path / "gristmill" / f"numba-{pipeline.kernels.source_digest()}")),
    ):
        folder = Path(pipeline.kernels.__file__).parents[2]
        shown = subprocess.run([sys.executable, "-c", code], env=variables, cwd=folder, capture_output=True, text=True)
        assert shown.stdout.strip() == expected, shown.stderr
