"""Segments of long documents, and what becomes of answers."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.rephrase.post import JOINT, MAX_QA_PAIRS, find_marker, finish, meets
from pipeline.rephrase.segments import split
from pipeline.rephrase.styles import Format, Marker, Style


def style(**values: Any) -> Style:
    return Style.model_validate({"name": "s", "user": "{text}", "input_tokens": 100, "output_tokens": 50, **values})


def parts(text: str, budget: int) -> list[str]:
    return [text[s.start : s.end] for s in split(text, budget)]


def test_a_text_within_the_budget_is_one_segment() -> None:
    (only,) = split("One two three.", 4)
    assert (only.index, only.start, only.end, only.tokens) == (0, 0, 14, 4)


def test_cuts_are_at_paragraph_ends() -> None:
    paragraphs = [letter * 39 + ".\n\n" for letter in "abcd"]
    assert parts("".join(paragraphs), 21) == ["".join(paragraphs[:2]), "".join(paragraphs[2:])]
    assert parts("".join(paragraphs), 10) == paragraphs


def test_a_long_paragraph_is_cut_at_sentences_and_then_at_words() -> None:
    assert parts("First one here. Second one here. Third.", 8) == ["First one here. ", "Second one here. Third."]
    assert parts("これは文です。これも文です。", 6) == ["これは文です。", "これも文です。"]
    assert parts("alpha beta gamma delta", 3) == ["alpha beta ", "gamma delta"]


def test_a_long_word_is_cut_between_code_points() -> None:
    text = "𝒳é" * 50
    cut = parts(text, 4)
    assert "".join(cut) == text
    assert all(len(part.encode()) <= 16 for part in cut)


def test_segments_are_even_and_leave_no_crumb() -> None:
    paragraphs = [f"{'x' * 38}.\n\n" for _ in range(25)]
    sizes = [len(part) for part in parts("".join(paragraphs) + "end", 247)]
    assert len(sizes) == 2
    assert max(sizes) - min(sizes) <= 50


def test_whitespace_is_free_but_belongs_to_a_segment() -> None:
    text = " \n" * 500 + "word" + "\n" * 500 + "\n\nword" + " " * 400
    assert "".join(parts(text, 1)) == text
    assert [s.tokens for s in split(text, 1)] == [1, 1]


@pytest.mark.parametrize("text", ["", " ", "\n\n\n"])
def test_a_blank_text_is_one_segment_of_nothing(text: str) -> None:
    assert [(s.start, s.end, s.tokens) for s in split(text, 1)] == [(0, len(text), 0)]


@pytest.mark.parametrize("text", ["a" * 400_000, "\n " * 200_000, ". " * 100_000, "a\n\n" * 100_000, "。" * 100_000])
def test_hostile_texts_take_linear_time(text: str) -> None:
    """Quadratic time would be hours: the test's own limit would end it."""
    assert split(text, 512)[-1].end == len(text)


ANSWER_STYLE = style(
    marker={"text": "Key facts:", "at": "start"}, post=("strip_code_fence", "strip_marker", "list_items")
)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Key facts:\n- a", True),
        ("**Key facts:**\n- a", True),
        ("## KEY FACTS\n- a", True),
        ("\n\nKey  facts :\n- a", True),
        ("Sure! Key facts:\n- a", False),
        ("Keyfacts:\n- a", False),
        ("Key factsheet", False),
        ("", False),
    ],
)
def test_a_marker_is_found_whatever_its_markdown(answer: str, found: bool) -> None:
    assert (find_marker(Marker(text="Key facts:"), answer) is not None) is found
    assert finish(ANSWER_STYLE, "x", answer, "stop").has_marker is found


def test_without_a_marker_nothing_is_looked_for() -> None:
    assert finish(style(), "x", "text", "stop").has_marker is None


def test_a_plan_before_the_marker_is_removed() -> None:
    rewrite = style(marker={"text": "Rewritten text:", "at": "line"}, post=("strip_marker",))
    done = finish(rewrite, "x", "Plan:\n- say it\n\nRewritten text:\nIt is said.\n", "stop")
    assert (done.text, done.body_start, done.has_marker) == ("It is said.", 0, True)
    assert finish(rewrite, "x", "Plan:\n- say it", "length").has_marker is False


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        ("Key facts:\n* a\n* b", "- a\n- b"),
        ("Key facts:\n1. a\n2) b\n   and more\n\nI hope this helps!", "- a\n- b and more"),
        ("```\nKey facts:\n- a\n```", "- a"),
        ("Key facts: none", "none"),
        ("<think>- not this</think>Key facts:\n- a", "- a"),
        ("so I think\n</think>\nKey facts:\n- a", "- a"),
        ("<think>for ever", ""),
        ("Key facts:\r\n- a\x00\x07  \r\n\r\n\r\n- b", "- a\n- b"),
        ("Key facts:", ""),
        (" \n\t", ""),
    ],
)
def test_list_answers(answer: str, body: str) -> None:
    assert finish(ANSWER_STYLE, "x", answer, "stop").text == body


