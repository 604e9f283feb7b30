"""Wikitext to clean text as it runs in an isolated worker, in one pass over brackets and one over lines.

No library is fast enough (mwparserfromhell: 0.6 MB/s), and none says what a template's text is. Nothing is rendered:
templates are not in the page, so their text is told from their structure, and what is taken out leaves a mark by which
the brackets and commas around it go, too. Every pass is linear, whatever is nested or left open.

Source: MediaWiki's preprocessor (how runs of braces match), "Help:Formatting" and "Help:Tables" of mediawiki.org.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.extract.conversion import Converted, RefusedError, handler
from pipeline.extract.wiki.blocks import BREAK, Lines
from pipeline.extract.wiki.templates import FILE, GONE, Place, template_text

MAX_NESTING = 100
MAX_NAMES, MAX_NAME = 400, 150
"""Categories, and templates, of a page that become columns, and the characters of each."""
_CONVERTED = re.compile("(?:ban|crh|gan|iu|kk|ku|mni|sh|shi|sr|tg|tly|uz|wuu|zgh|zh)(?:-.*)?")
"""Languages whose wikis convert between scripts: elsewhere `-{` is text."""

_TAGS = (
    "ref|references|nowiki|pre|math|chem|ce|syntaxhighlight|source|gallery|timeline|imagemap|score|graph|mapframe|"
    "maplink|templatestyles|hiero|categorytree|inputbox|indicator|includeonly|templatedata|section|ext|style|script"
)
_EXTENSION = re.compile(rf"<!--|<({_TAGS})(?=[\s/>])((?:[^<>\"]++|\"[^\"<]*+\"|\")*+)>", re.IGNORECASE)
_CLOSING = {name: re.compile(rf"</{name}\s*+>", re.IGNORECASE) for name in _TAGS.split("|")}
_MARKS = re.compile(r"\{\{+|\}\}+|\[\[|\]\]|\|")
_MARKS_CONVERTED = re.compile(r"\{\{+|\}\}+(?:-(?!\{))?|\}-|\[\[|\]\]|\||-\{(?!\{)")
_LINE_ENDS = re.compile(r"[ \t]*+(?:\n|\Z)")
_FORMULA_ENDS = re.compile(r"[ \t.,;]*+(?:\n|\Z)")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,8}){0,2}|simple|tarantino")
_PREFIXED = re.compile(r"\s*[^\W\d][^:\n]{0,40}:\S")
_NO_LANGUAGE = frozenset({"doi", "mw", "oeis", "pmid", "rfc", "wp"})
_VARIANT = re.compile(r"(?:^|;)\s*[a-z]{2,3}(?:-[a-z]+)*\s*:\s*([^;]*)", re.IGNORECASE)
_EXTERNAL = re.compile(
    rf"\[(?:(?:(?:https?|ftps?|ircs?|git|news|gopher)?:?//|mailto:)[^\s\]\[<>]++|{GONE})\s*+([^\]\n]{{0,2000}}+)\]"
)
_RAISED = re.compile(r"<(su[bp])(?:\s[^<>]*+)?>([^<>\n]{0,200}+)</\1\s*>", re.IGNORECASE)
_HIDDEN = re.compile(r"<(span|div)\s[^<>]*?display:\s*none[^<>]*+>[^<>]*+</\1\s*>", re.IGNORECASE)
_BREAKING = "br|hr|p|div|blockquote|center|table|tr|caption|ul|ol|li|dl|dt|dd|h[1-6]|poem|section|noinclude"
_INLINE = (
    "abbr|b|bdi|bdo|big|cite|data|del|dfn|em|font|i|includeonly|ins|kbd|languages|mark|nowiki|onlyinclude|q|rb|rp|rt|"
    "rtc|ruby|s|samp|small|span|strike|strong|su[bp]|time|translate|tvar|tbody|td|tfoot|th|thead|tt|u|var|wbr|ref|"
    "references|gallery|math|pre|source|syntaxhighlight|noeditsection|onlyinclude|templatestyles"
)
_HTML = re.compile(rf"</?(?:(code)|({_BREAKING})|{_INLINE})(?:\s[^<>]*+)?/?\s*+>", re.IGNORECASE)
_QUOTES = re.compile("''+")
_SWITCH = re.compile(r"__[^\W\d_](?:[^\W_]|_(?!_)){2,40}__")
_SPACES = re.compile(r"(?<=\S)[ \t\u00a0]{2,}|[\t\u00a0]")  # not those before an item of a list
_HELD = re.compile("\x01([0-9]+)\x02")
_EMPTY_BRACKETS = re.compile(f" ?[(（\\[][ ,;:、，；،؛/–—{GONE}]*+[)）\\]]")
_OPEN_BRACKET = re.compile(f"([(（])[ ,;:、，；،؛{GONE}]++")
_BEFORE_BRACKET = re.compile(f"[ ,;:、，；،؛]{{0,3}}{GONE}[ ,;:、，；،؛{GONE}]{{0,9}}+(?=[)）])")
_RUNS = re.compile(f"{GONE}[ {GONE}]++")
_BETWEEN = re.compile(
    f"[,;、，；،؛] ?{GONE} ?(?=[,;.、，；،؛。])| ?{GONE} ?(?=[.,;:!?)、，；。！？،؛]|$)| {GONE}(?= )", re.MULTILINE
)
_LEFT_OVER = re.compile(r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}(?!\})")
_BLANK = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_ENDS = frozenset('.,;:!?)]»”"%')
_ORDINALS = re.compile("as?|d|e|er|ère|ème|m[aeo]|nde?|os?|r|rd|re|ste?|te|th|ª|º")


def make_handler() -> Callable[[bytes], bytes]:
    """Return the function that a worker runs on each request."""
    return handler(convert)


def convert(payload: bytes, facts: Mapping[str, Any]) -> Converted:
    """Return the text of a page of wikitext, with its categories and templates.

    `facts` are `language`, `title`, and the names in lower case of the namespaces `file`, `category` and `template`.

    Raises: RefusedError when no text is left.
    """
    page = _Page(facts)
    text = page.text(payload.decode("utf-8", "replace"))
    if not text:
        raise RefusedError("empty", "no text is left without its markup")
    return Converted(text, kept={"categories": list(page.categories), "templates": list(page.templates)})


class _Frame:
    """A bracket that is open: its kind (`{`, `[` or `-`), how many of it, and the pieces of its parts so far."""

    __slots__ = ("count", "kind", "parts")

    def __init__(self, kind: str, count: int) -> None:
        self.kind, self.count = kind, count
        self.parts: list[list[str]] = [[]]


class _Page:
    """One page. `held` are pieces of text that no rule of markup touches any more."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._files, self._categories = frozenset(facts["file"]), frozenset(facts["category"])
        self._template_names, self._title = frozenset(facts["template"]), str(facts["title"])
        self._converts = _CONVERTED.fullmatch(facts["language"]) is not None
        self._held: list[str] = []
        self._has_begun = False  # whether there was text before: what stands above it is about the page
        self.categories: dict[str, None] = {}
        self.templates: dict[str, None] = {}

    def text(self, wikitext: str) -> str:
        """Return the clean text; empty when nothing is left."""
        text = self._without_brackets(self._without_extensions(wikitext))
        if "[" in text:
            text = _EXTERNAL.sub(lambda link: link[1].strip() or GONE, text)
        if "<" in text:
            text = _RAISED.sub(_raised, _HIDDEN.sub("", text))
            text = _HTML.sub(lambda tag: "`" if tag[1] else BREAK if tag[2] else "", text)
        text = _QUOTES.sub(lambda run: "'" * (1 if len(run[0]) == 4 else max(0, len(run[0]) - 5)), text)
        if "__" in text:
            text = _SWITCH.sub(lambda name: name[0] if name[0].islower() else "", text)
        text = _SPACES.sub(" ", Lines(self._hold).clean(text))
        text = _LEFT_OVER.sub("", _close_gaps(text) if GONE in text else text)
        if "&" in text:
            text = _SPACES.sub(" ", html.unescape(text))
        return self._restore(_BLANK.sub("\n\n", text.replace(" \n", "\n"))).strip()

    def _hold(self, text: str) -> str:
        self._held.append(self._restore(text))
        return f"\x01{len(self._held) - 1}\x02"

    def _restore(self, text: str) -> str:
        return _HELD.sub(lambda mark: self._held[int(mark[1])], text) if "\x01" in text else text

    def _without_extensions(self, text: str) -> str:
        """Take out comments and the elements whose content is no wikitext; hold code, formulas and `nowiki`."""
        pieces: list[str] = []
        unclosed: set[str] = set()
        position = 0
        while (tag := _EXTENSION.search(text, position)) is not None:
            start, end = tag.span()
            pieces.append(text[position:start])
            if tag[1] is None:
                close = text.find("-->", end)
                position = close + 3 if close >= 0 else len(text)
                if text[position : position + 1] == "\n" and (start == 0 or text[start - 1] == "\n"):
                    position += 1  # a comment alone on its line takes the line with it
                continue
            name, position = tag[1].lower(), end
            if tag[2].endswith("/") or name in unclosed:
                continue
            closing = _CLOSING[name].search(text, end)
            if closing is None:
                unclosed.add(name)
                continue
            position = closing.end()
            line = text[text.rfind("\n", 0, start) + 1 : start]
            ends = _FORMULA_ENDS if name == "math" else _LINE_ENDS
            is_block = not line.strip(" :*#") and ends.match(text, position) is not None
            pieces.append(self._extension(name, tag[2], text[end : closing.start()], is_block))
        pieces.append(text[position:])
        return "".join(pieces)

    def _extension(self, name: str, attributes: str, content: str, is_block: bool) -> str:
        match name:
            case "nowiki":
                return self._hold(html.unescape(content))
            case "math" | "chem" | "ce":
                formula = " ".join(html.unescape(content).split())
                formula = f"\\ce{{{formula}}}" if formula and name != "math" else formula
                fence = "$$" if is_block or "block" in attributes else "$"
                return self._hold(f"{fence}{formula}{fence}") if formula else ""
            case "pre" | "syntaxhighlight" | "source":
                code = re.sub(r"</?nowiki\s*/?>", "", html.unescape(content), flags=re.IGNORECASE)
                if "inline" in attributes or (not is_block and "\n" not in code):
                    return self._hold(f"`{code.strip()}`")
                language = re.search(r"lang\s*=\s*[\"']?([\w+#.-]{1,30})", attributes)
                return f"\n{self._hold(fenced(code, language[1].lower() if language else ''))}\n"
        return ""

    def _without_brackets(self, text: str) -> str:
        """Resolve templates, arguments, links and conversions, from the inside out; what is left open is text."""
        stack: list[_Frame] = []
        root: list[str] = []
        out = root
        starts_line = True  # whether nothing but spaces stands on the line so far, outside of brackets
        last: list[int] = []  # links of lines of their own, behind which no text has come
        position = 0
        for token in (_MARKS_CONVERTED if self._converts else _MARKS).finditer(text):
            start, end = token.span()
            if start > position:
                piece = text[position:start]
                out.append(piece)
                if not stack:
                    line = piece.rpartition("\n")
                    starts_line = not line[2].strip() and (starts_line or bool(line[1]))
                    if not piece.isspace():
                        self._has_begun, last = True, []
            position, mark = end, token[0]
            if mark == "|":
                if stack:
                    out = []
                    stack[-1].parts.append(out)
                else:
                    out.append(mark)
                    starts_line = False
            elif mark[0] in "{[-":
                if len(stack) >= MAX_NESTING:
                    continue
                stack.append(_Frame(mark[0], end - start))
                out = stack[-1].parts[0]
            else:
                is_alone = starts_line and _LINE_ENDS.match(text, end) is not None
                depth = len(stack)
                target = stack[0].parts[0] if depth == 1 and mark == "]]" and (starts_line or last) else ()
                self._close(stack, root, mark, is_alone)
                out = stack[-1].parts[-1] if stack else root
                if depth and not stack and out and out[-1] != GONE and out[-1].strip():
                    starts_line = False
                    if _PREFIXED.match("".join(target)):
                        last.append(len(root) - 1)
                    else:
                        last = []
        for place in () if stack or text[position:].strip() else last:  # categories by a name that the dump lacks
            root[place] = GONE
        out.append(text[position:])
        while stack:
            self._flush(stack, root)
        return "".join(root)

    def _close(self, stack: list[_Frame], root: list[str], mark: str, is_alone: bool) -> None:
        """Match a run of closing brackets with what is open."""
        kind = {"]": "[", "}": "-" if mark == "}-" else "{"}[mark[0]]
        left = len(mark)
        if mark[-1] == "-" and len(mark) > 2:  # `}}-`: of a template and a hyphen, or of the two
            left -= 1
        while left >= 2:
            if stack and stack[-1].kind != kind and kind == "{" and any(frame.kind == "{" for frame in stack):
                self._flush(stack, root)  # a link that was left open within a template
                continue
            if not stack or stack[-1].kind != kind:
                break
            frame = stack[-1]
            taken = min(3, left, frame.count) if kind == "{" else 2
            left -= taken
            frame.count -= taken
            out = (stack[-2].parts[-1] if len(stack) > 1 else root) if frame.count < 2 else []
            before = next((piece for piece in out[:-4:-1] if piece and piece != GONE), "")[-3:]
            last = before[-1:]
            place: Place = "line"
            if is_alone and len(stack) == 1:
                place = "alone"
            elif last and ((last.isalnum() and last < "\u2e80") or last in _ENDS):
                place = "behind"
            elif before.rstrip(" ")[-1:] in ("*", "#"):
                place = "item"
            value = self._value(frame, taken, place)
            if kind == "{" and frame.count >= 2:
                frame.parts = [[value]]
                continue
            stack.pop()
            if kind == "{" and frame.count == 1:
                out.append("{")
            out.append(value)
        if mark[-1] == "-" and len(mark) > 2:
            if left == 1 and stack and stack[-1].kind == "-":
                self._close(stack, root, "}-", is_alone)
                return
            left += 1
        if left and (left == 1 or mark == "]]"):
            (stack[-1].parts[-1] if stack else root).append(mark[-left:])

    def _flush(self, stack: list[_Frame], root: list[str]) -> None:
        """Take what nothing closes as text, without its bracket."""
        frame = stack.pop()
        out = stack[-1].parts[-1] if stack else root
        if frame.kind == "{" and len(frame.parts) > 1:
            frame.parts[0] = []  # a template's name is no text
        for number, part in enumerate(frame.parts):
            if number:
                out.append("|")
            out += part

    def _value(self, frame: _Frame, taken: int, place: Place) -> str:
        if frame.kind == "[":
            return self._link(["".join(part) for part in frame.parts])
        if frame.kind == "-":
            return _converted("|".join("".join(part) for part in frame.parts))
        if taken == 3:  # an argument of a template: its default
            return "".join(frame.parts[1]) if len(frame.parts) > 1 else ""
        name = "".join(frame.parts[0]).strip(f" \n\t{GONE}").replace("_", " ")
        prefix, colon, rest = name.partition(":")
        if colon and prefix.lower() in self._template_names:
            name = rest.strip()
        if name and ":" not in name and "\n" not in name and len(self.templates) < MAX_NAMES:
            self.templates[(name[0].upper() + name[1:])[:MAX_NAME]] = None
        if place == "alone" and not self._has_begun:
            return GONE
        return template_text(name, frame.parts[1:], self._title, place)

    def _link(self, parts: list[str]) -> str:
        target = parts[0].strip()
        if not target or "\n" in target:
            return "|".join(parts)
        prefix, colon, rest = target.partition(":")
        key = prefix.strip().lower().replace("_", " ") if colon else ""
        if key in self._files or (key and FILE.search(target)):  # by a former or foreign name of the namespace
            return ""
        if key in self._categories:
            name = " ".join(rest.replace("_", " ").split())[:MAX_NAME]
            if name and len(self.categories) < MAX_NAMES:
                self.categories[name[0].upper() + name[1:]] = None
            return ""
        if key and key not in _NO_LANGUAGE and prefix == key and _LANGUAGE.fullmatch(key) and rest[:1] != " ":
            return ""  # to the page in another language
        label = "|".join(parts[1:])
        if label.strip():
            return label
        shown = target.removeprefix(":").replace("_", " ")
        return re.sub(r"^[^:]*:|\s*\([^()]*\)$", "", shown) if len(parts) > 1 else shown


