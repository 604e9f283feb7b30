"""Configuration and styles: what is refused and how it is said, what is shipped, and what a prompt holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.llm.config import EndpointConfig
from pipeline.rephrase.config import RephraseConfig, SamplingConfig
from pipeline.rephrase.styles import Style, check_kind, load_style, load_styles, render_prompt, style_names
from pipeline.table.config import parse_yaml, validate
from pipeline.table.errors import ConfigError

CONTRACT = """
source: web
endpoint: {base_url: "http://127.0.0.1:8000/v1", model: NAME, api_key_env: LLM_API_KEY}
routes:
  - {where: "quality_score >= 0.5", styles: [qa, distill]}
  - {where: "quality_score < 0.5", styles: [wikipedia]}
budget: {requests: 10_000, tokens: 50_000_000}
"""
SHIPPED = {
    "wikipedia": (512, 512),
    "qa": (1000, 600),
    "distill": (2000, 1600),
    "extract": (1400, 1400),
    "list": (1000, 600),
    "summary": (2000, 400),
    "rewrite": (1400, 2000),
}
OWN = """
name: pirate
user: "Say it like a pirate: {text}"
input_tokens: 100
output_tokens: 50
"""


def config(text: str = CONTRACT) -> RephraseConfig:
    value, lines = parse_yaml(text, "run.yaml")
    return validate(RephraseConfig, value, "run.yaml", lines)


def style(**values: Any) -> Style:
    return Style.model_validate({"name": "s", "user": "{text}", "input_tokens": 100, "output_tokens": 50, **values})


def test_the_contract_is_read() -> None:
    read = config()
    assert read.output_source == "web_rephrased"
    assert [endpoint.model for endpoint in read.endpoint] == ["NAME"]
    assert read.style_names == ("qa", "distill", "wikipedia")
    assert (read.budget.requests, read.budget.tokens) == (10_000, 50_000_000)


def test_several_endpoints_are_a_list() -> None:
    second = '[{base_url: "http://a/v1", model: M}, {base_url: "http://b/v1", model: M}]'
    text = CONTRACT.replace('{base_url: "http://127.0.0.1:8000/v1", model: NAME, api_key_env: LLM_API_KEY}', second)
    assert [endpoint.base_url for endpoint in config(text).endpoint] == ["http://a/v1", "http://b/v1"]
    with pytest.raises(ConfigError, match=r"run\.yaml:3.*model 'M' is not 'N'"):
        config(text.replace('b/v1", model: M', 'b/v1", model: N'))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sampls: 2", r"run\.yaml:\d+: unknown key 'sampls' \(nearest: 'samples'\)"),
        ("output: web", "output 'web' is the source itself"),
        ("output: Main", "identifier in lower case"),
        ("output: train", "reserved"),
        ("samples: 2\nseed: null", "samples above 1 need a seed"),
        ("samples: 0", "samples = 0"),
    ],
)
def test_mistakes_are_named(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(CONTRACT + line)


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ("[]", "routes"),
        ("[{where: 'true', styles: []}]", "styles"),
        ("[{where: 'true', styles: [qa, qa]}]", "given twice"),
        ("[{wher: 'true', styles: [qa]}]", r"unknown key 'routes\.0\.wher'"),
    ],
)
def test_a_bad_route_is_named(routes: str, message: str) -> None:
    head, _, tail = CONTRACT.partition("routes:")
    with pytest.raises(ConfigError, match=message):
        config(f"{head}routes: {routes}\nbudget:{tail.partition('budget:')[2]}")


def test_sampling_lies_over_the_styles_own() -> None:
    own = SamplingConfig(temperature=0.5, top_p=0.9, stop=("\n\n",), extra={"top_k": 5})
    laid = SamplingConfig(temperature=0, extra={"min_p": 0.1}).over(own)
    assert laid == SamplingConfig(temperature=0, top_p=0.9, stop=("\n\n",), extra={"top_k": 5, "min_p": 0.1})


def test_the_shipped_styles_are_those_of_the_readme_with_their_budgets() -> None:
    styles = load_styles(style_names())
    assert {name: (s.input_tokens, s.output_tokens) for name, s in styles.items()} == SHIPPED
    for each in styles.values():
        assert (each.sampling.temperature, each.sampling.top_p) == (0.5, 0.9)
        assert each.marker is not None
        assert f'"{each.marker.text}"' in each.user, "the prompt asks for the marker that is looked for"
        assert each.description
        assert "strip_marker" in each.post
    assert [name for name, s in styles.items() if s.is_appended] == ["qa"]
    assert len({s.prompt_hash for s in styles.values()}) == len(styles)


def test_a_user_adds_a_style_by_adding_a_file(tmp_path: Path) -> None:
    (tmp_path / "pirate.yaml").write_text(OWN)
    (tmp_path / "qa.yaml").write_text(OWN.replace("pirate\n", "qa\n"))
    styles = load_styles(["pirate", "qa", "list"], str(tmp_path))
    assert styles["qa"].user.startswith("Say it"), "one's own goes before the shipped one"
    assert styles["list"].input_tokens == 1000
    assert "pirate" in style_names(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wikipedai", r"no style is named 'wikipedai' \(nearest: 'wikipedia'\); styles: distill, extract"),
        ("../rules/c4", "no style is named"),
        ("", "no style is named ''"),
        ("x" * 5000, "no style is named"),
    ],
)
def test_an_unknown_style_is_answered_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_style(name)


def test_a_missing_folder_of_prompts_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        load_styles(["qa"], str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: pirate", "name: parrot", "the file is pirate.yaml"),
        ("{text}", "{txt}", r"unknown placeholder \{txt\} \(nearest: 'text'\)"),
        ("{text}", "it", r"must hold \{text\}"),
        ("input_tokens: 100", "input_tokens: 0", "input_tokens = 0"),
        ("input_tokens", "input_token", r"unknown key 'input_token' \(nearest: 'input_tokens'\)"),
        ("output_tokens: 50", "output_tokens: 50\npost: [strip_marker]", "needs a marker"),
        ("output_tokens: 50", "output_tokens: 50\npost: [append_to_source, qa_pairs]", "append_to_source last"),
        ("output_tokens: 50", "output_tokens: 50\npost: [run_shell]", "post"),
        ("output_tokens: 50", "output_tokens: 50\nlength_ratio: [2, 1]", "length_ratio"),
        ("output_tokens: 50", "output_tokens: 50\nmarker: {text: '***'}", "letter or digit"),
        ("output_tokens: 50", "output_tokens: 50\nprefill: 'Article: '", "no space around"),
        ("output_tokens: 50", "output_tokens: 50\nformat: {}", "give pairs, items or words"),
        (
            "output_tokens: 50",
            "output_tokens: 50\nformat: {item: 1}",
            r"unknown key 'format\.item' \(nearest: 'items'\)",
        ),
        ("output_tokens: 50", "output_tokens: 50\nformat: {pairs: 0}", "pairs"),
        ("output_tokens: 50", "output_tokens: 50\nwaive: [licence]", "waive"),
        ('"Say it like a pirate: {text}"', "&a [*a]", "aliases"),
    ],
)
def test_a_bad_style_file_is_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "pirate.yaml").write_text(OWN.replace(old, new))
    with pytest.raises(ConfigError, match=message) as raised:
        load_style("pirate", str(tmp_path))
    assert "\n" not in str(raised.value)
    assert "pirate.yaml" in str(raised.value)


def test_the_prompt_hash_is_of_the_question_alone() -> None:
    base = style()
    treatment = (
        {"post": ("list_items",)},
        {"length_ratio": (0.1, 2.0)},
        {"format": {"items": 1}},
        {"waive": ["copied"]},
    )
    for same in ({"description": "d"}, {"input_tokens": 50}, {"prefill": "A"}, *treatment):
        assert style(**same).prompt_hash == base.prompt_hash
    for other in ({"user": "{text}."}, {"system": "s"}, {"version": 2}, {"name": "t"}):
        assert style(**other).prompt_hash != base.prompt_hash
    assert style(post=("list_items",)).content_hash != base.content_hash
    assert style(description="d").content_hash == base.content_hash


def test_documents_are_put_in_literally_and_once() -> None:
    hostile = "{title} {text} {0} {text.__class__} %s ${x} \\1 {{text}}"
    prompt = render_prompt(style(system="On {title}", user="<{text}>"), "chat", f"  {hostile}\n", "A {text}\n title")
    assert prompt == [
        {"role": "system", "content": "On A {text} title"},
        {"role": "user", "content": f"<{hostile}>"},
    ]


def test_a_completions_prompt_is_one_text() -> None:
    prompt = render_prompt(style(system="Be brief.\n", user="{title}: {text}\n"), "completions", "A.", None)
    assert prompt == "Be brief.\n\n: A.\n\n"
    assert render_prompt(style(), "chat", "A.", None) == [{"role": "user", "content": "A."}]
    assert len(render_prompt(style(user="{title}{text}"), "completions", "A.", "t" * 10_000)) < 310


def test_a_prompt_ends_with_the_beginning_of_its_answer_where_the_endpoint_says_how() -> None:
    begun = style(prefill="Key facts:\n-")
    asked = {"role": "user", "content": "A."}
    given = {"role": "assistant", "content": "Key facts:\n-"}
    assert render_prompt(begun, "chat", "A.") == [asked]
    assert render_prompt(style(), "chat", "A.", None, "message") == [asked]
    assert render_prompt(begun, "chat", "A.", None, "message") == [asked, given]
    assert render_prompt(begun, "chat", "A.", None, "continue_final_message") == [asked, given]
    assert render_prompt(begun, "chat", "A.", None, "prefix") == [asked, {**given, "prefix": True}]
    assert render_prompt(begun, "completions", "A.", None, "message") == "A.\n\nKey facts:\n-"


def test_instructions_are_what_every_prompt_holds() -> None:
    assert style(system="On {title}.", user="Say {text} again.").instructions.split() == ["On", ".", "Say", "again."]
    for each in load_styles(style_names()).values():
        assert "follow no" in each.instructions
        assert "{text}" not in each.instructions


def test_a_style_for_one_kind_is_refused_by_the_other() -> None:
    endpoint = EndpointConfig(base_url="http://a/v1", model="m", kind="completions")
    check_kind(style(kind="any"), endpoint)
    check_kind(style(kind="completions"), endpoint)
    with pytest.raises(ConfigError, match="style 's' is for chat endpoints"):
        check_kind(style(kind="chat"), endpoint)
