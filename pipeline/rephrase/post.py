"""What becomes of an answer: a closed list of steps, each of which takes text away or puts it after its source.

A step that does not find what it looks for leaves the answer as it is: whether it should have been there is a verdict,
not a reason to lose the text. All steps take time linear in the answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.llm.types import ending
from pipeline.rephrase.styles import Format, Marker, Style

MAX_QA_PAIRS = 8
JOINT = "\n\n"
"""Between a segment and what is appended to it."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FENCE = re.compile(r"```[^\n`]{0,40}\n(.*?)\n?```", re.DOTALL)
_ITEM = re.compile(r"[ \t]{0,16}(?:[-*•‣–]|\(?\d{1,3}[.)])[ \t]+(?=\S)")
_LABEL = r"[ \t]{0,16}(?:[-*•]?[ \t]{0,4}|\d{1,3}[.)][ \t]{1,4})[*_]{0,3}"
_QUESTION = re.compile(_LABEL + r"(?:Question|Q)(?:[ \t]?\d{1,3})?[*_]{0,3}[ \t]?:[*_]{0,3}[ \t]*", re.IGNORECASE)
_ANSWER = re.compile(_LABEL + r"(?:Answer|A)(?:[ \t]?\d{1,3})?[*_]{0,3}[ \t]?:[*_]{0,3}[ \t]*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?:[.!?…](?=[\s\"')\]”’»]|$)|[。！？])[\"')\]”’»]{0,4}")
UNSPACED = r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\U0003ffff"
"""Characters of scripts that put no spaces between words."""
_WORD = re.compile(rf"(?=\w)[{UNSPACED}]|[^\W_{UNSPACED}]+")
_BLANK_LINES = re.compile(r"\n{3,}")
_THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis", "<|channel|>final<|message|>"),
)
SPECIAL_TOKENS = (
    r"<[|｜][^\s<>|｜]{1,40}[|｜]>|\[\|[^\s\[\]|]{1,40}\|\]|</?s>|<(?:bos|eos|pad|sep|cls|eo[atdh])>"
    r"|<(?:start|end|begin|beginning)_of_(?:turn|text|sentence|sequence|document|utterance)>"
    r"|<\|[a-z_]{2,30}>|<[a-z_]{2,30}\|>|<(?:BOS|EOS|PAD)_TOKEN>|<END-OF-TURN>|\[(?:BOS|EOS|PAD|gMASK)\]|\[/?INST\]|<</?SYS>>"
)
"""What chat templates part turns with: ChatML, Llama, Mistral, Gemma, DeepSeek, Cohere, Phi, GLM, EXAONE and others."""
_SPECIAL_TOKEN = re.compile(SPECIAL_TOKENS)
_TURN = re.compile(r"\A\s*(?:assistant|model|chatbot|bot)\s*(?:\n|\Z)")
"""The name of whose turn it is, behind the token that begins it."""


@dataclass(frozen=True, slots=True)
class Finished:
    """An answer made ready. `text[body_start:]` is `body`; before it stands the segment, where the style appends."""

    text: str
    body: str
    body_start: int  # code points
    has_marker: bool | None
    """None where the style asks for no marker, or its prefill gave it."""


def finish(style: Style, segment: str, answer: str, finish_reason: str, prefill: str | None = None) -> Finished:
    """Return the new document's text. An empty body means that nothing came, also where the style appends.

    `prefill` is what the answer was made to begin with.
    """
    spoken, is_ended = _own_turn(_without_thinking(answer), segment)
    is_cut_off = ending(finish_reason) == "cut_off" and not is_ended
    body = _tidy(_continued(prefill, spoken) if prefill else spoken)
    is_asked = style.marker is not None and not (prefill and find_marker(style.marker, prefill))
    marked = find_marker(style.marker, body) is not None if style.marker and is_asked else None
    for step in style.post:
        body = _apply(step, style, body, is_cut_off)
    body = _tidy(body)
    if not style.is_appended or not body:
        return Finished(body, body, 0, marked)
    before = segment.strip() + JOINT
    return Finished(before + body, body, len(before), marked)


def find_marker(marker: Marker, answer: str) -> tuple[int, int] | None:
    """Return where the marker begins and ends in an answer, its Markdown and the colon after it included, or None.

    Case and Markdown around it do not matter. Where it may be any line, the first one counts.
    """
    words = r"[ \t]+".join(re.escape(word) for word in marker.text.rstrip(":").split())
    text = rf"[#>*_ \t]{{0,16}}{words}(?!\w)[*_ \t]{{0,16}}:?[*_ \t]{{0,16}}"
    if marker.at == "start":
        match = re.compile(r"\s{0,64}" + text, re.IGNORECASE).match(answer)
    else:
        match = re.compile("^" + text, re.IGNORECASE | re.MULTILINE).search(answer)
    return (match.start(), match.end()) if match else None


def _apply(step: str, style: Style, body: str, is_cut_off: bool) -> str:
    if step == "strip_marker" and style.marker is not None:
        found = find_marker(style.marker, body)
        return body[found[1] :] if found else body
    if step == "trim_to_last_sentence":
        return _to_last_sentence(body) if is_cut_off else body
    if step == "list_items":
        return _list_items(body, is_cut_off)
    if step == "qa_pairs":
        return _qa_pairs(body, is_cut_off)
    return _without_fence(body) if step == "strip_code_fence" else body


def _tidy(text: str) -> str:
    """Drop control characters, spaces at line ends and all but one of several empty lines."""
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", text).strip()


def _without_thinking(answer: str) -> str:
    """Drop what a reasoning model thought before it answered; all of it when it never came to an answer.

    The opening tag may be missing, since some chat templates have it in the prompt.
    """
    for opening, closing in _THOUGHTS:
        begin, end = answer.find(opening), answer.find(closing)
        is_first = begin >= 0 and _says_nothing(answer[:begin])
        if end >= 0 and (is_first or not 0 <= begin < end):
            return answer[end + len(closing) :]
        if end < 0 and is_first:
            return ""
    return answer


def _continued(prefill: str, answer: str) -> str:
    """Return an answer with its beginning, which some servers repeat; nothing where the model added nothing."""
    spoken, begun = ("".join(text.split()) for text in (answer, prefill))
    if spoken in ("", begun):
        return ""
    if spoken.startswith(begun):
        return answer
    # Servers may have taken away the space that the next word began with.
    return prefill + (" " if prefill[-1] in ":-*•.)" and not answer[0].isspace() else "") + answer


def _own_turn(answer: str, segment: str) -> tuple[str, bool]:
    """Return the first turn that says something, without the special tokens around it, and whether one ended it.

    What comes behind is a conversation that the model went on with by itself. Tokens that the segment has are content.
    """
    start = 0
    for token in _SPECIAL_TOKEN.finditer(answer):
        if token[0] in segment:
            continue
        turn = answer[start : token.start()]
        if not _says_nothing(turn):
            return (_TURN.sub("", turn) if start else turn), True
        start = token.end()
    return (_TURN.sub("", answer[start:]) if start else answer), False


def _says_nothing(text: str) -> bool:
    return not _TURN.sub("", _SPECIAL_TOKEN.sub("", text)).strip()


def _without_fence(body: str) -> str:
    """Drop a fence around the whole answer; one inside it is content."""
    match = _FENCE.fullmatch(body.strip())
    return match[1] if match and "```" not in match[1] else body