def test_the_item_that_was_cut_off_goes() -> None:
    assert finish(ANSWER_STYLE, "x", "Key facts:\n- a\n- b whi", "length").text == "- a"
    assert finish(ANSWER_STYLE, "x", "Key facts:\n- a whi", "length").text == "- a whi"


QA = style(post=("qa_pairs", "append_to_source"))


def test_pairs_are_put_after_their_segment() -> None:
    answer = "**Question:** Who?\n**Answer:** He.\nTruly.\n\n2. Q: When?\nA: Then.\n\nQuestion: Cut"
    done = finish(QA, "\nThe source. \n", answer, "stop")
    pairs = "Question: Who?\nAnswer: He.\nTruly.\n\nQuestion: When?\nAnswer: Then."
    assert done.text == f"The source.{JOINT}{pairs}"
    assert done.text[done.body_start :] == done.body == pairs


def test_an_empty_answer_is_not_hidden_behind_its_segment() -> None:
    assert finish(QA, "The source.", " ", "stop").text == ""


def test_pairs_are_at_most_eight_and_the_cut_off_one_goes() -> None:
    many = "\n".join(f"Question: q{n}\nAnswer: a{n}" for n in range(12))
    assert finish(QA, "s", many, "stop").body.count("Question:") == MAX_QA_PAIRS
    assert finish(QA, "s", "Question: a\nAnswer: b\nQuestion: c\nAnswer: d whi", "length").body.count("Answer:") == 1
    assert finish(QA, "s", "no pairs at all", "stop").body == "no pairs at all"


@pytest.mark.parametrize(
    ("answer", "reason", "text"),
    [
        ("One. Two! Thr", "length", "One. Two!"),
        ("One. Two! Thr", "stop", "One. Two! Thr"),
        ("One point 3.5 is", "length", "One point 3.5 is"),
        ("これは文です。これは", "length", "これは文です。"),
        ("He said “no.” And th", "length", "He said “no.”"),
        (
            "A. and then a very long sentence that has no end",
            "length",
            "A. and then a very long sentence that has no end",
        ),
    ],
)
def test_a_cut_off_sentence_goes(answer: str, reason: str, text: str) -> None:
    assert finish(style(post=("trim_to_last_sentence",)), "x", answer, reason).text == text


@pytest.mark.parametrize(
    "answer",
    [
        "`" * 300_000,
        "\n" * 300_000,
        "- " * 300_000,
        "Question:" * 100_000,
        "#" * 300_000,
        "<think>" * 50_000,
        "<|a|>" * 100_000,
        "assistant\n<|x|>" * 50_000,
        ".”" * 200_000,
    ],
)
def test_hostile_answers_take_linear_time(answer: str) -> None:
    every = style(
        marker={"text": "A b c", "at": "line"},
        post=(
            "strip_code_fence",
            "strip_marker",
            "list_items",
            "qa_pairs",
            "trim_to_last_sentence",
            "append_to_source",
        ),
    )
    assert finish(every, "x", answer, "length").has_marker is False


@pytest.mark.parametrize(
    ("wanted", "body", "meets_it"),
    [
        ({"items": 2}, "- One.\n- Two.", True),
        ({"items": 2}, "- One.\n- one.", False),
        ({"items": 1}, "There are no items.", False),
        ({"items": 1}, "- ...\n- --", False),
        ({"items": 2}, "1. One\n2) Two\n\nand so on", True),
        ({"items": 1}, "", False),
        ({"pairs": 1}, "Question: Who?\nAnswer: He.", True),
        ({"pairs": 1}, "Question: Who?\nQuestion: When?", False),
        ({"pairs": 1}, "Question: Who?\nAnswer: Who?", False),
        ({"pairs": 1}, "Question: Who?\nAnswer: ...", False),
        ({"pairs": 2}, "Question: Who?\nAnswer: He.\n\nQuestion: who?\nAnswer: She.", False),
        ({"pairs": 2}, "Question: Who?\nAnswer: He.\n\nQuestion: When?\nAnswer: Then.", True),
        ({"words": 3}, "It was built.", True),
        ({"words": 3}, "Built, and - - -", False),
        ({"words": 4}, "桥很长。", False),
        ({"words": 3}, "桥很长。", True),
        ({"items": 1, "words": 5}, "- One item.", False),
        ({"items": 1, "words": 2}, "- One item.", True),
    ],
)
def test_the_format_that_a_style_asks_for(wanted: dict[str, int], body: str, meets_it: bool) -> None:
    assert meets(Format(**wanted), body) is meets_it


