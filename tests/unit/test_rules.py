"""Rules: what is refused, where, and what the message says."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.inputs.shipped import preset_names, preset_path
from pipeline.select.rules import DEFAULT_KEEP, BoundRules, RuleSet, check_rules, load_rules
from pipeline.table.errors import ConfigError, RuleError
from pipeline.table.query import column_types
from pipeline.table.schema import DOCUMENTS

COLUMNS = {
    "doc_id": "VARCHAR",
    "url": "VARCHAR",
    "date": "TIMESTAMP WITH TIME ZONE",
    "text_length": "BIGINT",
    "word_count": "INTEGER",
    "language": "VARCHAR",
    "language_score": "FLOAT",
    "quality_score": "FLOAT",
    "is_list": "BOOLEAN",
    "estimated_tokens": "DOUBLE",
    "tags": "VARCHAR[]",
    "spans": 'STRUCT(first BIGINT, "last" BIGINT)',
}


def bind(predicate: str) -> BoundRules:
    return check_rules(load_rules({"r": predicate}, "select.rules"), COLUMNS)


@pytest.mark.parametrize(
    ("predicate", "reads"),
    [
        ("language = 'en' and language_score >= 0.65", ("language", "language_score")),
        ("word_count between 50 and 100000", ("word_count",)),
        ("WORD_COUNT > 5", ("word_count",)),
        ("date > '2020-01-01'", ("date",)),
        ("date between date '2020-01-01' and '2021-01-01'", ("date",)),
        ("not is_list", ("is_list",)),
        ("is_list = 'yes'", ("is_list",)),
        ("url is not null and url not like '%/tag/%'", ("url",)),
        ("language in ('en', 'de')", ("language",)),
        ("quality_score > word_count / text_length", ("quality_score", "word_count", "text_length")),
        ("quality_score is distinct from null", ("quality_score",)),
        ("list_contains(tags, 'x')", ("tags",)),
        ("spans.last - spans.first > 3", ("spans",)),
        ("regexp_matches(url, '^https')", ("url",)),
        ("coalesce(quality_score, 0) > 0.1", ("quality_score",)),
        ("case when word_count > 5 then language = 'en' else false end", ("word_count", "language")),
        ("nullif(word_count, 0) > 1 and if(is_list, 1, 2) = 2", ("word_count", "is_list")),
        ("top_share(quality_score, 0.10)", ("quality_score",)),
        ("word_count > quantile(word_count, 0.05) or top_token_share(-text_length, .5)", ("word_count", "text_length")),
        ("true", ()),
        ("word_count > 5 -- a comment", ("word_count",)),
    ],
)
def test_good_predicates_bind_and_tell_what_they_read(predicate: str, reads: tuple[str, ...]) -> None:
    assert bind(predicate).rules[0].columns == reads


@pytest.mark.parametrize(
    ("predicate", "words"),
    [
        ("word_cuont > 5", ["unknown column 'word_cuont'", "nearest: 'word_count'"]),
        ("failed_pages = 0", ["unknown column 'failed_pages'; it is of signals_pages", "`format: pdf`"]),
        ("failed_page = 0", ["unknown column 'failed_page' (nearest:"]),
        ("quality > 0.5", ["unknown column 'quality'", "nearest: 'quality_score'"]),
        ("text LIKE '%x%'", ["rules do not read 'text'", "everything"]),
        ("Metadata->>'a' = 'b'", ["rules do not read 'Metadata'", "keep_columns: {lang: meta.lang}"]),
        ("origin.file = 'x'", ["rules do not read 'origin'"]),
        ("url.host = 'x'", ["unknown column 'url.host'", "nearest:"]),
        ("spans.lsat > 1", ["lsat"]),
        ("current_date > date", ["unknown column 'current_date'"]),
        ("quality_score", ["gives FLOAT", "comparison"]),
        ("quantile(quality_score, 0.5)", ["gives FLOAT"]),
        ("quality_score > 'abc'", ["compares text with a number", "FLOAT and VARCHAR"]),
        ("quality_score > '5'", ["compares text with a number"]),
        ("url = 5", ["compares text with a number", "VARCHAR and INTEGER"]),
        ("word_count between 1 and 'b'", ["compares text with a number"]),
        ("word_count in (1, 'b')", ["compares text with a number"]),
        ("length(url) > '5' and word_count > 1", ["compares text with a number", "length(url)"]),
        ("quality_score > cast('abc' as int)", ["abc"]),
        ("date > 'foo'", ["'foo'", "TIMESTAMP WITH TIME ZONE"]),
        ("is_list = 'perhaps'", ["'perhaps'", "BOOLEAN"]),
        ("url = null", ["NULL", "IS NULL"]),
        ("abs(url) > 1", ["abs(VARCHAR)"]),
        ("top_share(quality_score, 0)", ["above 0 and at most 1"]),
        ("top_share(quality_score, 1.01)", ["above 0 and at most 1"]),
        ("top_share(quality_score, word_count)", ["above 0 and at most 1"]),
        ("top_share(url, 0.1)", ["needs a number", "VARCHAR"]),
        ("top_share(quality_score)", ["an expression and a share"]),
        ("top_share(1, 0.5)", ["must read a column"]),
        ("top_share(quantile(word_count, 0.5), 0.5)", ["cannot contain another"]),
        ("url ~ '('", ["missing )"]),
    ],
)
def test_predicates_that_do_not_fit_the_columns(predicate: str, words: list[str]) -> None:
    with pytest.raises(RuleError) as caught:
        bind(predicate)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("select.rules: rule 'r': ")
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    "predicate",
    [
        "",
        "  ",
        "a) -- ",
        "a), (b",
        "a) as (b",
        "a) union select (b",
        "a) where (b",
        "a); drop table documents; select (1",
        "word_count > 5; select 1",
        "count(*) > 1",
        "sum(word_count) > 1",
        "sum(word_count) over () > 1",
        "word_count = (select max(word_count) from documents)",
        "word_count in (select 1)",
        "exists(select 1)",
        "random() > 0.5",
        "now() > date",
        "age(date) > interval 3 days",
        "current_setting('threads') = '1'",
        "getenv('HOME') = 'x'",
        "read_text('/etc/passwd') is null",
        "nextval('s') > 1",
        "main.abs(word_count) > 1",
        "word_count > $1",
        "word_count > ?",
        "#1 > 2",
        "*",
        "columns('w.*') > 1",
        "list_filter(tags, lambda x: x = 'a') = []",
        "unnest(tags) = 'x'",
        "abs(word_count) filter (where true) > 1",
        "selct (",
        "not " * 500 + "is_list",
        "+".join(["word_count"] * 2000) + " > 1",
        "word_count > 1 or " * 1000 + "is_list",
        "url = 'a\0b'",
    ],
)
def test_what_is_no_single_harmless_expression_is_refused(predicate: str) -> None:
    with pytest.raises(RuleError) as caught:
        load_rules({"r": predicate}, "select.rules")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("select.rules: rule 'r': ")
    assert len(str(caught.value)) < 500


def test_constants_carry_their_exact_share() -> None:
    (constant,) = bind("top_share(quality_score, 0.1) and word_count > 1").constants
    assert (constant.function, constant.argument, constant.share) == ("top_share", "quality_score", Fraction(1, 10))


def test_a_token_share_needs_tokens() -> None:
    rules = load_rules({"r": "top_token_share(word_count, 0.5)"}, "select.rules")
    with pytest.raises(RuleError, match="token_count or estimated_tokens"):
        check_rules(rules, {"word_count": "INTEGER"})


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"near_duplicate": "true"}, "built in"),
        ({"two words": "true"}, "'two words'"),
        ({True: "true"}, "True"),
        ({"r": 5}, "as text, got 5"),
        ({"r": True}, "as text, got True"),
        ({"r": ["a"]}, "as text"),
        (["a"], "must be a mapping"),
    ],
)
def test_names_and_types_of_rules(rules: object, words: str) -> None:
    with pytest.raises(RuleError, match=words):
        load_rules(rules, "select.rules")  # type: ignore[arg-type]


def test_an_order_of_election() -> None:
    rules = load_rules({}, "select.rules", "quality_score desc, length(url), url asc nulls last")
    assert [str(term) for term in rules.keep] == ["quality_score desc", "length(url) asc", "url asc"]
    assert [str(term) for term in load_rules({}, "select.rules").keep] == [
        part.strip() for part in DEFAULT_KEEP.split(",")
    ]


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ("", "expected an SQL expression"),
        ("quality_score desc limit 1", "expected terms"),
        ("1", "must read a column"),
        ("url nulls first", "nulls come last"),
        ("random()", "may call"),
        ("top_share(word_count, 0.1)", "only rules may call"),
        ("url; drop table x", "Only SELECT"),
    ],
)
def test_orders_that_are_refused(keep: str, words: str) -> None:
    with pytest.raises(RuleError, match=words) as caught:
        load_rules({}, "select.rules", keep)
    assert str(caught.value).startswith("select.keep: ")


def test_an_unknown_column_in_the_order() -> None:
    with pytest.raises(RuleError, match=r"select\.keep \(qualty_score desc\): .*nearest: 'quality_score'"):
        check_rules(load_rules({}, "select.rules", "qualty_score desc"), COLUMNS)


def write(path: Path, text: str) -> str:
    path.write_text(text, "utf-8")
    return str(path)


def test_a_rules_file_and_the_configs_own_order(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", "rules:\n  words: word_count > 5\nkeep: quality_score desc\n")
    rules = load_rules(path, "select.rules")
    assert [(rule.name, rule.sql) for rule in rules.rules] == [("words", "word_count > 5")]
    assert [str(term) for term in rules.keep] == ["quality_score desc"]
    assert [str(term) for term in load_rules(path, "select.rules", "url asc").keep] == ["url asc"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: {a: 'true', a: 'false'}\n", "given twice"),
        ("rule: {a: 'true'}\n", r"unknown key 'rule' \(nearest: 'rules'\)"),
        ("keep: url asc\n", "'rules' is missing"),
        ("rules: {a: 'true'}\nkeep: [url]\n", r"mine\.yaml:2: keep = \['url'\]: Input should be a valid string"),
        ("rules: {a: *x}\n", "YAML"),
        ("rules: [a]\n", r"mine\.yaml:1: rules = \['a'\]: Input should be a mapping"),
        ("", "empty"),
    ],
)
def test_rules_files_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_rules(write(tmp_path / "mine.yaml", text), "select.rules")
    assert "mine.yaml" in str(caught.value)


def test_a_bad_predicate_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", "rules:\n  words: word_cuont > 5\n")
    with pytest.raises(RuleError) as caught:
        check_rules(load_rules(path, "select.rules"), COLUMNS)
    assert str(caught.value).startswith(f"{path}: rule 'words': unknown column 'word_cuont'")


def test_missing_files_and_presets() -> None:
    with pytest.raises(ConfigError, match=r"select\.rules: absent/mine\.yaml is not a file"):
        load_rules("absent/mine.yaml", "select.rules")
    with pytest.raises(ConfigError, match=r"no preset is named 'readmee' \(nearest: 'readme'\)"):
        load_rules("readmee", "select.rules")
    with pytest.raises(ConfigError, match="no preset"):
        load_rules("..", "select.rules")


def named(rules: RuleSet) -> dict[str, str]:
    return {rule.name: rule.sql for rule in rules.rules}


def test_a_preset_changed_in_single_rules_keeps_its_order() -> None:
    plain = named(load_rules("fineweb", "select.rules"))
    changes = {"quality": "top_share(quality_score, 0.1)", "gopher_alpha_words": "alpha_word_ratio >= 0.7"}
    changed = load_rules({"extends": "fineweb", **changes, "c4_curly_bracket": None}, "select.rules")
    expected = {**plain, **changes}
    del expected["c4_curly_bracket"]
    assert list(named(changed).items()) == list(expected.items())
    assert list(expected)[-1] == "quality"
    assert [str(term) for term in changed.keep] == ["text_length desc", "url asc"]
    assert changed.origin == "select.rules"


def test_files_extend_files_and_hand_their_order_on(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", "rules: {a: word_count > 1, b: word_count > 2}\nkeep: quality_score desc\n")
    middle = write(tmp_path / "middle.yaml", f"rules: {{c: word_count > 3, extends: {base}, a: null}}\n")
    assert named(load_rules(middle, "select.rules")) == {"b": "word_count > 2", "c": "word_count > 3"}
    last = load_rules({"extends": middle, "b": "word_count > 9"}, "select.rules")
    assert named(last) == {"b": "word_count > 9", "c": "word_count > 3"}
    assert ([str(term) for term in last.keep], last.keep_origin) == (["quality_score desc"], f"{base}: keep")
    other = load_rules({"extends": middle}, "web.select.rules", "url asc")
    assert ([str(term) for term in other.keep], other.keep_origin) == (["url asc"], "web.select.keep")
    own = write(tmp_path / "own.yaml", f"rules: {{extends: {middle}}}\nkeep: url desc\n")
    assert [str(term) for term in load_rules(own, "select.rules").keep] == ["url desc"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"gopher_alpha_word": "true"},
            ["rule 'gopher_alpha_word'", "fineweb has no such rule", "'gopher_alpha_words'"],
        ),
        ({"curly_bracket": None}, ["rule 'curly_bracket'", "to take away", "nearest: 'c4_curly_bracket'"]),
        ({"zzz": None}, ["rule 'zzz'", "to take away", "gristmill rules show fineweb"]),
        ({"extends": "finweb"}, ["select.rules.extends", "no preset is named 'finweb'", "nearest: 'fineweb'"]),
        ({"extends": ["c4", "gopher"]}, ["select.rules: extends must be one preset's name", "['c4', 'gopher']"]),
        ({"extends": "absent.yaml"}, ["select.rules.extends", "absent.yaml is not a file"]),
        ({"c4_sentences": 5}, ["rule 'c4_sentences'", "got 5"]),
        ({"near_duplicate": None}, ["'near_duplicate' is built in"]),
    ],
)
def test_changes_of_a_preset_that_are_refused(changes: dict[str, object], words: list[str]) -> None:
    with pytest.raises((ConfigError, RuleError)) as caught:
        load_rules({"extends": "fineweb", **changes}, "select.rules")  # type: ignore[dict-item]
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("select.rules")
    assert [word for word in words if word not in str(caught.value)] == []


def test_null_without_a_preset_and_files_in_a_circle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="rule 'a': null takes a rule away, and there is none to take"):
        load_rules({"a": None}, "select.rules")
    write(tmp_path / "one.yaml", f"rules: {{extends: {tmp_path}/two.yaml}}\n")
    two = write(tmp_path / "two.yaml", f"rules: {{extends: {tmp_path}/one.yaml}}\n")
    with pytest.raises(ConfigError, match=r"one\.yaml\.extends: .*two\.yaml would extend itself"):
        load_rules(two, "select.rules")


def test_every_shipped_preset_parses() -> None:
    names = preset_names("rules")
    assert "readme" in names
    for name in names:
        path = preset_path("rules", name)
        assert path is not None
        assert load_rules(name, "select.rules").origin == str(path)
    assert preset_path("rules", "../rules/readme") is None


def test_arrow_schemas_become_duckdb_types() -> None:
    types = column_types(DOCUMENTS)
    assert (types["date"], types["url"]) == ("TIMESTAMP WITH TIME ZONE", "VARCHAR")
    assert types["origin"].startswith("STRUCT(")
