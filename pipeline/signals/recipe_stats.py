"""Statistics by the formulas of other recipes than datatrove's: RefinedWeb's as DCLM has them, Dolma's, Dolma 3's.

One name means other numbers in other projects: of four lines with one repeat the duplicate line fraction is 0.25 in
datatrove (`duplicate_line_fraction`), 0.50 in DCLM and Dolma. Each column here bears the name of whose formula it is:

- `refinedweb_*`: mlfoundations/dclm `baselines/mappers/filters/content_filters.py` and `modifiers.py`, commit 361714b,
  2025-09-08, with the arguments of `baselines_configs/dclm_baseline_refinedweb.yaml`.
- `dolma_*`: allenai/dolma `python/dolma/taggers/gopher.py`, tagger gopher_v2, commit 669f534, 2025-09-18.
- `dolma3_*`: allenai/datamap-rs `src/map_fxn.rs`, commit f771794, 2026-03-06.
- `mc4_*`: huggingface/datatrove `c4_filters.py` (C4ParagraphFilter), commit a649de7, 2026-08-13.

A group of its own, measured for sources whose rules read one of these columns: a third more work than the text
statistics, of which most recipes need nothing. A ratio over nothing is 0.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from pipeline.kernels.characters import UNICODE_VERSION
from pipeline.kernels.statistics.recipe_stats import RecipeCount, count_recipes
from pipeline.signals.text_stats import Statistic, count, divide, measured, ratio

VERSION: Final = f"recipe_stats_v1 unicode {UNICODE_VERSION}"

_UNICODE = "words of Unicode's annex 29 that begin with a letter or number"
_REPEATS = "of which every occurrence counts"

COLUMNS: Final[dict[str, Statistic]] = {
    "refinedweb_word_count": count(
        RecipeCount.fasttext_words, "words between ASCII white space whose first character is a letter or number"
    ),
    "refinedweb_mean_word_length": ratio(
        RecipeCount.split_word_chars, RecipeCount.split_words, "code points a word by str.split()"
    ),
    "refinedweb_symbol_ratio": ratio(
        RecipeCount.symbols, RecipeCount.split_words, "'#', '...', '. . .' and '…' per word by str.split()"
    ),
    "refinedweb_bullet_line_ratio": ratio(
        RecipeCount.bullet_lines,
        RecipeCount.lines,
        "share of lines, stripped and not empty, that begin with ●, •, * or -",
    ),
    "refinedweb_ellipsis_line_ratio": ratio(
        RecipeCount.ellipsis_lines, RecipeCount.lines, "share of those lines that end in '...', '. . .' or '…'"
    ),
    "refinedweb_alpha_word_ratio": ratio(
        RecipeCount.alpha_words, RecipeCount.split_words, "share of words by str.split() that hold a letter"
    ),
    "refinedweb_stop_word_count": count(
        RecipeCount.stop_words,
        "how often the, be, to, of, and, that, have, with occur, in any case, among words by str.split()",
    ),
    "refinedweb_duplicate_line_fraction": ratio(
        RecipeCount.duplicate_lines,
        RecipeCount.lines,
        f"share of lines, stripped and not empty, that occur twice; {_REPEATS}",
    ),
    "refinedweb_duplicate_line_char_fraction": ratio(
        RecipeCount.duplicate_line_chars, RecipeCount.line_chars, "share of those lines' code points in such lines"
    ),
    "refinedweb_duplicate_paragraph_fraction": ratio(
        RecipeCount.duplicate_paragraphs,
        RecipeCount.paragraphs,
        f"share of paragraphs, split at two or more newlines, stripped and not empty, that occur twice; {_REPEATS}",
    ),
    "refinedweb_duplicate_paragraph_char_fraction": ratio(
        RecipeCount.duplicate_paragraph_chars,
        RecipeCount.paragraph_chars,
        "share of those paragraphs' code points in such ones",
    ),
    **{
        f"refinedweb_top_{n}gram_char_fraction": ratio(
            RecipeCount[f"refinedweb_{n}gram_chars"],
            RecipeCount.unicode_word_chars,
            f"characters in all occurrences of the most frequent {n}-gram, the longest among equals, 0 if none occurs "
            f"twice; per character of all {_UNICODE}",
        )
        for n in (2, 3, 4)
    },
    **{
        f"refinedweb_duplicate_{n}gram_char_fraction": ratio(
            RecipeCount[f"refinedweb_{n}gram_chars"],
            RecipeCount.unicode_word_chars,
            f"characters of all those words that are in a {n}-gram which occurs twice; {_REPEATS}; per the same",
        )
        for n in (5, 6, 7, 8, 9, 10)
    },
    "refinedweb_removed_word_ratio": Statistic(
        pa.float64(),
        "share of refinedweb_word_count that RefinedWeb's edits of lines take: lines of more than half capitals, of "
        "digits alone, of a number and what it counts ('3 likes'), of one word; in lines of at most 10 words 'items in "
        "cart', 'read more...' at the end, 'sign-in' at the beginning",
        lambda counts: divide(
            counts[RecipeCount.fasttext_words] - counts[RecipeCount.fasttext_words_left],
            counts[RecipeCount.fasttext_words],
        ),
    ),
    "dolma_word_count": count(RecipeCount.split_words, "words by str.split()"),
    "dolma_median_word_length": Statistic(
        pa.float64(), "median of their code points, at most 255", lambda counts: counts[RecipeCount.median_twice] / 2
    ),
    "dolma_symbol_word_ratio": ratio(
        RecipeCount.symbol_words, RecipeCount.split_words, "share of those words that hold '#' or '…'"
    ),
    "dolma_required_word_count": count(
        RecipeCount.required_words,
        "how often the, be, to, of, and, that, have, with occur among those words, in lower case",
    ),
    "dolma_bullet_line_ratio": ratio(
        RecipeCount.raw_bullet_lines,
        RecipeCount.raw_lines,
        "share of lines, split at runs of newlines, that begin with * or -",
    ),
    "dolma_ellipsis_line_ratio": ratio(
        RecipeCount.raw_ellipsis_lines, RecipeCount.raw_lines, "share of those lines that end in '…'"
    ),
    "dolma_duplicate_line_fraction": ratio(
        RecipeCount.raw_duplicate_lines, RecipeCount.raw_lines, f"share of those lines that occur twice; {_REPEATS}"
    ),
    "dolma_duplicate_line_char_fraction": ratio(
        RecipeCount.raw_duplicate_line_chars,
        RecipeCount.split_word_chars,
        "code points in such lines per code point of the words",
    ),
    **{
        f"dolma_top_{n}gram_char_fraction": ratio(
            RecipeCount[f"dolma_{n}gram_chars"],
            RecipeCount.split_word_chars,
            f"code points in all occurrences of the most frequent {n}-gram of the words, the first among equals, also "
            "where it occurs once; per code point of the words",
        )
        for n in (2, 3, 4)
    },
    **{
        f"dolma_duplicate_{n}gram_char_fraction": ratio(
            RecipeCount[f"dolma_{n}gram_chars"],
            RecipeCount[f"all_{n}gram_chars"],
            f"code points in all {n}-grams of the words that occur twice, per code point in all; overlaps count",
        )
        for n in (5, 6, 7, 8, 9, 10)
    },
    "dolma3_word_count": count(RecipeCount.unicode_words, _UNICODE),
    "dolma3_sentence_count": count(
        RecipeCount.sentences, "stretches that end where white space follows ., ! or ?; blank ones are none"
    ),
    "dolma3_list_sentence_ratio": ratio(
        RecipeCount.list_sentences,
        RecipeCount.sentences,
        "share of those with 12 words or more, more than half of them capitalised",
    ),
    "mc4_long_line_count": count(RecipeCount.long_lines, "lines, split at newlines, of 200 code points or more"),
}


def recipe_stats(documents: pa.Table) -> pa.Table:
    """Return `doc_id` and every column of `COLUMNS` for each row of `documents`, in order; no row can drop.

    A null text counts as an empty one. Releases the GIL while it counts.

    Raises: SchemaError when `doc_id` or `text` is missing or `text` is neither string nor large_string.
    """
    return measured(documents, count_recipes, len(RecipeCount), COLUMNS)
