"""Text statistics: every number that the Gopher, C4 and FineWeb rules ask for, as narrow columns beside the documents.

`COLUMNS` has each column's type and definition, in order. Formulas are datatrove's (`gopher_quality_filter.py`,
`gopher_repetition_filter.py`, `c4_filters.py`, `fineweb_quality_filter.py` at commit a649de7, 2026-08-13), so that
thresholds written for it mean the same here; the same names mean other formulas elsewhere (of four lines with one
repeat the duplicate line fraction is 0.25 here and 0.50 in Dolma). Where this differs from datatrove:

- Words are split by the rule in `pipeline.kernels.statistics.word_split`, not by spaCy. A word counts for `word_count`
  when it holds a letter, mark or number of any script; datatrove uses a list of punctuation, for which "•" is a word.
- N-grams are compared word by word; datatrove joins duplicate n-grams without a separator, so "of terms" equals
  "oft erms". A top n-gram must occur twice; datatrove also counts one that is seen once.
- A ratio whose denominator is zero is 0; datatrove raises ZeroDivisionError or drops the document.
- Sentences are counted by line (a line break ends one), by the rule of spaCy's sentencizer.
- C4's phrases are found without regard to the case of ASCII letters only; "[1]" is a citation for ASCII digits only.
- FineWeb's own rules see the lines that C4 leaves, as in its recipe: the columns `fineweb_*`. The same numbers for the
  whole text are `line_punct_ratio`, `short_line_ratio`, `duplicate_line_char_ratio` and `newline_word_ratio`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.kernels.characters import UNICODE_VERSION, Bytes
from pipeline.kernels.statistics.text_stats import Count, count_texts
from pipeline.kernels.statistics.word_split import Ints
from pipeline.table import schema
from pipeline.table.schema import text_buffers

VERSION: Final = f"text_stats_v1 unicode {UNICODE_VERSION}"

CountAll = Callable[[Bytes, Ints], Ints]
"""A kernel: UTF-8 bytes and n + 1 positions to counts, shape (m, n)."""
Numbers = npt.NDArray[np.int64] | npt.NDArray[np.float64] | npt.NDArray[np.bool_]


class Statistic(NamedTuple):
    """A column's Arrow type, its definition, and how it follows from the kernel's counts, shape (len(Count), n)."""

    type: pa.DataType
    meaning: str
    compute: Callable[[npt.NDArray[np.int64]], Numbers]


def count(number: IntEnum, meaning: str) -> Statistic:
    """Return a column that is one of the kernel's counts."""
    return Statistic(pa.int64(), meaning, lambda counts: counts[number])


def flag(number: IntEnum, meaning: str) -> Statistic:
    """Return a column that says whether one of the kernel's counts is above 0."""
    return Statistic(pa.bool_(), meaning, lambda counts: counts[number] > 0)


def ratio(numerator: IntEnum, denominator: IntEnum, meaning: str) -> Statistic:
    """Return a column that is one count by another, 0 where that is 0."""
    return Statistic(pa.float64(), meaning, lambda counts: divide(counts[numerator], counts[denominator]))