def fenced(code: str, language: str = "") -> str:
    """Return a block of code as Markdown has it."""
    fence = "```"
    while fence in code:
        fence += "`"
    return f"{fence}{language}\n{code.strip(chr(10)).rstrip()}\n{fence}"


def _converted(rule: str) -> str:
    """Return the text of `-{...}-`: of its variants the one that stands first."""
    flags, bar, text = rule.partition("|")
    flag = flags.strip() if bar else ""
    if not bar:
        text = rule
    if flag in ("H", "T", "-"):
        return ""
    forms = _VARIANT.findall(text)
    return forms[0].strip() if forms else text


def _raised(element: re.Match[str]) -> str:
    """Write what is raised or lowered so that numbers do not run together: 10^3, x_i, but H2O and 1st."""
    text = element[2].strip()
    before = element.string[element.start() - 1 : element.start()] if element.start() else ""
    after = element.string[element.end() : element.end() + 1]
    if not text or not (before.isalnum() or before in (")", "]", "'")) or "\x01" in text or GONE in text:
        return text
    is_raised = element[1].lower() == "sup"
    plain = text.strip("'")
    if is_raised and (_ORDINALS.fullmatch(plain.lower().rstrip(".")) or (plain.isalpha() and len(plain) > 1)):
        return text
    if not is_raised and plain.isdecimal() and not before.isdigit() and not after.isdigit():
        return text
    simple = re.fullmatch(r"[-+−–]?\w+", plain) and not after.isalnum()
    return f"{'^' if is_raised else '_'}{plain if simple else '{' + plain + '}'}"


def _close_gaps(text: str) -> str:
    """Take out the marks of what is gone, with the brackets, commas and spaces that held nothing else."""
    text = _RUNS.sub(lambda run: GONE + " " * (run[0][-1] == " "), text)
    text = _EMPTY_BRACKETS.sub(lambda found: "" if GONE in found[0] else found[0], text)
    text = _OPEN_BRACKET.sub(lambda found: found[1] if GONE in found[0] else found[0], text)
    return _BETWEEN.sub("", _BEFORE_BRACKET.sub("", text)).replace(GONE, "")
