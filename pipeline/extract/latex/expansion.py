"""The source of a paper as TeX reads it: files within one another, arguments, definitions, conditions.

The input is a stack of strings (files, bodies of macros), so no depth of nesting costs Python's stack. All that a
source can make large (expansions, scanning for what never comes) is counted.

Source: The TeXbook, chapters 7, 8 and 20; source2e for the names and arguments of LaTeX's commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pipeline.extract.conversion import RefusedError
from pipeline.extract.latex import names
from pipeline.extract.latex.symbols import ACCENTS, silent, symbols

MAX_FILES = 1000
MAX_FRAMES = 500
MAX_MACROS = 20_000
MAX_BODY = 20_000
WORK_PER_CHARACTER, MIN_WORK = 40, 4 << 20
"""Characters that may be read, again or from macros, for each of the source."""

GAP = r"(?:[ \t]*\n(?![ \t]*\n)[ \t]*|[ \t]+)?"  # behind a control word: no empty line
_BRACE = re.compile(r"\\.|[{}]|%[^\n]*", re.S)
RAW_BRACE = re.compile(r"\\.|[{}]", re.S)  # of what has no comments
_BRACKET = re.compile(r"\\.|[{}\]]|%[^\n]*|\n[ \t]*\n", re.S)
_NEXT_GAP = re.compile(r"[ \t]*(?:%[^\n]*\n[ \t]*|\n(?![ \t]*\n)[ \t]*)*")
_CONTROL_NAME = re.compile(r"\s*(?:\{\s*\\([A-Za-z@]+\*?|.)\s*\}|\\([A-Za-z@]+|.))", re.S)
_FI = re.compile(r"%[^\n]*\n?|\\([A-Za-z@]+|.)", re.S)
_WORD = re.compile(r"\\([A-Za-z@]+|.)", re.S)
_PLACE = re.compile(r"(\\[A-Za-z@]+)?#([1-9])")
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*(?:\n[ \t]*)?")
_COMPLEX = re.compile(
    r"@|\\(csname|expandafter|catcode|futurelet|noexpand|aftergroup|output|read|loop|edef)(?![A-Za-z])"
)


@dataclass(frozen=True, slots=True)
class Macro:
    """A control word of the paper's own; a body of None is beyond what is expanded.

    `known` is the word of LaTeX's whose meaning `\\let` gave it: it keeps that when the paper defines the word anew.
    """

    arguments: int
    default: str | None
    body: str | None
    known: str | None = None


class Expansion:
    """The input, and what the paper defines. What is done at each control word is in `_dispatch`."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files
        self._lowered = {path.lower(): path for path in sorted(files, reverse=True)}  # as Windows and macOS find them
        self._text, self._at, self._file = "", 0, ""  # what is being read, from where, and the file's name if it is one
        self._frames: list[tuple[str, int, str]] = []  # what goes on behind it
        self._dispatch: dict[str, Callable[[str], object]] = {}
        self._macros: dict[str, Macro] = {}
        self._environments: dict[str, tuple[Macro, str]] = {}
        self._theorems: dict[str, str] = {name: title or name.capitalize() for name, title in names.THEOREMS.items()}
        self._conditions: dict[str, bool] = {}
        self._synonyms: dict[str, str] = {}  # of words of conditions
        self._at_letter = 0
        self._has_shorthands = False  # of German, where `"a` is ä
        self._in_body = False
        self._expanded = self._missing = self._included = 0
        self._work = MIN_WORK + WORK_PER_CHARACTER * sum(map(len, files.values()))
        self._symbols, self._silent = symbols(), silent()

    def _spend(self, characters: int) -> None:
        self._work -= characters
        if self._work < 0:
            raise RefusedError("oversize", "its macros expand, or its brackets nest, to many times its size")

    def _push(self, text: str, file: str = "") -> None:
        """Read `text` before what is left of the input."""
        self._spend(len(text) + 64)
        if self._at < len(self._text) or self._file:
            if len(self._frames) >= 2 * MAX_FRAMES:
                raise RefusedError("too_deep", f"macros or files within one another over {2 * MAX_FRAMES} deep")
            self._frames.append((self._text, self._at, self._file))
        self._text, self._at, self._file = text, 0, file

    def _pop(self) -> bool:
        """Go on behind what has been read to its end; False at the end of it all."""
        if not self._frames:
            return False
        self._text, self._at, self._file = self._frames.pop()
        return True

    def _ahead(self) -> str:
        """Go over spaces and comments, but no empty line, and return the next character, empty at the end."""
        while True:
            self._at = _NEXT_GAP.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if self._file or not self._pop():
                return ""

    def _balanced(self, pattern: re.Pattern[str], closing: str) -> str | None:
        """Return what stands up to a closing brace or bracket and go behind it; None when there is none."""
        depth, begin = 0, self._at
        for match in pattern.finditer(self._text, begin):
            found = match[0]
            if depth == 0 and found == closing:
                self._spend(match.end() - begin)
                self._at = match.end()
                return self._text[begin : match.start()]
            if found == "{":
                depth += 1
            elif found == "}":
                depth -= 1
                if depth < 0:
                    break
            elif found[0] in "\n \t" and depth == 0:
                break
        self._spend(len(self._text) - begin)
        return None

    def _argument(self, braces: re.Pattern[str] = _BRACE) -> str | None:
        """Return the next argument as it is written, None where there is none."""
        character = self._ahead()
        if character == "{":
            self._at += 1
            found = self._balanced(braces, "}")
            if found is None:
                self._at -= 1
                found = self._text[self._at + 1 :]
                self._at = len(self._text)
            return found
        if character in ("", "}", "\n"):
            return None
        match = re.compile(r"\\(?:[A-Za-z@]+|.)|.", re.S).match(self._text, self._at)
        assert match is not None, "there is a character"
        self._at = match.end()
        return match[0]

    def _optional(self) -> str | None:
        """Return what stands in brackets directly ahead, None without them."""
        if self._ahead() != "[":
            return None
        self._at += 1
        found = self._balanced(_BRACKET, "]")
        self._at -= found is None
        return found

    def _drop(self, kinds: str) -> None:
        """Go over arguments: m(andatory), o(ptional), p(arenthesised), g(roup, where there is one)."""
        for kind in kinds:
            if kind == "m" or (kind == "g" and self._ahead() == "{"):
                self._argument()
            elif kind == "o":
                self._optional()
            elif kind == "p" and self._ahead() == "(" and (end := self._text.find(")", self._at, self._at + 200)) >= 0:
                self._at = end + 1

    def _star(self) -> bool:
        starred = self._text.startswith("*", self._at)
        self._at += starred
        return starred

    def _expand(self, name: str, macro: Macro) -> None:
        if macro.body is None:
            return
        if len(self._frames) >= MAX_FRAMES and name in self._macros:  # it may go on for ever: no more of it
            self._macros[name] = Macro(macro.arguments, macro.default, None)
            return
        self._expanded += 1
        arguments: list[str] = []
        if macro.default is not None:
            given = self._optional()
            arguments.append(macro.default if given is None else given)
        while len(arguments) < macro.arguments:
            arguments.append(self._argument() or "")

        def filled(place: re.Match[str]) -> str:
            word, number = place[1] or "", int(place[2])
            said = arguments[number - 1] if number <= len(arguments) else ""
            return f"{word} {said}" if word and said[:1].isalpha() else word + said

        body = macro.body
        self._push(_PLACE.sub(filled, body) if arguments else body)

    def _meaning(self, name: str) -> tuple[str, Macro | None]:
        """Return the word whose meaning a control word has, and the paper's macro, None when the word is LaTeX's."""
        macro = self._macros.get(name)
        if macro is None or macro.known is None:
            return name, macro
        self._expanded += 1
        return macro.known, None

    def _define(self, name: str | None, macro: Macro) -> None:
        if name is None or name in names.CORE or len(self._macros) >= MAX_MACROS:
            return
        body = _COMMENT.sub(r"\1", macro.body or "")
        is_simple = len(body) <= MAX_BODY and not _COMPLEX.search(body)
        is_known = name in self._dispatch or name in self._symbols or name in self._silent or name in ACCENTS
        if not is_simple and (is_known or "@" in name or names.CITES.fullmatch(name)):
            return
        loops = macro.arguments == 0 and name in _WORD.findall(body)
        self._macros[name] = replace(macro, body=body if is_simple and not loops else None)

    def _control_name(self) -> str | None:
        match = _CONTROL_NAME.match(self._text, self._at)
        if match is None:
            self._argument()
            return None
        self._at = match.end()
        return match[1] or match[2]

    def _signature(self) -> tuple[int, str | None]:
        """Return how many arguments a definition has, and the default of the first."""
        number = (self._optional() or "0").strip()
        return min(9, int(number)) if re.fullmatch("[0-9]{1,2}", number) else 0, self._optional()

    def _newcommand(self, kind: str) -> None:
        self._star()
        name = self._control_name()
        arguments, default = self._signature()
        body = self._argument() or ""
        if kind != "providecommand" or name not in self._macros:
            self._define(name, Macro(arguments, default, body))

    def _document_command(self, _: str) -> None:
        name, kinds, body = self._control_name(), self._argument() or "", self._argument()
        is_plain = re.fullmatch(r"[m\s]*", kinds) is not None
        self._define(name, Macro(kinds.count("m"), None, body if is_plain else "\\csname"))

    def _def(self, _: str) -> None:
        name = self._control_name()
        begin = self._text.find("{", self._at)
        if begin < 0 or begin - self._at > 200:
            return
        pattern, self._at = self._text[self._at : begin].strip(), begin
        body = self._argument()
        is_plain = re.fullmatch(r"(#[1-9])*", pattern) is not None
        self._define(name, Macro(pattern.count("#"), None, body if is_plain else "\\csname"))

    def _let(self, _: str) -> None:
        name = self._control_name()
        self._at = re.compile(r"\s*=?\s*").match(self._text, self._at).end()  # type: ignore[union-attr]
        is_word = self._text.startswith(("\\", "{\\"), self._at)
        other = self._control_name() if is_word else self._argument()
        if name and other and name not in names.CORE and name != other:
            known = self._macros.get(other)
            if other in ("fi", "else", "or") or other in names.CONDITIONS:
                self._synonyms[name] = other
                self._dispatch[name] = self._dispatch.get(other) or (lambda _: self._condition(other))
            elif known is not None:
                self._macros[name] = known
            elif "@" not in other and "@" not in name:
                meaning = other if is_word and other.isalpha() else None
                self._define(name, Macro(0, None, f"\\{other} " if is_word else other, meaning))

    def _operator(self, _: str) -> None:
        star = "*" if self._star() else ""
        name, body = self._control_name(), self._argument()
        self._define(name, Macro(0, None, f"\\operatorname{star}{{{body}}}"))

    def _newenvironment(self, _: str) -> None:
        self._star()
        name = (self._argument() or "").strip()
        arguments, default = self._signature()
        begin, end = (_COMMENT.sub(r"\1", self._argument() or "") for _ in range(2))
        is_known = (
            name in names.LISTS
            or name in names.TABLES
            or name in names.FLOATS
            or name in names.DISPLAYS
            or name in self._theorems
        )
        is_known = is_known or name in ("document", "abstract", "thebibliography")
        if is_known or any(map(_COMPLEX.search, (begin, end))) or max(len(begin), len(end)) > MAX_BODY or "#" in end:
            return
        if not name or len(self._environments) >= MAX_MACROS or f"\\begin{{{name}}}" in begin:
            return
        self._environments[name] = Macro(arguments, default, begin), end

    def _newtheorem(self, _: str) -> None:
        self._star()
        name, _shared, title, _within = (
            (self._argument() or "").strip(),
            self._optional(),
            self._argument(),
            self._optional(),
        )
        if name and title and len(self._theorems) < MAX_MACROS:
            self._theorems[name.rstrip("*")] = title

    def _newif(self, _: str) -> None:
        name = self._control_name() or ""
        if name.startswith("if") and len(self._conditions) < MAX_MACROS:
            self._conditions[name] = False
            for value in ("true", "false"):
                self._dispatch[f"{name[2:]}{value}"] = self._set_condition

    def _set_condition(self, name: str) -> None:
        is_true = name.endswith("true")
        self._conditions[f"if{name.removesuffix('true' if is_true else 'false')}"] = is_true

    def _condition(self, name: str, in_math: bool = False) -> None:
        """Take one of the two branches: as the paper set it, or as it can be told, else the first."""
        is_true = self._conditions.get(name, name in names.TRUE)
        if name == "ifmmode":
            is_true = in_math
        elif name in ("ifx", "if", "ifcat"):
            first, second = self._argument(), self._argument()
            macros = [self._macros.get((token or "")[1:]) for token in (first, second)]
            is_true = first == second or (macros[0] is not None and macros[0] == macros[1])
        elif name in ("ifnum", "ifdim", "ifodd", "ifcase"):
            number = r"([^\s\\<>=]*|\\[A-Za-z@]+)\s*"
            pattern = rf"\s*{number}([<>=]?)\s*{number}" if name in ("ifnum", "ifdim") else rf"\s*{number}()()"
            match = re.compile(pattern).match(self._text, self._at)
            assert match is not None, "it may be empty"
            self._at = match.end()
            left, right = (int(n) if re.fullmatch("-?[0-9]{1,9}", n) else 0 for n in (match[1], match[3]))
            is_true = {"<": left < right, ">": left > right, "=": left == right, "": left % 2 == 1}[match[2]]
        elif name == "ifdefined":
            is_true = (self._control_name() or "") in self._macros
        if not is_true:
            self._skip_branch(stops=("else", "fi"))

    def _skip_branch(self, stops: tuple[str, ...]) -> None:
        depth, saved = 0, (self._text, self._at, self._file, self._frames[:])
        while True:
            begin = self._at
            for match in _FI.finditer(self._text, begin):
                name = self._synonyms.get(match[1], match[1])
                if depth == 0 and name in stops:
                    self._spend(match.end() - begin)
                    gap = re.compile(GAP).match(self._text, match.end())
                    self._at = gap.end() if gap else match.end()
                    return
                if name in names.CONDITIONS or name in self._conditions:
                    depth += 1
                elif name == "fi":
                    depth -= 1
            self._spend(len(self._text) - begin)
            self._at = len(self._text)
            if self._file or not self._pop():  # it has no end: better too much than nothing of the rest
                self._text, self._at, self._file, self._frames = saved
                return

    def _choice(self, name: str) -> None:
        """Take one of two arguments: as the paper set it, else the first."""
        asked = self._argument() or ""
        is_true = self._conditions.get(f"toggle {asked}", name == "ifthenelse")
        if name == "ifstrequal":
            is_true = asked == self._argument()
        chosen, other = self._argument() or "", self._argument() or ""
        self._push(f"{chosen if is_true else other} ")

    def _toggle(self, name: str) -> None:
        if len(self._conditions) < MAX_MACROS:
            self._conditions[f"toggle {self._argument() or ''}"] = name.endswith("true")

    def _input(self, name: str) -> None:
        if self._ahead() == "{":
            said = self._argument() or ""
        else:
            match = re.compile(r"[^\s{}\\%]*").match(self._text, self._at)
            said = match[0] if match else ""
            self._at += len(said)
        self._include(said)
        if name == "InputIfFileExists":
            return

    def _import(self, _: str) -> None:
        folder, file = self._argument() or "", self._argument() or ""
        self._include(f"{folder.strip().rstrip('/')}/{file.strip()}")

    def _include(self, said: str) -> None:
        """Read a file of the archive where it is named; one that is being read already is not read again."""
        path = self._found(said)
        if path is None:
            self._missing += self._in_body
            return
        active = {file for *_, file in self._frames} | {self._file}
        self._included += 1
        if (
            path in active
            or self._included > MAX_FILES
            or not path.lower().endswith((".tex", ".bbl", ".ltx", ".latex", ".txt", ""))
        ):
            return
        source = self._files[path]
        if (begin := source.find("\\begin{document}")) >= 0 and self._in_body:  # a subfile with a head of its own
            end = source.find("\\end{document}", begin)
            source = source[begin + 16 : end if end >= 0 else len(source)]
        self._push(source, path)

    def _found(self, said: str) -> str | None:
        said = "/".join(part for part in said.strip().strip('"').split("/") if part not in ("", "."))
        here = next((file for file in (self._file, *(frame[2] for frame in reversed(self._frames))) if file), "")
        folder = here.rpartition("/")[0]
        tail = said.rpartition("/")[2]
        wanted = (said, f"{said}.tex", f"{folder}/{said}", f"{folder}/{said}.tex", f"{tail}.tex", tail)
        found = next((path for path in wanted if tail and path in self._files), None)
        return found or next((self._lowered[path.lower()] for path in wanted if path.lower() in self._lowered), None)

    def _package(self, _: str) -> None:
        """Read the definitions of a package that is in the archive."""
        options, listed = self._optional() or "", self._argument() or ""
        self._has_shorthands = self._has_shorthands or ("babel" in listed and "german" in options)
        for name in listed.split(",")[:50]:
            source = self._files.get(f"{name.strip()}.sty")
            if source is not None and not self._in_body:
                self._push(f"\\makeatletter {source}\n\\makeatother ", f"{name.strip()}.sty")
        self._optional()

    def _end_input(self, _: str) -> None:
        while not self._file and self._pop():
            pass
        self._at = len(self._text)
