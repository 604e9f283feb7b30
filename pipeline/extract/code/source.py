"""One file of a repository to its text and what is known of it, as it runs in an isolated worker.

Keep this module and all it imports free of pyarrow, Numba and pydantic: every worker holds it in memory.

Source: files that are generated, vendored or minified: GitHub Linguist (`generated.rb`, `vendor.yml`); what is data:
StarCoder (https://arxiv.org/abs/2305.06161), section 3.
"""

from __future__ import annotations

import codecs
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from pygments.lexers import find_lexer_class_by_name, get_lexer_for_filename
from pygments.util import ClassNotFound
from resiliparse.parse.encoding import EncodingDetector

from pipeline.extract.code.licences import ids, in_header, is_licence_text, joined, refused_by
from pipeline.extract.conversion import Converted, RefusedError, handler

_LANGUAGE_CHARACTERS = 10_000  # of which a language is told
_MAX_GARBAGE_SHARE = 0.05
_DETECTED_BYTES = 100_000
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDER = {"big5": "big5hkscs", "euc-kr": "cp949", "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}
"""Charsets that have all of another, which files that are said to be in that one often need."""
_COOKIE = re.compile(rb"coding[:=][ \t]*([-\w.]{2,40})")
_SHEBANG = re.compile(r"#!\s*(?:\S*/)?([\w.+-]+)(?:[ \t]+(?:-\S+[ \t]+)*([\w.+-]+))?")
# What Pygments names otherwise, or for another language that has the same suffix.
_BY_SUFFIX = {
    ".asm": "Assembly",
    ".astro": "Astro",
    ".csproj": "XML",
    ".fs": "F#",
    ".fsx": "F#",
    ".go.mod": "Go Module",
    ".ipynb": "Jupyter Notebook",
    ".jsonl": "JSON",
    ".geojson": "JSON",
    ".def": None,
    ".hs": "Haskell",
    ".mod": None,
    ".pm": "Perl",
    ".pro": None,
    ".rng": "XML",
    ".vcxproj": "XML",
    ".r": "R",
    ".rmd": "R Markdown",
    ".s": "Assembly",
    ".sql": "SQL",
    ".svelte": "Svelte",
    ".svg": "SVG",
    ".sty": "TeX",
    ".t": "Perl",
    ".csv": "CSV",
    ".tsv": "TSV",
}
_NAMES = {"Text only": "Text", "GAS": "Assembly", "NASM": "Assembly", "ANTLR": "ANTLR", "Transact-SQL": "SQL", "S": "R"}
_OBJECTIVE_C = re.compile(
    r"^[ \t]*(?:@(?:interface|implementation|protocol|property|end|class)\b|#import\b)", re.MULTILINE
)
_CPP = re.compile(
    r"^[ \t]*(?:class\s+\w+|namespace\b|template\s*<|using\s+\w|public:|private:|protected:|#include\s*<[a-z_]+>|"
    r"(?:virtual|constexpr|explicit)\s)|\bstd::|\boperator\s*[=<>+*\[(]",
    re.MULTILINE,
)

_PROSE = frozenset({"Text", "Markdown", "reStructuredText", "TeX", "HTML", "XML", "Org Mode", "R Markdown", None})
_DATA_NAMES = re.compile(
    r"\.(?:csv|tsv|svg|jsonl|ndjson|geojson|topojson|po|pot|ts\.xml|xliff|dat|arff|bib|sub|srt|fasta|fa|gff|vcf|obj|stl|"
    r"ply|pem|crt|cer|der|key|log|out|patch|diff|snap|map)$",
    re.IGNORECASE,
)
_DATA_LANGUAGES = frozenset({"JSON", "YAML", "XML", "JSON-LD", "INI"})
_MAX_CONFIGURATION = 5_000  # characters of a file in a language of data that sets something up
_TEST = re.compile(
    r"(?:^|/)(?:tests?|testing|__tests__|specs?|test_?data|fixtures|idle_test)/|(?:^|/)(?:test_[^/]*|conftest)\.py$|"
    r"(?:_test|_tests|_spec|\.test|\.spec|Tests?)\.[a-z]{1,5}$",
)
_VENDORED = re.compile(
    r"(?:^|/)(?:vendor|vendors|vendored|_vendor|_vendored|node_modules|bower_components|third[-_]?party|3rd[-_]?party|"
    r"externals?|site-packages|dist-packages|godeps|pods|carthage|\.yarn|jspm_packages|ensurepip/_bundled)/|"
    r"(?:^|/)(?:jquery|bootstrap|angular|prototype|modernizr|d3|react|vue|lodash|underscore|backbone|mootools|require|"
    r"ember|raphael|three|codemirror|ace|tinymce|ckeditor|font-?awesome|normalize)[-.\w]{0,20}\.(?:js|css|less|scss)$|"
    r"(?:^|/)(?:gradlew(?:\.bat)?|mvnw(?:\.cmd)?|ltmain\.sh|config\.(?:guess|sub)|install-sh|aclocal\.m4|libtool\.m4|"
    r"missing|depcomp|versioneer\.py|ez_setup\.py|waf)$",
    re.IGNORECASE,
)
_GENERATED_NAMES = re.compile(
    r"(?:^|/)(?:package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml|composer\.lock|Cargo\.lock|"
    r"Gemfile\.lock|poetry\.lock|Pipfile\.lock|uv\.lock|pdm\.lock|flake\.lock|go\.sum|configure)$|"
    r"(?:_pb2(?:_grpc)?\.pyi?|\.pb\.(?:go|cc|h)|_pb\.(?:js|d\.ts|rb)|\.designer\.(?:cs|vb)|\.g\.(?:cs|dart)|\.freezed\.dart|"
    r"\.min\.(?:js|css)\.map|\.nib|\.xcworkspacedata|_string\.go|\.generated\.\w+|egg-info/[^/]+|(?:^|/)PKG-INFO)$",
    re.IGNORECASE,
)
_GENERATED = re.compile(
    r"@generated\b|generated automatically|"
    r"(?:^[^\w\n]*|\b(?:file|code|header|source|module|class|is|was|been) )(?:auto-?|automatically[ -])generated|"
    r"(?:auto-?|automatically[ -])generated[ :](?:by|from|with|using|file|code|on)\b|"
    r"generated\b[^\n]*\s[^\n]*do not (?:edit|modify)|do not (?:edit|modify)[^\n]*\s[^\n]*generated|"
    r"(?:code|file|this is|was|been|is) generated (?:by|from|with|using)|generated by (?:the )?(?:protocol buffer|"
    r"protoc|bison|yacc|flex|swig|cython|autoconf|automake|thrift|antlr|javacc|ragel|django|sphinx|coffeescript)",
    re.IGNORECASE | re.MULTILINE,
)
_GENERATED_LINES = 10
_MINIFIED_NAMES = re.compile(r"[.-]min\.(?:js|css|mjs)$", re.IGNORECASE)
_MINIFIED_LANGUAGES = frozenset({"JavaScript", "CSS", "TypeScript"})
_MINIFIED_LINE = 110  # characters of a line, on average
_LONGEST_LINE = 100_000  # of code that somebody wrote

# By what each begins with or holds: looking for that first takes a tenth of the time.
_SECRETS = {
    marks: re.compile(pattern)
    for marks, pattern in (
        (("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b(?<!EXAMPLE)"),
        (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"\bgh[pousr]_[A-Za-z0-9]{36}\b"),
        (("github_pat_",), r"\bgithub_pat_[A-Za-z0-9_]{60,90}\b"),
        (("glpat-",), r"\bglpat-[A-Za-z0-9_-]{20}\b"),
        (("xox",), r"\bxox[abeoprs]-[A-Za-z0-9-]{10,80}"),
        (("hooks.slack.com",), r"hooks\.slack\.com/services/T\w{6,12}/B\w{6,12}/\w{20,30}"),
        (("AIza",), r"\bAIza[0-9A-Za-z_-]{35}\b"),
        (("sk_live_",), r"\bsk_live_[0-9a-zA-Z]{20,40}\b"),
        (("sk-",), r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,120}\b"),
        (("hf_",), r"\bhf_[A-Za-z0-9]{34}\b"),
        (("npm_",), r"\bnpm_[A-Za-z0-9]{36}\b"),
        (("pypi-AgEI",), r"\bpypi-AgEI[A-Za-z0-9_-]{50,200}"),
        (("SG.",), r"\bSG\.[\w-]{22}\.[\w-]{43}\b"),
        (("PRIVATE KEY",), r"-----BEGIN (?:[A-Z]{2,9} )?PRIVATE KEY(?: BLOCK)?-----"),
        (("eyJ",), r"\beyJ[A-Za-z0-9_-]{10,500}\.eyJ[A-Za-z0-9_-]{10,1000}\.[A-Za-z0-9_-]{20,500}"),
    )
}
_KEY_WORDS = ("secret", "token", "passw", "key", "credential")
_ASSIGNED = re.compile(
    r"(?:secret|token|passw(?:or)?d|api_?-?key|access_?-?key|private_?-?key|credentials?)[\w-]{0,20}[\"']?[ \t]{0,4}"
    r"(?::=|=>|[:=])[ \t]{0,4}[\"']([A-Za-z0-9+/=_-]{16,128})[\"']",
    re.IGNORECASE,
)
_BITS = 3.6  # of a character of a random key of 16 or more; of words it is less, or there are no digits
_DECLARED = re.compile(r"example|sample|dummy|test|fake|placeholder|your|changeme|xxxx|0123|abcd", re.IGNORECASE)


def make_handler() -> Callable[[bytes], bytes]:
    """Return the function that a worker runs on each file."""
    return handler(to_document)


def to_document(payload: bytes, facts: Mapping[str, Any]) -> Converted:
    """Return a file's text as it is, its languages, licences and what it is.

    `facts` are its `path`, the expressions of its repository (`licences`), the `policy` for all, and which kinds of
    files are taken (`generated`, `vendored`, `minified`, `data`).

    Raises: RefusedError for what its options or its licences rule out, and for what is no text.
    """
    path = facts["path"]
    text, charset = decoded(payload)
    if not text.strip():
        raise RefusedError("empty", "nothing but white space")
    language = language_of(path, text)
    kept = _measures(path, text, language)
    own = in_header(text, facts["licences"]) if not is_licence_text(path) else []  # which its repository has said
    expressions = sorted({*facts["licences"], *own})
    why = refused_by(facts["policy"], expressions)
    if why is not None:
        raise RefusedError("licence", why)
    for kind in ("vendored", "generated", "minified", "data"):
        if kept[f"is_{kind}"] and not facts[kind]:
            raise RefusedError("unsupported", f"{kind}; `options: {{{kind}: true}}` takes such files, too")
    kept |= {"code_language": language, "licences": ids(expressions), "secrets": secrets(text)}
    return Converted(
        text, licence=joined(expressions), metadata={"charset": charset if charset != "utf-8" else None}, kept=kept
    )


def decoded(data: bytes) -> tuple[str, str]:
    """Return a file's text and its charset: as its mark says, UTF-8, as its first lines say, or as it reads.

    Raises: RefusedError for bytes that are no text in any of them.
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            return _sound(data[len(mark) :].decode(name, "replace"), name), name
    try:
        return _sound(data.decode(), "utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    head = b"\n".join(data[:1000].splitlines()[:2])
    detector = EncodingDetector()
    detector.update(data[:_DETECTED_BYTES])
    said = [match[1].decode() for match in [_COOKIE.search(head)] if match]
    detected = (detector.encoding() or "cp1252").lower()
    for name in (*said, _WIDER.get(detected, detected), "cp1252"):
        try:
            if "utf" in name and "16" not in name:
                continue
            return _sound(data.decode(name), name), name.lower()
        except (LookupError, ValueError, RefusedError):
            continue
    return _sound(data.decode("utf-8", "replace"), "utf-8"), "utf-8"


def _sound(text: str, name: str) -> str:
    garbage = text.count("\ufffd") + sum(text.count(chr(code)) for code in (*range(9), *range(14, 27), 28, 29, 30, 31))
    if garbage > _MAX_GARBAGE_SHARE * len(text):
        raise RefusedError("charset", f"no text in {name}: {garbage} of {len(text)} characters are none")
    return text


def language_of(path: str, text: str) -> str | None:
    """Return the name of a file's language as Pygments has it, by the file's name and its beginning."""
    name = path.rpartition("/")[2]
    head = text[:_LANGUAGE_CHARACTERS]
    suffix = f".{name.rpartition('.')[2].lower()}" if "." in name else ""
    if suffix == ".h":
        return "Objective-C" if _OBJECTIVE_C.search(head) else "C++" if _CPP.search(head) else "C"
    if suffix == ".cls" and "\\Provides" in head:
        return "TeX"
    if suffix in _BY_SUFFIX:
        return "Go Module" if name == "go.mod" else _BY_SUFFIX[suffix]
    try:
        found = str(get_lexer_for_filename(name, head).name)
        return _NAMES.get(found, found)
    except ClassNotFound:
        pass
    shebang = _SHEBANG.match(head)
    for command in (shebang[2], shebang[1]) if shebang else ():
        try:
            return str(find_lexer_class_by_name(re.sub(r"[\d.-]+$", "", command or "").lower()).name)
        except ClassNotFound:
            continue
    if name.upper().startswith(("README", "LICEN", "COPYING", "AUTHORS", "CHANGE", "NEWS", "INSTALL", "TODO")):
        return "Text"
    return None


def _measures(path: str, text: str, language: str | None) -> dict[str, object]:
    lines = text.splitlines()
    longest = max(map(len, lines), default=0)
    share = len(re.sub(r"[\W_]+", "", text)) / len(text)
    head = "\n".join(line[:500] for line in lines[:_GENERATED_LINES])
    is_long = len(text) > _MINIFIED_LINE * max(len(lines), 1)
    is_minified = _MINIFIED_NAMES.search(path) is not None or (language in _MINIFIED_LANGUAGES and is_long)
    is_data = _DATA_NAMES.search(path) is not None or share < 0.25
    is_data = is_data or (language in _DATA_LANGUAGES and len(text) > _MAX_CONFIGURATION)
    return {
        "alphanumeric_share": round(share, 4),
        "is_data": is_data,
        "is_generated": _GENERATED_NAMES.search(path) is not None or _GENERATED.search(head) is not None,
        "is_minified": is_minified or (language not in _PROSE and longest > _LONGEST_LINE),
        "is_test": _TEST.search(path) is not None,
        "is_vendored": _VENDORED.search(path) is not None,
        "lines": len(lines),
        "max_line_length": longest,
    }


def secrets(text: str) -> int:
    """Return how many keys, tokens and passwords a text seems to hold: of known forms, or random and assigned."""
    spans: list[tuple[int, int]] = []
    for marks, pattern in _SECRETS.items():
        if any(mark in text for mark in marks):
            spans += [match.span() for match in pattern.finditer(text)]
    lower = text.lower()
    for match in _ASSIGNED.finditer(text) if any(word in lower for word in _KEY_WORDS) else ():
        value = match[1]
        bits = -sum(count / len(value) * math.log2(count / len(value)) for count in Counter(value).values())
        is_random = bits >= min(_BITS, 0.85 * math.log2(len(value))) and re.search(r"\d", value) is not None
        if is_random and not _DECLARED.search(value) and re.search(r"[A-Za-z]", value):
            begin, end = match.span(1)
            if not any(first < end and begin < last for first, last in spans[:1000]):
                spans.append((begin, end))
    return len(spans)
