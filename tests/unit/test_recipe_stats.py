"""The recipes' statistics and the presets on them: golden vectors, and each rule at its border, in literal texts."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from flows.config import StageConfigs
from flows.stages import added_groups
from pipeline.inputs.shipped import preset_names
from pipeline.select.rules import check_rules, load_rules
from pipeline.select.wide_table import planned_columns
from pipeline.signals.recipe_stats import COLUMNS, recipe_stats
from pipeline.signals.text_stats import text_stats
from pipeline.table.errors import RuleError

FOUR_LINES = "The cat sat.\nA dog ran.\nThe cat sat.\nIt was late."
PAGE = (
    "Sign-in here please\n3 likes\n● 1.2K followers!\nMenu\nBUY NOW\n2024\n\n"
    "Of the 3.14 don't and a_b, U.S. #tag. . . wait... Read more...\n"
    "Read more...\nADD 5 items in cart to of the\n"
)
GOLDEN: list[tuple[str, dict[str, object]]] = [
    ("", dict.fromkeys(COLUMNS, 0)),
    (
        FOUR_LINES,
        {
            "refinedweb_duplicate_line_fraction": 0.5,  # 0.25 in datatrove's formula
            "refinedweb_duplicate_line_char_fraction": 24 / 46,
            "refinedweb_mean_word_length": 38 / 12,
            "refinedweb_top_2gram_char_fraction": 2 * len("Thecat") / 34,
            "refinedweb_top_3gram_char_fraction": 2 * len("Thecatsat") / 34,
            "refinedweb_duplicate_5gram_char_fraction": 0.0,
            "refinedweb_stop_word_count": 2,
            "dolma_required_word_count": 0,
            "dolma_duplicate_line_fraction": 0.5,
            "dolma_duplicate_line_char_fraction": 24 / 38,
            "dolma_top_4gram_char_fraction": len("Thecatsat.A") / 38,  # the first, since none repeats
            "dolma3_sentence_count": 4,
        },
    ),
    (
        PAGE,
        {
            "refinedweb_word_count": 31,  # of 35; "●", "#tag." and two "." begin with no letter or number
            "refinedweb_symbol_ratio": 5 / 35,  # one #, one ". . .", three "..."
            # "here please", "Of ... more...", "ADD 5 to of the"
            "refinedweb_removed_word_ratio": 14 / 31,
            "refinedweb_bullet_line_ratio": 1 / 9,
            "refinedweb_ellipsis_line_ratio": 2 / 9,
            "dolma_bullet_line_ratio": 0.0,
            "dolma_symbol_word_ratio": 1 / 35,
        },
    ),
    ("a.b c:d 3.14 1,000 don't x-y ３ ab\u0301c", {"dolma3_word_count": 9}),
    ("漢字かな カタカナ ไทย _x x_y ²", {"dolma3_word_count": 10}),
    ("one\n\ntwo\n\n\n\none", {"refinedweb_duplicate_paragraph_fraction": 2 / 3}),
    ("a a a a", {"refinedweb_top_2gram_char_fraction": 6 / 4, "refinedweb_duplicate_5gram_char_fraction": 0.0}),
    ("a b c d e x a b c d e", {"refinedweb_duplicate_5gram_char_fraction": 10 / 11}),
    ("ab cdefg", {"dolma_median_word_length": 3.5}),
]


def unique(count: int) -> str:
    """Return different words of two letters."""
    return " ".join(chr(97 + i // 26) + chr(97 + i % 26) for i in range(count))


def twice(size: int, words: int) -> str:
    """Return words of two letters, of which the first n-gram of a size comes again at the end, and nothing else."""
    text = unique(words - size).split()
    return " ".join([*text, *text[:size]])


def lines(marked: int, count: int, line: str) -> str:
    """Return lines of two letters, the first `marked` as `line` has them."""
    return "\n".join(line.format(word) if i < marked else word for i, word in enumerate(unique(count).split()))


REFINEDWEB: list[tuple[str, str, str]] = [
    ("refinedweb_words", "of " * 50, "of " * 49),
    ("refinedweb_words", "a " * 100_000, "a " * 100_001),
    ("refinedweb_word_length", "abc def", "abc de"),
    ("refinedweb_word_length", "a" * 10, "a" * 11),
    ("refinedweb_symbols", "a b c d e f g h i j#", "a b c d e f g h i#"),
    ("refinedweb_symbols", f"{unique(6)} a. . . b", f"{unique(15)} a. . . b…"),
    ("refinedweb_bullet_lines", lines(9, 10, "● {}"), lines(10, 10, "● {}")),
    ("refinedweb_bullet_lines", lines(9, 10, "* {}"), lines(19, 20, " - {}")),
    ("refinedweb_ellipsis_lines", lines(3, 10, "{}. . ."), lines(4, 10, "{}. . .")),
    ("refinedweb_alpha_words", "a b c d e f g h 1 -", "a b c d e f g 1 2 -"),
    ("refinedweb_stop_words", "The theory of", "The theory of1"),
    ("refinedweb_stop_words", "THE the", "the"),
    ("refinedweb_duplicate_lines", lines(3, 10, " same "), lines(4, 10, " same ")),
    ("refinedweb_duplicate_paragraphs", "a\n\na\n\n\na\n\n" + "\n\n".join(unique(7).split()), "a\n\na\n\nb\n\nc\n\nd"),
    ("refinedweb_duplicate_line_chars", "aa\naa\n" + "b" * 16, "aa\naa\n" + "b" * 15),
    ("refinedweb_duplicate_paragraph_chars", "aa\n\naa\n\n" + "b" * 16, "aa\n\naa\n\n" + "b" * 15),
    ("refinedweb_top_2gram", twice(2, 20), twice(2, 19)),
    ("refinedweb_top_3gram", twice(3, 34), twice(3, 33)),
    ("refinedweb_top_4gram", twice(4, 50), twice(4, 49)),
    ("refinedweb_duplicate_5grams", twice(5, 67), twice(5, 66)),
    ("refinedweb_duplicate_6grams", twice(6, 86), twice(6, 85)),
    ("refinedweb_duplicate_7grams", twice(7, 108), twice(7, 107)),
    ("refinedweb_duplicate_8grams", twice(8, 134), twice(8, 133)),
    ("refinedweb_duplicate_9grams", twice(9, 164), twice(9, 163)),
    ("refinedweb_duplicate_10grams", twice(10, 200), twice(10, 199)),
    ("removed_words", f"{unique(19)}\nMenu", f"{unique(18)}\nMenu"),
    ("removed_words", f"{unique(38)}\n12 likes", f"{unique(37)}\n12 likes"),
    ("removed_words", f"{unique(38)}\nabCD efGH", f"{unique(37)}\nABCD EfGH"),
]
DOLMA: list[tuple[str, str, str]] = [
    ("dolma_words", "• " * 50, "• " * 49),
    ("dolma_word_length", "ab abc abc", "ab ab abc"),
    ("dolma_word_length", "a " + "b" * 10, "a " + "b" * 20),
    ("dolma_symbols", "a b c d e f g h i j##", "a b c d e f g h …i"),
    ("dolma_symbols", "a... " * 5, "a… " * 5),
    ("dolma_alpha_words", "a b c d e f g h 1 -", "a b c d e f g 1 2 -"),
    ("dolma_stop_words", "the the", "The the"),
    ("dolma_bullet_lines", lines(9, 10, "* {}"), lines(10, 10, "* {}")),
    ("dolma_bullet_lines", lines(10, 10, "• {}"), lines(10, 10, "- {}")),
    ("dolma_ellipsis_lines", lines(3, 10, "{}…"), lines(4, 10, "{}…")),
    ("dolma_duplicate_lines", lines(3, 10, "same"), lines(4, 10, "same")),
    ("dolma_duplicate_lines", lines(4, 10, "same {}"), lines(4, 12, "same\n")),
    ("dolma_duplicate_line_chars", "aaa\naaa\n" + "b" * 14, "aaa\naaa\n" + "b" * 13),
    ("dolma_top_2gram", twice(2, 20), twice(2, 19)),
    ("dolma_top_2gram", "ab cd" + " " + unique(8), "ab cd " + unique(7)),
    ("dolma_top_3gram", twice(3, 34), twice(3, 33)),
    ("dolma_top_4gram", twice(4, 50), twice(4, 49)),
    ("dolma_duplicate_5grams", twice(5, 18), twice(5, 17)),
    ("dolma_duplicate_6grams", twice(6, 20), twice(6, 19)),
    ("dolma_duplicate_7grams", twice(7, 22), twice(7, 21)),
    ("dolma_duplicate_8grams", twice(8, 24), twice(8, 23)),
    ("dolma_duplicate_9grams", twice(9, 27), twice(9, 26)),
    ("dolma_duplicate_10grams", twice(10, 29), twice(10, 28)),
]
LIST = "Ab " * 7 + "cd " * 5
OTHERS: list[tuple[str, str, str, str]] = [
    ("dolma3-web", "refinedweb_words", "of " * 50, "of " * 49),
    ("dolma3-web", "characters", "a" * 150, "a" * 149),
    ("dolma3-web", "sentences", "A b. C d! E f? G h... I j", "A b. C d! E f? G h...I j"),
    ("dolma3-web", "list_sentences", f"a. b. c. d. e. {LIST}", f"a. b. c. d. {LIST}"),
    ("dolma3-web", "list_sentences", f"a. b. c. d. {LIST}ef ef", f"a. b. c. d. {LIST}ef"),
    ("common-pile", "characters", "a" * 101, "a" * 100),
    ("common-pile", "javascript", "Java script", "Enable JavaScript."),
    ("common-pile", "curly_bracket", "(x)", "{x}"),
    ("common-pile", "lorem_ipsum", "lorem", "Lorem Ipsum"),
    ("mc4", "mc4_long_lines", f"{'a' * 200}\n" * 3, f"{'a' * 200}\n{'b' * 199}\n{'c' * 200}"),
]
BORDERS = [*(("refinedweb", *case) for case in REFINEDWEB), *(("gopher-dolma", *case) for case in DOLMA), *OTHERS]
ON_RECIPES = ["common-pile", "dclm", "dolma3-web", "gopher-dclm", "gopher-dolma", "mc4", "refinedweb"]


def wide(texts: list[str], **constants: object) -> pa.Table:
    """Return what rules read of some texts."""
    documents = pa.table({"doc_id": [f"{i:032x}" for i in range(len(texts))], "text": texts})
    table = recipe_stats(documents)
    stats = text_stats(documents)
    for name in stats.column_names[1:]:
        table = table.append_column(name, stats[name])
    for name, value in constants.items():
        table = table.append_column(name, pa.array([value] * len(texts)))
    return table


def passes(table: pa.Table, predicates: list[str]) -> list[list[bool]]:
    """Return whether each row passes each predicate; null fails."""
    connection = duckdb.connect()
    connection.register("wide", table)
    columns = ", ".join(f"coalesce({predicate}, false)" for predicate in predicates)
    return [list(row) for row in connection.execute(f"SELECT {columns} FROM wide").fetchall()]


@pytest.mark.parametrize(("text", "expected"), GOLDEN)
def test_golden(text: str, expected: dict[str, object]) -> None:
    row = wide([text]).to_pylist()[0]
    assert {name: row[name] for name in expected} == expected


def test_each_rule_at_its_border() -> None:
    rules = {preset: {rule.name: rule.sql for rule in load_rules(preset, "test").rules} for preset in ON_RECIPES}
    table = wide([text for *_, inside, outside in BORDERS for text in (inside, outside)])
    found = passes(table, [rules[preset][name] for preset, name, *_ in BORDERS])
    wrong = {
        (preset, name): (found[2 * i][i], found[2 * i + 1][i])
        for i, (preset, name, *_) in enumerate(BORDERS)
        if (found[2 * i][i], found[2 * i + 1][i]) != (True, False)
    }
    assert not wrong
    tested = {(preset, name) for preset, name, *_ in BORDERS} | {("refinedweb", "language")}
    assert tested >= {(preset, name) for preset in ("refinedweb", "gopher-dolma", "mc4") for name in rules[preset]}


@pytest.mark.parametrize(
    ("preset", "rule", "inside", "outside"),
    [
        ("refinedweb", "language", {"language": "en", "language_score": 0.66}, {"language_score": 0.65}),
        ("dolma3-web", "language", {"language": "en", "language_score": 0.65}, {"language_score": 0.64}),
        ("common-pile", "language", {"language": "en", "language_score": 0.51}, {"language_score": 0.5}),
        ("common-pile", "language", {"language": "en", "language_score": 0.51}, {"language": "de"}),
        ("common-pile", "licence", {"licence": "CC-BY-SA-3.0-DE"}, {"licence": "CC-BY-NC-SA-3.0"}),
        ("common-pile", "licence", {"licence": "CC-BY-4.0"}, {"licence": "CC-BY-ND-4.0"}),
        ("common-pile", "licence", {"licence": "CC0-1.0"}, {"licence": None}),
        ("common-pile", "licence", {"licence": "CC-PDDC"}, {"licence": "CC-SA-1.0-NC"}),
    ],
)
def test_rules_on_language_and_licence(
    preset: str, rule: str, inside: dict[str, object], outside: dict[str, object]
) -> None:
    (sql,) = (each.sql for each in load_rules(preset, "test").rules if each.name == rule)
    columns = {"language": "", "language_score": 0.0, "licence": ""} | inside
    assert passes(wide([""], **columns), [sql]) == [[True]]
    changed = pa.table(
        {name: pa.array([value], type=pa.scalar(columns[name]).type) for name, value in (columns | outside).items()}
    )
    assert passes(changed, [sql]) == [[False]]


@pytest.mark.parametrize("preset", ON_RECIPES)
def test_a_preset_says_where_it_is_from_and_has_what_it_reads(preset: str) -> None:
    text = (Path(__file__).resolve().parents[2] / "configs" / "rules" / f"{preset}.yaml").read_text("utf-8")
    assert "\n# Source: " in text
    assert "\n# Date: " in text
    for rules in (preset, {"extends": preset, "short": "text_length > 5"}):
        config = StageConfigs.model_validate({"select": {"rules": rules}, "classify": {"quality": {"model": "m"}}})
        assert check_rules(load_rules(rules, "test"), planned_columns(added_groups(config)))


def test_recipe_stats_are_measured_where_a_rule_reads_one() -> None:
    read = {
        preset
        for preset in preset_names("rules")
        if "signals/recipe_stats" in added_groups(StageConfigs.model_validate({"select": {"rules": preset}}))
    }
    assert read == set(ON_RECIPES)
    for config in ({"annotate": {"recipe_stats": True}}, {"select": {"keep": "Dolma_Word_Count desc"}}):
        assert "signals/recipe_stats" in added_groups(StageConfigs.model_validate(config))


def test_what_is_not_measured_says_how_it_is() -> None:
    columns = planned_columns(added_groups(StageConfigs()))
    with pytest.raises(
        RuleError, match=r"rule 'quality': unknown column 'quality_score'.*add `classify: \{quality: \{model:"
    ):
        check_rules(load_rules("dclm", "test"), {**columns, **dict.fromkeys(COLUMNS, "DOUBLE")})
    with pytest.raises(RuleError, match=r"unknown column 'refinedweb_word_count'.*annotate\.recipe_stats=true"):
        check_rules(load_rules("refinedweb", "test"), columns)
