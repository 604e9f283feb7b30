"""LaTeX to text, as TeX reads it: one pass over the source, macros expanded where they stand.

What is written in mathematics stays LaTeX, everything else becomes text with Markdown's headings, lists and tables. The
open groups are a stack of their own, so no depth of nesting costs Python's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipeline.extract.conversion import RefusedError
from pipeline.extract.latex import names
from pipeline.extract.latex.expansion import GAP, RAW_BRACE, Expansion
from pipeline.extract.latex.symbols import ACCENTS, ESCAPES, units

MAX_GROUPS = 1000  # TeX itself has 255 levels

# What the text is put together with until it is whole; the source cannot hold them.
_PARAGRAPH, _BREAK, _CELL, _ROW, _ITEM, _LABEL, _INDENT = "\x1d", "\x0b", "\x1e", "\x1f", "\x1c", "\x01", "\x1a"
_KEPT = re.compile("\x02([0-9]+)\x03")  # a place of what stays as it is
_KEPT_LINE = re.compile("^((?:[> ]|- |[0-9]+\\. )*)(.*\x02.*)$", re.MULTILINE)
_BLANKS = re.compile(f" *{_PARAGRAPH}[ {_PARAGRAPH}{_BREAK}]*")
_CONTROL = dict.fromkeys((*range(9), *range(11, 13), *range(14, 32), 127))

_TOKEN = r"""
    (?P<words>[^\\{}}$%&~\s`'-]+(?:[ ][^\\{}}$%&~\s`'-]+)*)
    |(?P<space>\s+)
    |\\(?P<word>[A-Za-z{at}]+){gap}
    |\\(?P<sign>.)
    |(?P<comment>%[^\n]*(?:\n[ \t]*(?P<blank>\n\s*)?)?)
    |(?P<quote>``|''|`|'|-+)
    |(?P<other>.)
"""
_MATH_TOKEN = r"""
    (?P<words>[^\\{}}$%\n]+)
    |(?P<space>\s+)
    |\\(?P<word>[A-Za-z{at}]+)
    |\\(?P<sign>.)
    |(?P<comment>%[^\n]*(?:\n[ \t]*(?P<blank>\n\s*)?)?)
    |(?P<other>.)
"""


def _compiled(pattern: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return a pattern as it reads when `@` is no letter, and when it is."""
    plain = pattern.replace("{}}", "{}").replace("{gap}", GAP)
    return tuple(re.compile(plain.replace("{at}", at), re.X | re.S) for at in ("", "@"))  # type: ignore[return-value]


_TOKENS, _MATH_TOKENS = _compiled(_TOKEN), _compiled(_MATH_TOKEN)
_SHORTHAND = re.compile('"([aouAOUs|=])')
_NAME = re.compile(r"\s*\{\s*([^{}\\]{0,100}?)\s*\}")
_VALUE = re.compile(r"\s*=?\s*-?(?:[0-9.]*\\[A-Za-z@]*(?:skip|width|height|indent|sep|depth|margin)"
                    r"|[0-9.]+(?:true)?(?:pt|em|ex|in|cm|mm|bp|pc|mu|sp)?(?![A-Za-z]))"
                    r"(?:\s*(?:plus|minus)\s*-?[0-9.]+\s*(?:pt|em|ex|in|cm|mm|fill?l?|fil))*\s?")  # fmt: skip

_CAPTION = re.compile(r"\bcaption\s*=\s*(?:\{(?:\[[^\]]*\])?((?:[^{}]|\{[^{}]*\})*)\}|([^,]+))")
_ASSIGNED = re.compile(rf"(?=\s*=\s*-?[0-9.]){_VALUE.pattern}")
_FONT = re.compile(
    r"\s*\\[A-Za-z@]+\s*=?\s*[^\s{}\\]+(?:\s*(?:scaled|at)\s*(?:\\magstep[a-z]*|[0-9.]+\s*[a-z]*)[0-9]?)? ?"
)

_SIZE = (
    r"(?:`\\?.|-?[0-9.]+\s*(?:true)?(?:pt|em|ex|in|cm|mm|bp|pc|mu|sp)?|-?[0-9.]*\\[A-Za-z@]+[0-9]*(?![A-Za-z@{]))"
    r"(?![A-Za-z])"
)
_PRIMITIVE = re.compile(rf"\s*(?:{_SIZE})?(?:\s*(?:by|to|=|spread|width|height|depth)\s*{_SIZE})* ?", re.S)


@dataclass(slots=True)
class _Group:
    """An open brace or environment: where in the output it begins, and what becomes of its content."""

    name: str  # of the environment, empty for a brace
    start: int
    action: Callable[[str], str] | None = None
    ending: str | None = None  # of an environment of the paper's own
    is_table: bool = False
    captions: list[str] = field(default_factory=list)
    head: tuple[int, int] | None = None  # of a long table: where parts and captions of its head end


@dataclass(slots=True)
class Converted:
    """What a paper became."""

    text: str
    title: str | None
    macros_expanded: int
    missing_files: int


def convert(main: str, files: Mapping[str, str], *, bibliography: bool, citations: bool) -> Converted:
    """Return the text of the paper whose main file is `main`; `files` are its sources by path.

    Raises: RefusedError for a source that nests or expands beyond all measure.
    """
    sources = {path: _braced(source.translate(_CONTROL)) for path, source in files.items()}
    return _Converter(sources, bibliography, citations).run(main)


def _braced(source: str) -> str:
    """Return a source of AMS-TeX with arguments in braces: `\\title{...}` for `\\title ... \\endtitle`."""
    parts: list[str] = []
    position, searched = 0, dict[str, int]()  # so that nothing is searched twice
    for end in names.DELIMITED.finditer(source):
        begin = source.rfind(f"\\{end[1]}", max(position, searched.get(end[1], 0)), end.start())
        searched[end[1]] = end.end()
        said = source[begin + len(end[1]) + 1 : end.start()].strip()
        if begin >= 0 and not source[begin + len(end[1]) + 1].isalpha():
            parts += [source[position:begin], f"\\{names.HEADS.get(end[1], end[1])}{{{said}}}"]
            position = end.end()
    return "".join([*parts, source[position:]])


class _Converter(Expansion):
    def __init__(self, files: Mapping[str, str], bibliography: bool, citations: bool) -> None:
        super().__init__(files)
        self._bibliography, self._citations = bibliography, citations
        self._groups: list[_Group] = []
        self._parts: list[str] = []
        self._kept: list[str] = []
        self._title: str | None = None
        self._has_chapters = False
        self._is_over = False
        self._tables = 0
        self._dispatch = self._commands()

    def run(self, main: str) -> Converted:
        source = self._files[main]
        self._in_body = self._is_plain = re.search(r"\\begin\s*\{document\}", source) is None
        self._push(source, main)
        while not self._is_over:
            match = _TOKENS[self._at_letter].match(self._text, self._at)
            if match is None:
                if not self._pop():
                    break
                continue
            self._at = match.end()
            self._token(match)
        while self._groups:
            self._close()
        body = self._finished("".join(self._parts))
        title = " ".join(self._title.split()) if self._title else None
        text = f"# {title}\n\n{body}" if title and body else body
        return Converted(text, title, self._expanded, self._missing)

    # Tokens ----------------------------------------------------------------------------------------------------------

    def _token(self, match: re.Match[str]) -> None:
        kind, text = match.lastgroup, match[0]
        parts = self._parts
        if kind == "words":
            parts.append(_SHORTHAND.sub(_shorthand, text) if self._has_shorthands and '"' in text else text)
        elif kind == "space":
            parts.append(_PARAGRAPH if text.count("\n") > 1 else " ")
        elif kind == "word":
            self._word(match["word"])
        elif kind == "sign":
            self._sign(match["sign"])
        elif kind in ("comment", "blank"):
            if match["blank"]:
                parts.append(_PARAGRAPH)
        elif kind == "quote":
            if self._has_shorthands and text in ("`", "'", "-") and parts and parts[-1].endswith('"'):
                parts[-1] = parts[-1][:-1] + {"`": "„", "'": "“", "-": ""}[text]
            elif text == "`" and parts and parts[-1][-1:] in ("!", "?"):
                parts[-1] = parts[-1][:-1] + {"!": "¡", "?": "¿"}[parts[-1][-1]]
            else:
                parts.append(names.QUOTES.get(text, text))
        else:
            self._other(text)

    def _other(self, character: str) -> None:
        if character == "{":
            self._open(_Group("", len(self._parts)))
        elif character == "}":
            if self._groups and not self._groups[-1].name:
                self._close()
        elif character == "~":
            self._parts.append(" ")
        elif character == "$":
            is_display = self._text.startswith("$", self._at)
            self._at += is_display
            self._math("$$" if is_display else "$", is_display)
        elif character == "&":
            self._parts.append(_CELL if self._tables else "&")
        elif character != "\\":  # at the very end
            self._parts.append(character)

    def _sign(self, sign: str) -> None:
        if sign == "(":
            self._math("\\)", False)
        elif sign == "[":
            self._math("\\]", True)
        elif sign == "\\":
            self._star()
            self._optional()
            self._parts.append(_ROW if self._groups and self._groups[-1].is_table else _BREAK)
        elif sign in "=>+" and self._groups and self._groups[-1].name == "tabbing":
            self._parts.append(" ")
        elif sign in ACCENTS and sign not in self._macros:
            self._accent(sign)
        elif sign in self._macros:
            self._expand(sign, self._macros[sign])
        elif sign == ";" and (group := self._float()) and group.name.startswith("algorithm"):
            self._parts.append(_BREAK)
        else:
            self._parts.append(ESCAPES.get(sign, ""))

    def _word(self, name: str) -> None:
        name, macro = self._meaning(name)
        if macro is not None:
            self._expand(name, macro)
        elif (command := self._dispatch.get(name)) is not None:
            command(name)
        elif (sign := self._symbols.get(name)) is not None:
            self._parts.append(sign)
            if self._text.startswith("{}", self._at):
                self._at += 2
        elif name in ACCENTS:
            self._accent(name)
        elif name in self._conditions or name in names.CONDITIONS:
            self._condition(name)
        elif (kinds := self._silent.get(name)) is not None:
            self._star()
            self._drop(kinds)
        elif names.CITES.fullmatch(name):
            self._cite(name)
        elif name in names.PRIMITIVES:
            if match := _PRIMITIVE.match(self._text, self._at):
                self._at = match.end()
        elif name.endswith(
            ("skip", "indent", "width", "height", "margin", "sep", "size", "stretch", "penalty", "tolerance")
        ):
            if match := _VALUE.match(self._text, self._at):
                self._at = match.end()
        elif match := _ASSIGNED.match(self._text, self._at):
            self._at = match.end()
        else:  # a word of nobody knows where: its arguments are text
            self._star()
            if self._text.startswith("[", self._at) and self._text[self._at - 1 : self._at].isalpha():
                self._optional()
            self._unknown_argument(len(self._parts))

    def _unknown_argument(self, start: int) -> bool:
        """Read an argument directly ahead as text."""
        is_there = self._text.startswith("{", self._at)
        if is_there:
            self._at += 1
            self._open(_Group("", start, self._unknown_closed))
        return is_there

    def _unknown_closed(self, content: str) -> str:
        """Let what arguments of one word say be words of their own."""
        return f"{content} " if self._unknown_argument(len(self._parts) + 1) else content

    def _accent(self, name: str) -> None:
        said = self._argument()
        if said is None:
            return
        said = said.strip()
        if (match := re.match(r"\{*\\([A-Za-z]+)\s*(?:\{\})?\}*", said)) and match[1] in self._symbols:
            said = {"i": "i", "j": "j"}.get(match[1], self._symbols[match[1]]) + said[match.end() :]
        said = said.lstrip("{")
        if not said:
            self._parts.append(name if not name.isalpha() else "")
        elif said[0] in "\\$":
            self._push(said)
        else:
            self._parts.append(unicodedata.normalize("NFC", said[0] + ACCENTS[name]))
            if rest := said[1:].replace("}", ""):
                self._push(rest)

    # Groups ----------------------------------------------------------------------------------------------------------

    def _open(self, group: _Group) -> None:
        if len(self._groups) >= MAX_GROUPS:
            raise RefusedError("too_deep", f"braces or environments over {MAX_GROUPS} deep")
        self._groups.append(group)

    def _close(self) -> None:
        group = self._groups.pop()
        self._tables -= group.is_table
        if group.action is None:
            return
        content = "".join(self._parts[group.start :])
        self._spend(len(content))
        del self._parts[group.start :]
        self._parts.append(group.action(content))

    def _grouped(self, action: Callable[[str], str]) -> None:
        """Let `action` say what becomes of the next argument's text."""
        if self._ahead() == "{":
            self._at += 1
            self._open(_Group("", len(self._parts), action))
        elif (said := self._argument()) is not None:
            self._push(said + "}")
            self._open(_Group("", len(self._parts), action))

    def _begin(self, _: str) -> None:
        match = _NAME.match(self._text, self._at)
        if match is None:
            return
        self._at = match.end()
        name = match[1]
        plain = name.rstrip("*")
        group = _Group(name, len(self._parts))
        if name == "document":
            self._begin_document()
        elif name in self._environments:
            macro, group.ending = self._environments[name]
            self._open(group)
            self._expand(name, macro)
        elif plain in names.DISPLAYS:
            self._drop("m" if plain in ("alignat", "xalignat") else "o" if plain in ("empheq", "IEEEeqnarray") else "")
            self._math(name, plain != "math")
        elif plain in names.VERBATIM:
            self._verbatim(name)
        elif plain in names.DRAWN:
            end = self._text.find(f"\\end{{{name}}}", self._at)
            self._spend((end if end >= 0 else len(self._text)) - self._at)
            self._at = end + len(name) + 6 if end >= 0 else self._at
        elif plain == "thebibliography" and not self._bibliography:
            group.action = lambda _: _PARAGRAPH
            self._drop("m")
            self._open(group)
        else:
            self._environment(name, plain, group)

    def _environment(self, name: str, plain: str, group: _Group) -> None:
        """Begin an environment whose content is text."""
        if plain in names.LISTS:
            kind = names.LISTS[plain]
            group.action = lambda content: self._listed(content, kind)
            self._drop("o")
        elif (columns := names.TABLES.get(name, names.TABLES.get(plain))) is not None:
            label = names.FLOATS.get(plain)
            self._drop("o" + "m" * columns)
            self._tables += 1
            group.is_table = True
            group.action = lambda content: self._tabulated(content) + "".join(group.captions)
            self._parts.append("" if label is None else _PARAGRAPH)
            group.start = len(self._parts)
        elif plain in names.FLOATS:
            is_drawn = names.FLOATS[plain] == "Figure"
            self._drop("o")
            group.action = lambda content: self._floated(content, group.captions, is_drawn)
        elif plain in self._theorems:
            note = self._optional()
            self._parts.append(_PARAGRAPH)
            title = self._theorems[plain]
            title = (note or title) if plain == "proof" else f"{title} ({note})" if note else title
            self._push(f"{title.rstrip('. ')}. ")
            group.action = lambda content: content + _PARAGRAPH
        elif plain in names.FRONT:
            self._optional()
            heading = self._heading(names.FRONT[plain])
            group.action = lambda content: heading(content) if content.strip() else ""
        elif plain == "thebibliography":
            self._drop("m")
            group.action = lambda content: f"{_PARAGRAPH}## References{_PARAGRAPH}{content}{_PARAGRAPH}"
        elif plain in ("quote", "quotation", "verse", "displayquote"):
            group.action = lambda content: _PARAGRAPH + _indented("> ", content, "> ") + _PARAGRAPH
        else:
            self._overlay()
            self._drop(names.BEGIN_ARGUMENTS.get(plain, "o"))
            if plain == "frame" and self._ahead() == "{":
                self._push("\\frametitle")
            elif plain in ("block", "alertblock", "exampleblock"):
                self._overlay()
                self._push(f"{self._argument() or ''}\\par ")
            if plain not in ("small", "footnotesize", "large", "bf", "em"):
                self._parts.append(_PARAGRAPH)
                group.start = len(self._parts)
                group.action = lambda content: content + _PARAGRAPH
        self._open(group)

    @staticmethod
    def _heading(title: str) -> Callable[[str], str]:
        return lambda content: f"{_PARAGRAPH}## {title}{_PARAGRAPH}{content}{_PARAGRAPH}"

    def _begin_document(self) -> None:
        if self._in_body:
            return
        self._in_body = True
        self._groups.clear()
        self._parts.clear()
        self._tables = self._at_letter = 0

    def _end(self, _: str) -> None:
        match = _NAME.match(self._text, self._at)
        if match is None:
            return
        self._at = match.end()
        name = match[1]
        if name == "document":
            self._is_over = self._in_body
            return
        depth = next((i for i in range(len(self._groups) - 1, -1, -1) if self._groups[i].name == name), None)
        if depth is None:
            return
        group = self._groups[depth]
        if group.ending is not None:
            ending, group.ending = group.ending, None
            self._push(f"{ending}\\end{{{name}}}")
            return
        while len(self._groups) > depth:
            self._close()

    def _floated(self, content: str, captions: list[str], is_drawn: bool) -> str:
        """Return a float without its graphics; captions of one within another come to the outer one."""
        if is_drawn and not (f"{_BREAK}| " in content or _KEPT.search(content)):
            content = ""
        if (outer := self._float()) is not None:
            outer.captions += captions
            captions = []
        return f"{_PARAGRAPH}{content}{_PARAGRAPH}{''.join(captions)}"

    def _float(self) -> _Group | None:
        return next((group for group in reversed(self._groups) if group.name.rstrip("*") in names.FLOATS), None)

    def _listed(self, content: str, kind: str) -> str:
        before, *items = content.split(_ITEM)
        lines = [before.strip(f" {_PARAGRAPH}{_BREAK}")] if before.strip(f" {_PARAGRAPH}{_BREAK}") else []
        for number, item in enumerate(items, 1):
            label, _, said = item.partition(_LABEL)
            said = said.strip(f" {_PARAGRAPH}{_BREAK}")
            label = label.strip()
            mark = f"{number}. " if kind == "1" else "- "
            if label and kind == ":":
                said = f"{label.rstrip(':')}: {said}"
            elif label and any(map(str.isalnum, label)):
                mark, said = "- ", f"{label} {said}"
            lines.append(_indented(mark, said, " " * len(mark)))
        return _PARAGRAPH + _BREAK.join(lines) + _PARAGRAPH

    def _tabulated(self, content: str) -> str:
        rows = [[" ".join(re.split(f"[ {_PARAGRAPH}{_BREAK}]+", cell)).strip() for cell in row.split(_CELL)]
                for row in content.split(_ROW)]  # fmt: skip
        rows = [row for row in rows if any(row)]
        width = max(map(len, rows), default=0)
        self._spend(width * len(rows))
        if width < 2:
            return _PARAGRAPH + _BREAK.join(row[0] for row in rows) + _PARAGRAPH
        lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in rows]
        lines.insert(1, "|" + " --- |" * width)
        return f"{_PARAGRAPH}{_BREAK}{_BREAK.join(lines)}{_PARAGRAPH}"

    # Mathematics -----------------------------------------------------------------------------------------------------

    def _math(self, closing: str, is_display: bool) -> None:
        """Read mathematics up to what closes it, a sign or the end of an environment, and keep it as LaTeX."""
        pieces: list[str] = []
        depth, is_inner = 0, False
        is_environment = closing[0] not in "$\\"
        while True:
            match = _MATH_TOKENS[self._at_letter].match(self._text, self._at)
            if match is None:
                if not self._pop():
                    break
                continue
            self._at = match.end()
            piece, kind = match[0], match.lastgroup
            if kind == "space" or kind in ("comment", "blank"):
                if piece.count("\n") > 1 and kind == "space" and closing == "$" and depth <= 0:
                    self._parts.append("".join(pieces) + _PARAGRAPH)  # never closed: it was no mathematics
                    return
                piece = "\n" if "\n" in piece else " " if kind == "space" else ""
            elif kind == "word":
                name = match["word"]
                if (
                    name == "end"
                    and is_environment
                    and (end := _NAME.match(self._text, self._at))
                    and end[1] == closing
                ):
                    self._at = end.end()
                    break
                piece = self._math_word(name)
            elif kind == "sign":
                if piece == closing:
                    break
                if match["sign"] in self._macros:
                    self._expand(match["sign"], self._macros[match["sign"]])
                    continue
            elif piece == "{":
                depth += 1
            elif piece == "}":
                depth -= 1
            elif piece == "$" and depth <= 0 and closing[0] == "$":
                self._at += closing == "$$" and self._text.startswith("$", self._at)
                break
            elif piece == "$":  # within text: as LaTeX writes it where a dollar would end what is around it
                piece, is_inner = "\\)" if is_inner else "\\(", not is_inner
            if piece and pieces and piece[0].isalpha() and pieces[-1][:1] == "\\" and pieces[-1][-1].isalpha():
                pieces.append(" ")
            if piece:
                pieces.append(piece)
        self._spend(sum(map(len, pieces)))
        self._keep_math("".join(pieces), closing if is_environment else "", is_display)

    def _math_word(self, name: str) -> str:
        """Return what a control word leaves in mathematics; what it stands for is read next."""
        name, macro = self._meaning(name)
        if macro is not None:
            if macro.body is None:
                return f"\\{name}"
            self._expand(name, macro)
            return ""
        if name in ("label", "index"):
            self._argument()
            return ""
        if name in self._conditions or name in names.CONDITIONS:
            self._condition(name, in_math=True)
            return ""
        if name == "mathchoice":
            chosen, *_others = (self._argument() for _ in range(4))
            self._push(chosen or "")
            return ""
        if name in ("else", "fi"):
            self._dispatch[name](name)
            return ""
        match = _NAME.match(self._text, self._at) if name in ("begin", "end") else None
        if match is not None and match[1] in self._environments:
            self._at = match.end()
            macro, ending = self._environments[match[1]]
            if name == "begin":
                self._expand(name, macro)
            else:
                self._push(ending)
            return ""
        return "" if name in ("nonumber", "notag", "ensuremath", "xspace", "protect") else f"\\{name}"

    def _keep_math(self, source: str, environment: str, is_display: bool) -> None:
        if not source.strip():
            return
        if not is_display:
            self._parts.append(self._stash(f"${' '.join(source.split())}$"))
            return
        source = "\n".join(line.rstrip() for line in source.split("\n") if line.strip()).strip()
        if environment and environment.rstrip("*") not in names.BARE:
            source = f"\\begin{{{environment}}}\n{source}\n\\end{{{environment}}}"
        self._parts += [_PARAGRAPH, self._stash(f"$${source}$$"), _PARAGRAPH]

    def _stash(self, source: str) -> str:
        self._kept.append(source)
        return f"\x02{len(self._kept) - 1}\x03"

    # Commands --------------------------------------------------------------------------------------------------------

    def _commands(self) -> dict[str, Callable[[str], object]]:
        """Return what is done at each control word that has a part in the structure or the definitions."""
        inline = self._inline
        commands: dict[str, Callable[[str], object]] = {
            **dict.fromkeys(names.SECTIONS, self._section),
            **dict.fromkeys(names.REFERENCES, self._reference),
            **dict.fromkeys(
                ("newcommand", "renewcommand", "providecommand", "DeclareRobustCommand", "newrobustcmd"),
                self._newcommand,
            ),
            **dict.fromkeys(
                ("NewDocumentCommand", "RenewDocumentCommand", "DeclareDocumentCommand"), self._document_command
            ),
            **dict.fromkeys(("def", "gdef", "edef", "xdef", "define", "redefine"), self._def),
            **dict.fromkeys(("let", "LetLtxMacro", "NewCommandCopy", "DeclareCommandCopy"), self._let),
            **dict.fromkeys(("newenvironment", "renewenvironment", "provideenvironment"), self._newenvironment),
            **dict.fromkeys(("newtheorem", "spnewtheorem"), self._newtheorem),
            **dict.fromkeys(("input", "include", "subfile", "subfileinclude", "@input"), self._input),
            **dict.fromkeys(("import", "subimport", "inputfrom", "includefrom"), self._import),
            **dict.fromkeys(("verb", "lstinline", "mintinline", "Verb"), self._verb),
            **dict.fromkeys(("url", "nolinkurl", "path"), self._url),
            **dict.fromkeys(names.STEPS, self._step),
            **dict.fromkeys(names.STEP_WORDS, lambda name: self._parts.append(f"{_BREAK}{names.STEP_WORDS[name]} ")),
            **dict.fromkeys(
                ("par", "bigskip", "medskip", "smallskip", "newpage", "clearpage"),
                lambda _: self._parts.append(_PARAGRAPH),
            ),
            **dict.fromkeys(("newline", "linebreak"), lambda _: self._parts.append(_BREAK)),
            **dict.fromkeys(("tabularnewline", "cr"), lambda _: self._parts.append(_ROW if self._tables else _BREAK)),
            **dict.fromkeys(("footnote", "footnotetext", "endnote"), self._footnote),
            **dict.fromkeys(
                ("textsuperscript", "up", "textsu"), inline(lambda said: _raised(said, names.SUPERSCRIPTS))
            ),
            **dict.fromkeys(("textsubscript",), inline(lambda said: _raised(said, names.SUBSCRIPTS))),
            **dict.fromkeys(("title", "icmltitle"), inline(self._set_title, "o")),
            **dict.fromkeys(("ensuremath",), lambda _: self._push(f"${self._argument() or ''}$")),
            **dict.fromkeys(("enquote",), inline(lambda said: f"“{said}”")),
            **dict.fromkeys(("marginpar", "sidenote", "marginnote"), inline(lambda said: f" ({said.strip()})", "o")),
            **dict.fromkeys(
                ("caption", "subcaption", "captionof", "caption*", "tablecaption", "figcaption"), self._caption
            ),
            **dict.fromkeys(("num", "si", "SI", "qty", "unit", "ang", "SIrange"), self._quantity),
        }
        return commands | {
            "abstract": inline(self._heading("Abstract")),
            "keywords": inline(lambda said: f"{_PARAGRAPH}Keywords: {said}{_PARAGRAPH}", "o"),
            "begin": self._begin,
            "end": self._end,
            "item": self._item,
            "bibitem": self._bibitem,
            "sep": lambda _: self._parts.append(", "),
            **dict.fromkeys(("Comment", "COMMENT", "tcp", "tcc"), inline(lambda said: f" // {said}{_BREAK}")),
            **dict.fromkeys(("bye", "enddocument"), lambda _: setattr(self, "_is_over", self._in_body)),
            **dict.fromkeys(names.STATEMENTS, self._statement),
            **dict.fromkeys((f"end{name}" for name in names.STATEMENTS), lambda _: self._parts.append(_PARAGRAPH)),
            "Refs": self._refs,
            "roster": lambda _: self._push("\\begin{itemize}"),
            "endroster": lambda _: self._push("\\end{itemize}"),
            "beginsection": self._beginsection,
            "itemitem": self._item,
            "halign": self._halign,
            "font": self._font,
            "tablehead": lambda _: self._push(f"{self._argument() or ''}\\tabularnewline " if self._tables else ""),
            **dict.fromkeys(("tablenotetext", "tablecomments", "tablerefs"), self._table_note),
            **dict.fromkeys(("headline", "footline", "everypar", "output"), lambda _: self._assigned()),
            **dict.fromkeys(("IEEEPARstart", "PARstart", "lettrine"), self._initial),
            **dict.fromkeys(("endfirsthead", "endhead", "endfoot"), lambda _: self._repeated()),
            "tikz": self._drawn,
            "bibliography": self._references,
            "href": self._href,
            "multicolumn": self._multicolumn,
            "newif": self._newif,
            "else": lambda _: self._skip_branch(("fi",)),
            "fi": lambda _: None,
            "DeclareMathOperator": self._operator,
            "makeatletter": lambda _: setattr(self, "_at_letter", 1),
            "makeatother": lambda _: setattr(self, "_at_letter", 0),
            "endinput": self._end_input,
            "usepackage": self._package,
            "char": self._char,
            "symbol": self._char,
            "texorpdfstring": self._first_of_two,
            "csname": lambda _: self._skip_to("\\endcsname"),
            "hyperref": lambda _: self._drop("o" if self._ahead() == "[" else "mmm"),
            **dict.fromkeys(("iftoggle", "ifbool", "ifthenelse", "IfFileExists", "ifstrequal"), self._choice),
            **dict.fromkeys(("toggletrue", "togglefalse", "booltrue", "boolfalse"), self._toggle),
            **dict.fromkeys(("newtoggle", "newbool", "providetoggle"), lambda _: self._drop("m")),
            "lstinputlisting": self._listing,
            "InputIfFileExists": self._input,
            "qedhere": lambda _: None,
            "frametitle": self._section,
            **dict.fromkeys(("hspace", "vspace", "hskip", "vskip"), self._gap),
            "xspace": self._xspace,
            **dict.fromkeys(("glspl", "Glspl", "acp", "acrshortpl"), inline(lambda said: f"{said}s", "o")),
            **dict.fromkeys(("subfigure", "subfloat", "subcaptionbox"), self._subfigure),
            **dict.fromkeys(names.OVERLAYS, lambda _: self._overlay()),
            "subtitle": inline(lambda _: ""),
        }

    def _inline(self, action: Callable[[str], str], dropped: str = "") -> Callable[[str], None]:
        """Return a command whose argument's text `action` changes."""

        def command(_: str) -> None:
            self._star()
            self._drop(dropped)
            self._grouped(action)

        return command

    def _footnote(self, _: str) -> None:
        is_marked = self._is_plain and re.compile(r"\s*\{[^{}]{0,20}\}\s*\{").match(self._text, self._at)
        self._drop("m" if is_marked else "o")
        self._grouped(lambda said: f" ({said.strip()})")

    def _font(self, _: str) -> None:
        if match := _FONT.match(self._text, self._at):
            self._at = match.end()

    def _assigned(self) -> None:
        """Go over a text that is kept for later."""
        self._at += self._ahead() == "="
        self._argument()

    def _initial(self, _: str) -> None:
        self._optional()
        self._push((self._argument() or "") + (self._argument() or ""))

    def _drawn(self, _: str) -> None:
        self._optional()
        if self._ahead() == "{":
            self._argument()
        else:
            self._skip_to(";")

    def _table(self) -> _Group | None:
        return next((group for group in reversed(self._groups) if group.is_table), None)

    def _table_note(self, name: str) -> None:
        self._drop("m" if name == "tablenotetext" else "")
        notes = table.captions if (table := self._table()) else self._parts

        def noted(said: str) -> str:
            notes.append(f"{_PARAGRAPH}{said.strip()}{_PARAGRAPH}")
            return ""

        self._grouped(noted)

    def _repeated(self) -> None:
        """Leave out what a long table says again on each page."""
        table = self._table()
        if table is not None and table.head is not None:
            del self._parts[table.head[0] :], table.captions[table.head[1] :]
        elif table is not None:
            table.head = len(self._parts), len(table.captions)

    def _statement(self, name: str) -> None:
        """Begin a theorem of AMS-TeX, or one of plain TeX, whose title goes up to the first full stop."""
        self._parts.append(_PARAGRAPH)
        if self._ahead() == "{":
            self._grouped(lambda said: f"{said.rstrip('. ')}. ")

    def _refs(self, _: str) -> None:
        self._parts.append(f"{_PARAGRAPH}## References{_PARAGRAPH}" if self._bibliography else _PARAGRAPH)
        if self._bibliography:
            self._dispatch |= {"ref": lambda _: self._parts.append(_PARAGRAPH)}
        else:
            self._skip_to("\\endRefs", len(self._text))

    def _beginsection(self, _: str) -> None:
        end = re.compile(r"[^\n]{0,300}").match(self._text, self._at)
        assert end is not None, "it may be empty"
        self._at = end.end()
        self._push(f"\\section{{{end[0].strip()}}}\n\n")

    def _halign(self, _: str) -> None:
        """Read plain TeX's table; its first row says what columns look like."""
        end = self._text.find("{", self._at, self._at + 100)
        self._at = end if end >= 0 else self._at
        rows = (self._argument() or "").partition("\\cr")[2]
        self._push(f"\\begin{{tabular}}{{}}{rows}\\end{{tabular}}")

    def _skip_to(self, end: str, limit: int = 1000) -> None:
        found = self._text.find(end, self._at, self._at + limit)
        self._at = found + len(end) if found >= 0 else self._at

    def _first_of_two(self, _: str) -> None:
        said, _other = self._argument(), self._argument()
        self._push(said or "")

    def _set_title(self, said: str) -> str:
        said = self._restored(said.replace(_BREAK, " ").replace(_PARAGRAPH, " ")).strip()
        self._title = self._title or said or None
        return ""

    def _gap(self, name: str) -> None:
        self._star()
        if name.endswith("space"):
            self._argument()
        elif match := _VALUE.match(self._text, self._at):
            self._at = match.end()
        self._parts.append(" ")

    def _xspace(self, _: str) -> None:
        """Put a space that the macro's name has swallowed, unless what follows needs none."""
        while self._at == len(self._text) and not self._file and self._pop():
            pass
        if re.compile(r"[^\s,.'/?;:!~)}{\]\\-]|\\[A-Za-z]").match(self._text, self._at):
            self._parts.append(" ")

    def _section(self, name: str) -> None:
        self._star()
        self._overlay()
        self._optional()
        self._has_chapters = self._has_chapters or name == "chapter"
        level = min(6, 2 + max(0, names.SECTIONS[name] - (not self._has_chapters)))

        def heading(said: str) -> str:
            said = " ".join(re.sub(f"[{_PARAGRAPH}{_BREAK}]", " ", said).split())
            return f"{_PARAGRAPH}{'#' * level} {said}{_PARAGRAPH}" if said else _PARAGRAPH

        self._grouped(heading)

    def _subfigure(self, name: str) -> None:
        said = self._argument() if name == "subcaptionbox" else self._optional()
        if said and said.strip():
            self._push(f"\\caption{{{said}}} ")

    def _overlay(self) -> None:
        """Go over what says on which slides something is shown."""
        if match := re.compile(r"<[^<>\n]{0,40}>").match(self._text, self._at):
            self._at = match.end()

    def _caption(self, name: str) -> None:
        self._star()
        label = (self._argument() or "").strip().capitalize() if name == "captionof" else None
        self._optional()
        group = self._float()
        label = label or names.FLOATS[group.name.rstrip("*")] if group else label

        def captioned(said: str) -> str:
            said = re.sub(f"[{_PARAGRAPH}{_BREAK}]", " ", said).strip()
            line = f"{_PARAGRAPH}{label}: {said}{_PARAGRAPH}" if label else f"{_PARAGRAPH}{said}{_PARAGRAPH}"
            if group is None or not said:
                return line if said else ""
            group.captions.append(line)
            return ""

        self._grouped(captioned)

    def _reference(self, name: str) -> None:
        self._star()
        self._optional()
        key = " ".join((self._argument() or "").split())
        if key:
            self._parts.append(f"([{key}])" if name == "eqref" else f"[{key}]")

    def _cite(self, name: str) -> None:
        self._star()
        self._drop("pp" if name.endswith("cites") else "")
        said: list[str] = []
        while not said or (name.endswith("cites") and self._ahead() in ("[", "{")):
            notes = [note for note in (self._optional(), self._optional()) if note]
            keys = [key.strip() for key in (self._argument() or "").split(",") if key.strip()]
            said += [*keys, *notes]
            if not keys:
                break
        if not self._citations or not said or name == "nocite":
            while self._parts and self._parts[-1] == " ":
                self._parts.pop()
            return
        self._parts.append("[")
        self._push(f"\\relax {', '.join(said)}]".replace("_", "\\_"))

    def _item(self, _: str) -> None:
        self._overlay()
        label = self._optional()
        self._parts.append(
            _ITEM if any(group.name.rstrip("*") in names.LISTS for group in self._groups) else f"{_BREAK}- "
        )
        if self._parts[-1] == _ITEM:
            self._push(f"{{{label or ''}}}")
            self._grouped(lambda said: f"{said}{_LABEL}")
        elif label:
            self._push(label + " ")

    def _bibitem(self, _: str) -> None:
        self._optional()
        self._parts.append(f"{_PARAGRAPH}[{(self._argument() or '').strip()}] ")

    def _references(self, _: str) -> None:
        self._argument()
        lists = [path for path in sorted(self._files) if path.endswith(".bbl")]
        if self._bibliography and lists:
            stem = next((file for *_, file in reversed(self._frames) if file), self._file).rsplit(".", 1)[0]
            self._include(f"{stem}.bbl" if f"{stem}.bbl" in lists else lists[0])

    def _href(self, _: str) -> None:
        self._optional()
        url = (self._argument(RAW_BRACE) or "").strip().replace("\\", "")
        self._grouped(lambda said: f"[{said.strip()}]({url})" if said.strip() and said.strip() != url else url)

    def _url(self, _: str) -> None:
        if self._ahead() == "{":
            said = self._argument(RAW_BRACE) or ""
        else:
            delimiter = self._text[self._at : self._at + 1]
            end = self._text.find(delimiter, self._at + 1, self._at + 2000) if delimiter else -1
            said = self._text[self._at + 1 : end] if end >= 0 else ""
            self._at = end + 1 if end >= 0 else self._at
        self._parts.append(re.sub(r"\\([%#_&~{}])|\s+", lambda match: match[1] or "", said))

    def _verb(self, name: str) -> None:
        self._star()
        if name != "verb":
            self._optional()
        if name == "mintinline":
            self._argument()
        delimiter = self._text[self._at : self._at + 1]
        delimiter = "}" if delimiter == "{" else delimiter
        end = self._text.find(delimiter, self._at + 1, self._at + 2000) if delimiter else -1
        if end < 0:
            return
        said = self._text[self._at + 1 : end]
        self._at = end + 1
        if said.strip():
            mark = "``" if "`" in said else "`"
            self._parts.append(self._stash(f"{mark}{said.strip()}{mark}"))

    def _verbatim(self, name: str) -> None:
        plain = name.rstrip("*")
        options = self._optional() or "" if plain in ("minted", "lstlisting", "Verbatim") else ""
        self._drop("m" if plain == "minted" else "")
        closing = f"\\end{{{name}}}"
        end = self._text.find(closing, self._at)
        code = self._text[self._at : end if end >= 0 else len(self._text)]
        self._at += len(code) + (len(closing) if end >= 0 else 0)
        self._code(code)
        if match := _CAPTION.search(options):
            self._push(f"\\captionof{{listing}}{{{match[1] or match[2]}}}")

    def _listing(self, _: str) -> None:
        self._optional()
        path = self._found(self._argument() or "")
        if path is not None and self._in_body:
            self._code(self._files[path])

    def _code(self, code: str) -> None:
        self._spend(len(code))
        code = code.strip("\n").rstrip()
        if code.strip():
            fence = "~~~" if "```" in code else "```"
            self._parts += [_PARAGRAPH, self._stash(f"{fence}\n{code}\n{fence}"), _PARAGRAPH]

    def _quantity(self, name: str) -> None:
        self._optional()
        numbers = 2 if name == "SIrange" else 0 if name in ("si", "unit") else 1
        signs = units()

        def plain(said: str) -> str:
            said = re.sub(
                r"\\(?:raise)?tothe\s*\{([^{}]*)\}", lambda match: _raised(match[1], names.SUPERSCRIPTS), said
            )
            said = re.sub(r"\\([A-Za-z]+)\s*", lambda match: signs.get(match[1], match[1]), said)
            return said.replace("{", "").replace("}", "").replace("$", "")

        said = [plain(self._argument() or "") for _ in range(numbers)]
        unit = "°" if name == "ang" else ""
        if name not in ("num", "ang"):
            self._optional()
            said_unit = re.sub(r"\\(square|cubic)\s*(\\[A-Za-z]+)", r"\2\\\1d", self._argument() or "")
            unit = plain(said_unit).replace(".", " ").replace("~", " ")
        gap = " " if said and unit and name != "ang" else ""
        self._parts.append("–".join(said) + gap + unit)

    def _multicolumn(self, _: str) -> None:
        number = (self._argument() or "").strip()
        self._argument()
        more = min(50, int(number)) - 1 if re.fullmatch("[0-9]{1,3}", number) else 0
        self._grouped(lambda said: said + (_CELL * more if self._tables else ""))

    def _step(self, name: str) -> None:
        before, behind = names.STEPS[name]
        self._parts.append(_BREAK + before)
        if name in ("Procedure", "Function"):
            self._push(f"{self._argument() or ''}({self._argument() or ''})")
        elif behind or before:
            self._grouped(lambda said: said + behind + (_BREAK if behind else ""))

    def _char(self, name: str) -> None:
        if name == "symbol":
            self._push((self._argument() or "") + " ")
        match = re.compile(r"(?:'([0-7]{1,6})|\"([0-9A-F]{1,5})|([0-9]{1,6})|`\\?(.)) ?", re.S).match(
            self._text, self._at
        )
        if match is not None:
            self._at = match.end()
            code = (
                int(match[1], 8)
                if match[1]
                else int(match[2], 16)
                if match[2]
                else int(match[3])
                if match[3]
                else ord(match[4])
            )
            if 32 <= code < 0xD800 or 0xE000 <= code < 0x110000:
                self._parts.append(chr(code))

    # The text --------------------------------------------------------------------------------------------------------

    def _restored(self, text: str) -> str:
        """Return a text with what was kept; of several lines all stand in the list, quotation or row of the first."""

        def restored(line: re.Match[str]) -> str:
            indent, is_row = re.sub("[^>]", " ", line[1]), line[2].startswith("|")
            return line[1] + _KEPT.sub(
                lambda match: self._kept[int(match[1])].replace("\n", " " if is_row else f"\n{indent}"), line[2]
            )

        for _ in range(3):  # a formula in code in a cell
            if "\x02" not in text:
                break
            text = _KEPT_LINE.sub(restored, text)
        return text

    def _finished(self, text: str) -> str:
        text = re.sub(f"[{_CELL}{_ROW}{_LABEL}]", " ", text).replace(_ITEM, f"{_BREAK}- ")
        text = re.sub(" +", " ", text)
        text = _BLANKS.sub("\n\n", text)
        text = re.sub(f" *{_BREAK}[{_BREAK} ]*", "\n", text)
        text = text.replace(_INDENT, " ")
        return self._restored(re.sub(r"\n{3,}", "\n\n", text)).strip()


def _indented(mark: str, content: str, indent: str) -> str:
    """Return a block's text with `mark` before its first line and `indent` before the others."""
    hard = indent.replace(" ", _INDENT)
    content = content.strip(f" {_PARAGRAPH}{_BREAK}")
    content = re.sub(f" *[{_PARAGRAPH}{_BREAK}][ {_PARAGRAPH}{_BREAK}]*", _BREAK + hard, content)
    return mark + content


def _shorthand(match: re.Match[str]) -> str:
    """Return what a letter or sign behind a quotation mark is in German sources."""
    sign = match[1]
    return unicodedata.normalize("NFC", f"{sign}\u0308") if sign in "aouAOU" else {"s": "ß", "=": "-"}.get(sign, "")


def _raised(said: str, table: dict[int, int]) -> str:
    """Return a superscript or subscript: digits as Unicode has them, letters as they are."""
    said = said.strip()
    if said and all(ord(character) in table for character in said):
        return said.translate(table)
    return said