@pytest.mark.parametrize(
    ("wanted", "body", "meets_it"),
    [
        ({"pairs": 1}, "Question: Who?\nAnswer: He was", False),
        ({"pairs": 1}, "Question: Who?\nAnswer: He was.", True),  # a second one was cut off, and is gone
        ({"items": 1}, "- 它很", False),
        ({"items": 1}, "- 它很长。", True),
        ({"words": 2}, "He was", True),  # rules know by `complete`
    ],
)
def test_a_cut_off_item_does_not_count(wanted: dict[str, int], body: str, meets_it: bool) -> None:
    assert meets(Format(**wanted), body, is_cut_off=True) is meets_it


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (" One.\n- Two.", "- One.\n- Two."),
        ("One.\n- Two.", "- One.\n- Two."),  # the server took the space away
        ("Key facts:\n- One.\n- Two.", "- One.\n- Two."),  # it repeats what it was given
        ("Key facts:\n\n- One.\n- Two.", "- One.\n- Two."),  # it began anew
        ("Key facts:\n-", ""),
        (" \n", ""),
        (" One.<|im_end|>\n<|im_start|>user", "- One."),
    ],
)
def test_an_answer_is_joined_to_its_beginning(answer: str, body: str) -> None:
    done = finish(ANSWER_STYLE, "x", answer, "stop", "Key facts:\n-")
    assert (done.body, done.has_marker) == (body, None), "the model did not choose the marker"
    assert finish(ANSWER_STYLE, "x", "Key facts:\n- One.", "stop", "Here:").has_marker is False


PLAIN = style(marker={"text": "Article:"}, post=("strip_marker", "trim_to_last_sentence"))


@pytest.mark.parametrize(
    "answer",
    [
        "{}<|im_end|>",
        "{}<end_of_turn>",
        "{}</s>",
        "<s> {}</s>",
        "<pad> {}</s>",
        "{} [/INST] Another one",
        "{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nIs there anything else?",
        "<|im_start|>assistant\n{}<|im_end|>\n<|im_start|>user\nMore!",
        "<start_of_turn>model\n{}<end_of_turn>\n<start_of_turn>user",
        "<|assistant|>\n{}<|user|>",
        "{}<｜end▁of▁sentence｜>",
        "{}[|endofturn|]",
        "<|turn>model\n{}<turn|>",
        "{}<end_of_utterance>\nUser: more",
        "<BOS_TOKEN>{}<|END_OF_TURN_TOKEN|>",
        "{}[EOS]",
        "<|START_RESPONSE|>{}<|END_RESPONSE|>",
        "[THINK]Let me see.[/THINK]{}",
        "◁think▷Let me see.◁/think▷{}",
        "<|im_start|>assistant\n<think>\nHm.\n</think>\n{}<|im_end|>",
        "<|channel|>analysis<|message|>We need it.<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    ],
)
def test_what_a_chat_template_leaks_is_no_text(answer: str) -> None:
    done = finish(PLAIN, "It stood.", answer.format("Article:\nIt was built. It stan"), "stop")
    assert (done.body, done.has_marker) == ("It was built. It stan", True)


def test_a_token_that_the_segment_has_is_content() -> None:
    answer = "Article: In ChatML <|im_end|> ends a turn."
    assert finish(PLAIN, "The token <|im_end|> ends turns.", answer, "stop").body == "In ChatML <|im_end|> ends a turn."


def test_an_answer_that_its_token_ended_was_not_cut_off() -> None:
    assert (
        finish(PLAIN, "x", "Article: One. Two thr<end_of_turn>\nuser\nAnd so on and", "length").body == "One. Two thr"
    )
    assert finish(PLAIN, "x", "Article: One. Two. Thr", "MAX_TOKENS").body == "One. Two."