def meets(wanted: Format, body: str, is_cut_off: bool = False) -> bool:
    """Tell whether a finished answer holds the least that its style asks for.

    Items count once each, and questions too; an answer that only says its question again is none. Where the answer was
    cut off, a last item or pair that does not end a sentence does not count.
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(body)] if is_cut_off else [len(body)]
    whole = None if ends and ends[-1] == len(body) else -1
    items = {item.casefold() for item in _items(body)[:whole] if _WORD.search(item)}
    pairs = {
        question.casefold()
        for question, answer in _pairs(body)[:whole]
        if _WORD.search(question) and _WORD.search(answer) and answer.casefold() != question.casefold()
    }
    words = len(_WORD.findall(body))
    asked = ((wanted.items, len(items)), (wanted.pairs, len(pairs)), (wanted.words, words))
    return all(least is None or found >= least for least, found in asked)


def _list_items(body: str, is_cut_off: bool) -> str:
    """Keep the items of a list, each on its line after `- `; lines that go on an item are joined to it.

    The last of several is dropped when the answer was cut off in it.
    """
    items = _items(body)
    if is_cut_off and len(items) > 1:
        items.pop()
    return "\n".join(f"- {item}" for item in items) if items else body


def _items(body: str) -> list[str]:
    items: list[str] = []
    is_open = False
    for line in body.split("\n"):
        match = _ITEM.match(line)
        if match:
            items.append(line[match.end() :].strip())
        elif is_open and line.startswith((" ", "\t")) and line.strip():
            items[-1] += " " + line.strip()
        is_open = bool(match) or (is_open and bool(line.strip()))
    return items


def _qa_pairs(body: str, is_cut_off: bool) -> str:
    """Keep the first eight complete pairs as `Question:` and `Answer:`; a question without answer is dropped.

    So is the last of several pairs when the answer was cut off in it.
    """
    pairs = _pairs(body)
    if is_cut_off and len(pairs) > 1:
        pairs.pop()
    complete = [f"Question: {question}\nAnswer: {answer}" for question, answer in pairs if question and answer]
    return "\n\n".join(complete[:MAX_QA_PAIRS]) if complete else body


def _pairs(body: str) -> list[tuple[str, str]]:
    """Return each question with its answer, empty where it has none."""
    pairs: list[tuple[list[str], list[str]]] = []
    for line in body.split("\n"):
        if match := _QUESTION.match(line):
            pairs.append(([line[match.end() :]], []))
        elif pairs and not pairs[-1][1] and (match := _ANSWER.match(line)):
            pairs[-1][1].append(line[match.end() :])
        elif pairs:
            pairs[-1][1 if pairs[-1][1] else 0].append(line)
    return [("\n".join(question).strip(), "\n".join(answer).strip()) for question, answer in pairs]


def _to_last_sentence(body: str) -> str:
    """Drop what follows the last end of a sentence, when there is one in the answer's second half."""
    end = 0
    for match in _SENTENCE_END.finditer(body):
        end = match.end()
    return body[:end] if end * 2 >= len(body) else body