def divide(numerator: npt.NDArray[np.int64], denominator: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Divide, with 0 where the denominator is 0."""
    result = np.zeros(len(numerator), np.float64)
    return np.divide(numerator, denominator, out=result, where=denominator != 0)


def _chars_without_newlines(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    chars: npt.NDArray[np.int64] = counts[Count.text_length] - counts[Count.newlines]
    return chars


def _fineweb_newlines(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    newlines: npt.NDArray[np.int64] = np.maximum(counts[Count.fineweb_lines] - 1, 0)
    return newlines


_C4 = "lines that C4 keeps (3 words or more, none over 1,000 characters, no 'javascript', no policy phrase)"
_C4_FULL = f"{_C4} and that end in . ? ! \" ' but not in ..."
_NGRAMS = (
    "characters, spaces left out, in word {n}-grams that repeat an earlier one, found from the left without overlap"
)
_TOP = "characters in all occurrences of the most frequent word {n}-gram, 0 if none occurs twice; overlaps count"

COLUMNS: Final[dict[str, Statistic]] = {
    "text_length": count(Count.text_length, "code points"),
    "text_bytes": count(Count.text_bytes, "bytes in UTF-8"),
    "estimated_tokens": Statistic(pa.float64(), "text_bytes / 4", lambda counts: counts[Count.text_bytes] / 4),
    "word_count": count(Count.words, "words with a letter, mark or number in them"),
    "word_and_symbol_count": count(Count.tokens, "words and stand-alone symbols; the denominator of word ratios"),
    "mean_word_length": ratio(Count.word_chars, Count.words, "code points a word, over the words of word_count"),
    "alpha_word_ratio": ratio(Count.alpha_words, Count.tokens, "share of word_and_symbol_count that holds a letter"),
    "stop_word_count": count(
        Count.stop_words, "how many of the, be, to, of, and, that, have, with occur in lower case (0 to 8)"
    ),
    "hash_word_ratio": ratio(Count.hashes, Count.tokens, "number signs per word_and_symbol_count"),
    "ellipsis_word_ratio": ratio(Count.ellipses, Count.tokens, "'...' and '…' per word_and_symbol_count"),
    "sentence_count": count(Count.sentences, "sentences, line by line"),
    "digit_ratio": ratio(Count.digits, Count.text_length, "share of code points that are decimal digits"),
    "uppercase_ratio": ratio(Count.capitals, Count.text_length, "share of code points that are capitals"),
    "whitespace_ratio": ratio(Count.spaces, Count.text_length, "share of code points that are whitespace"),
    "url_count": count(Count.urls, "occurrences of '://'"),
    "line_count": count(Count.lines, "lines by str.splitlines(), empty ones included"),
    "bullet_line_ratio": ratio(Count.bullet_lines, Count.lines, "share of lines that begin with • or -"),
    "ellipsis_line_ratio": ratio(Count.ellipsis_lines, Count.lines, "share of lines that end in '...' or '…'"),
    "terminal_punctuation_line_ratio": ratio(
        Count.punctuated_lines, Count.lines, "share of lines that end in . ? ! \" ' but not in '...'"
    ),
    "few_word_line_count": count(Count.few_word_lines, "lines of one or two words by str.split()"),
    "long_word_line_count": count(Count.long_word_lines, "lines with a word of over 1,000 code points by str.split()"),
    "javascript_line_count": count(Count.javascript_lines, "lines that hold 'javascript' in any case"),
    "policy_line_count": count(
        Count.policy_lines,
        "lines that hold 'terms of use', 'privacy policy', 'cookie policy', 'uses cookies', 'use of cookies' or "
        "'use cookies' in any case",
    ),
    "has_lorem_ipsum": flag(Count.lorem_ipsum_lines, "whether 'lorem ipsum' occurs, in any case"),
    "has_curly_bracket": flag(Count.curly_bracket_lines, "whether { occurs"),
    "duplicate_line_fraction": ratio(
        Count.run_line_duplicates,
        Count.run_lines,
        "share of lines, split at runs of newlines, that repeat an earlier one",
    ),
    "duplicate_line_char_fraction": ratio(
        Count.run_line_duplicate_chars, Count.text_length, "code points in those lines per text_length"
    ),
    "duplicate_paragraph_fraction": ratio(
        Count.paragraph_duplicates,
        Count.paragraphs,
        "share of paragraphs, split at two or more newlines in the stripped text, that repeat an earlier one",
    ),
    "duplicate_paragraph_char_fraction": ratio(
        Count.paragraph_duplicate_chars, Count.text_length, "code points in those paragraphs per text_length"
    ),
    **{
        f"top_{n}gram_char_fraction": ratio(
            Count[f"top_{n}gram_chars"], Count.text_length, f"{_TOP.format(n=n)}; per text_length"
        )
        for n in (2, 3, 4)
    },
    **{
        f"duplicate_{n}gram_char_fraction": ratio(
            Count[f"duplicate_{n}gram_chars"], Count.text_length, f"{_NGRAMS.format(n=n)}; per text_length"
        )
        for n in (5, 6, 7, 8, 9, 10)
    },
    "line_punct_ratio": ratio(
        Count.terminal_lines,
        Count.text_lines,
        "share of lines, split at newlines and not blank, whose last character ends a sentence in any script",
    ),
    "short_line_ratio": ratio(Count.short_lines, Count.text_lines, "share of those lines of 30 code points or fewer"),
    "duplicate_line_char_ratio": Statistic(
        pa.float64(),
        "code points in those lines that repeat an earlier one, per code points that are not newlines",
        lambda counts: divide(counts[Count.text_line_duplicate_chars], _chars_without_newlines(counts)),
    ),
    "newline_word_ratio": ratio(Count.newlines, Count.tokens, "newlines per word_and_symbol_count"),
    "c4_line_count": count(Count.c4_lines, _C4_FULL),
    "c4_sentence_count": count(Count.c4_sentences, "sentences in the lines of c4_line_count"),
    "c4_lorem_ipsum": flag(
        Count.c4_lorem_ipsum_lines, "whether 'lorem ipsum' is in a line of enough words and with end punctuation"
    ),
    "c4_curly_bracket": flag(
        Count.c4_curly_bracket_lines, "whether { is in such a line without 'javascript': C4 drops the document"
    ),
    "fineweb_line_count": count(Count.fineweb_lines, f"{_C4}; their end is of no matter"),
    "fineweb_sentence_count": count(Count.fineweb_sentences, "sentences in the lines of fineweb_line_count"),
    "fineweb_lorem_ipsum": flag(Count.fineweb_lorem_ipsum_lines, "whether 'lorem ipsum' is in a line of enough words"),
    "fineweb_curly_bracket": flag(
        Count.fineweb_curly_bracket_lines, "whether { is in such a line without 'javascript'"
    ),
    "fineweb_line_punct_ratio": ratio(
        Count.fineweb_terminal_lines, Count.fineweb_text_lines, "line_punct_ratio over the lines of fineweb_line_count"
    ),
    "fineweb_short_line_ratio": ratio(
        Count.fineweb_short_lines, Count.fineweb_text_lines, "short_line_ratio over the lines of fineweb_line_count"
    ),
    "fineweb_duplicate_line_char_ratio": ratio(
        Count.fineweb_duplicate_chars,
        Count.fineweb_chars,
        "duplicate_line_char_ratio over the lines of fineweb_line_count",
    ),
    "fineweb_newline_word_ratio": Statistic(
        pa.float64(),
        "newline_word_ratio over the lines of fineweb_line_count",
        lambda counts: divide(_fineweb_newlines(counts), counts[Count.fineweb_tokens]),
    ),
}


def text_stats(documents: pa.Table) -> pa.Table:
    """Return `doc_id` and every column of `COLUMNS` for each row of `documents`, in order; no row can drop.

    Reads the Arrow buffers of `text` in place, chunk by chunk and sliced or not. A null text counts as an empty one.
    Releases the GIL while it counts.

    Raises: SchemaError when `doc_id` or `text` is missing or `text` is neither string nor large_string.
    """
    return measured(documents, count_texts, len(Count), COLUMNS)


def measured(documents: pa.Table, count_all: CountAll, num_counts: int, columns: Mapping[str, Statistic]) -> pa.Table:
    """Return `doc_id` and `columns`, made from what a kernel counts in `text`: see `text_stats`."""
    schema.require(documents, schema.DOC_ID, schema.TEXT)
    texts = documents[schema.TEXT]
    parts = [count_all(*text_buffers(chunk)) for chunk in texts.chunks]
    counts = np.concatenate(parts, axis=1) if parts else np.zeros((num_counts, 0), np.int64)
    made = {name: pa.array(column.compute(counts), column.type) for name, column in columns.items()}
    return schema.signals(documents, **made)
