"""What the `extract` stage can be told."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, Literal

from fsspec.utils import glob_translate
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from pipeline.table.config import Address, StageConfig
from pipeline.table.errors import nearest
from pipeline.table.schema import KeptType, RejectReason

COLUMNS = ("text", "url", "title", "date", "licence", "id")
"""Our columns that an existing corpus can be mapped to."""
Format = Literal[
    "auto",
    "warc",
    "jsonl",
    "parquet",
    "csv",
    "code",
    "html",
    "latex",
    "markdown",
    "pdf",
    "reddit",
    "stackexchange",
    "text",
    "wikipedia",
]
FORMATS: dict[Format, str] = {
    "auto": "each input is read as what its content is: the next four, dumps of MediaWiki, Posts.xml, LaTeX, PDF",
    "warc": "WARC, ARC and WET; a document is a page: a response, resource or conversion record",
    "jsonl": "JSON lines, or a JSON array; a document is a row",
    "parquet": "Parquet; a document is a row",
    "csv": "rows with `,`, tab, `;` or `|` between their values; a document is a row",
    "code": "repositories in folders, tars and zips; a document is a file, its text as it is, its title its path, its "
    "licence all that hold for it. Rejects: `licence`; `unsupported` (generated, vendored, minified, data, binary: "
    "`detail` says which), `oversize`, `charset`, `empty`",
    "html": "HTML files in folders and archives; a document is a file: a page, as in a WARC. Rejects: `not_html`, "
    "`unsupported` (binary), and those of pages",
    "latex": "LaTeX sources, as arXiv has them: tars of e-prints, e-prints, .tex files; a document is a paper. "
    "Rejects: `unsupported` (PDF or PostScript only), `deleted` (withdrawn), `too_deep`, `oversize`",
    "markdown": "Markdown files in folders and archives; a document is a file, still Markdown; front matter gives "
    "title, date and licence. Rejects: `unsupported` (other names than .md, .txt and the like, unless `include` names "
    "them)",
    "pdf": "PDFs in folders and archives, by their name, their beginning or `include`; a document is a PDF; title and "
    "date and, in `metadata`, author, producer and the like are as it says itself. Rejects: `encrypted` (a password is "
    "needed), `damaged` (no page can be found, or too many pages failed), `truncated_input`, `empty` (no page has "
    "text), `oversize`, `timeout`, `crash`, `memory`",
    "reddit": "submissions and comments as JSON lines; a document is a submission with its comments. Rejects: "
    "`deleted`, `namespace`; `damaged` is also a comment without its submission",
    "stackexchange": "Posts.xml of a dump of Stack Exchange, with PostLinks.xml and Comments.xml beside it; a document "
    "is a question with its answers. Rejects: `namespace`, `deleted`; `damaged` is also an answer without its question",
    "text": "text files in folders and archives; a document is a file, all of it. Rejects: `charset`, `empty`, "
    "`unsupported`",
    "wikipedia": "XML dumps of any MediaWiki; a document is a page, of a history its last revision. Rejects: "
    "`redirect`, `namespace`, `deleted`, `unsupported` (no wikitext), `empty`, `oversize` (its wikitext is over "
    "`extract.limits.payload_bytes`), `damaged`",
}
"""What each format is, what one document of it is, and what are rejects."""
Favor = Literal["precision", "balanced", "recall"]


def _column_name(name: str) -> str:
    if name not in COLUMNS:
        raise ValueError(f"unknown column {name!r}{nearest(name, COLUMNS)}; known: {', '.join(COLUMNS)}")
    return name


def _kept_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > 63:
        raise ValueError(f"column {name!r} must be an identifier in lower case: rules read it")
    return name


ColumnName = Annotated[str, AfterValidator(_column_name)]
KeptName = Annotated[str, AfterValidator(_kept_name)]


class ExtractLimits(StageConfig):
    """What decides that a unit is refused. The same everywhere, so that every machine refuses the same units."""

    payload_bytes: int = Field(10 << 20, gt=0, description="largest decoded body of a page")
    record_bytes: int = Field(
        64 << 20, gt=0, description="largest line of JSONL or row of CSV, and longest text of a row"
    )
    nodes: int = Field(100_000, gt=0, description="most elements of a page")
    depth: int = Field(255, gt=0, le=255, description="deepest nesting of a page's elements")
    cpu_s: float = Field(30.0, gt=0, description="CPU seconds that a page may take: a net only")
    memory_bytes: int = Field(
        2 << 30, gt=0, description="memory of one extraction worker: a net, too; a page may take half of it"
    )


class KeepColumn(StageConfig):
    """One of a corpus's own fields that becomes a column of documents and outcomes."""

    path: str = Field(
        min_length=1,
        description="a field that becomes the column NAME of `documents` and `outcomes`: its name, or the names that "
        "lead to it, as in `meta.stars`",
    )
    type: KeptType | None = Field(
        None,
        description="`text`, `int`, `float`, `bool`, `date`, or a list of them such as `text[]`; null is text, in "
        "Parquet the file's own type",
    )


class WikipediaOptions(StageConfig):
    """What is read of a MediaWiki dump."""

    namespaces: tuple[int, ...] = Field((0,), min_length=1, description="numbers of those whose pages are read")


class FileOptions(StageConfig):
    """Which files of folders and archives become documents."""

    include: tuple[str, ...] = Field(
        (), description="globs of paths or names, such as `docs/**/*.md`; empty: what the format reads"
    )
    exclude: tuple[str, ...] = Field((), description="globs of paths or names to leave out")
    base_url: str | None = Field(None, description="where the files are on the web: `url` is this and the path")

    def chooses(self, path: str) -> bool:
        """Whether a file is wanted, by its path, or its name where a glob has no `/`."""
        name = path.rpartition("/")[2]

        def is_meant(globs: tuple[str, ...]) -> bool:
            return any(_pattern(glob).fullmatch(path if "/" in glob else name) is not None for glob in globs)

        return (not self.include or is_meant(self.include)) and not is_meant(self.exclude)


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(glob_translate(glob), re.IGNORECASE)


MAX_ATTEMPTS = 7
PROMPT = (
    "The picture shows one page of a document. Write down its text as one reads it: Markdown, equations as LaTeX, "
    "tables as HTML, without running headers and footers. Add nothing that the page does not say. Begin with a front "
    "matter between two lines of ---, which gives primary_language (two letters, or null), is_rotation_valid, "
    "rotation_correction (0, 90, 180 or 270), is_table and is_diagram, one a line."
)


class ServedModel(StageConfig):
    """One OpenAI-compatible server and the model that is asked for there."""

    base_url: str = Field(
        pattern=r"^https?://[^@\s]+$", description="address of the server, as in `http://127.0.0.1:8000/v1`"
    )
    model: str = Field(min_length=1, max_length=512, description="the model that is asked for")
    api_key_env: str | None = Field(None, description="name of the environment variable that holds the key")
    revision: str | None = Field(None, description="the model's revision: another one is asked again")
    max_concurrency: int = Field(64, ge=1, le=4096, description="calls at once, at most")
    timeout_s: float = Field(600.0, gt=0, le=86_400, description="the most that one call may take")


class VisionConfig(StageConfig):
    """A vision model behind an OpenAI-compatible endpoint, for the pages that OCR would read."""

    endpoint: tuple[ServedModel, ...] = Field(min_length=1, description="one server, or more of the same model")
    prompt: str = Field(PROMPT, min_length=1, description="what goes with the picture; olmOCR's models know their own")
    max_tokens: int = Field(8000, ge=1, description="the most tokens of an answer")
    max_attempts: int = Field(MAX_ATTEMPTS, ge=1, le=MAX_ATTEMPTS, description="attempts at a page, the last warmest")
    client: dict[str, Any] = Field(default_factory=dict, description="as `rephrase.client`")


class PdfConfig(StageConfig):
    """How the pages of a PDF become text."""

    ocr: Literal["auto", "off", "force"] = Field(
        "auto",
        description="which pages are read from their picture: `auto`: those whose text layer is missing or unsound; "
        "`off`: none; `force`: each that is not blank",
    )
    engine: Literal["auto", "rapidocr", "tesseract"] = Field(
        "auto",
        description="`rapidocr` (the extra `ocr`, models and all; Latin, Greek, Chinese and Japanese writing), or the "
        "program `tesseract`, which reads English; `auto` is the first of them that is installed. Without one, pages "
        "that need it fail",
    )
    max_pages: int = Field(2_000, gt=0, description="pages of a PDF; one with more is `oversize`")
    max_failed: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of pages that may fail; above it, or when all fail, the PDF is rejected as `damaged`, and "
        "`detail` says of how many pages and why the first one failed",
    )
    vision: VisionConfig | None = Field(
        None,
        description="a vision model behind an OpenAI-compatible server, asked in olmOCR's form, for the pages that OCR "
        "would read; what it does not answer OCR reads, or the layer. Answers are stored in the workspace, which must "
        "be local, and never asked for twice",
    )

    @field_validator("ocr", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return "off" if value is False else value

    def identity(self) -> dict[str, object]:
        """Return what decides the text: of a served model not where it is and how it is asked."""
        told = self.model_dump(mode="json", exclude={"vision": {"client": True, "endpoint": True}})
        if self.vision is not None:
            told["vision"] |= {"models": sorted({(each.model, each.revision or "") for each in self.vision.endpoint})}
        return told

    def facts(self, limits: ExtractLimits) -> dict[str, object]:
        """Return what a worker has to know beside the PDF itself."""
        told = self.model_dump(mode="json", include=set(PdfConfig.model_fields) - {"vision"})
        return told | {"page_cpu_s": limits.cpu_s, "page_memory_bytes": limits.memory_bytes // 2}


class PdfOptions(FileOptions, PdfConfig):
    """Which PDFs become documents, and how."""

    max_bytes: int = Field(128 << 20, gt=0, description="bytes of a PDF; larger ones are `oversize`")


class ExtractConfig(StageConfig):
    """How units become text."""

    engine: Literal["trafilatura", "resiliparse"] = Field(
        "trafilatura", description="what extracts the text of pages: `resiliparse` is faster, see BENCHMARKS.md"
    )
    favor: Favor = Field(
        "balanced", description="`precision` takes less, `recall` more text from doubtful parts of a page"
    )
    language_gate: tuple[str, ...] | None = Field(
        None,
        description="a list such as `[en]`: pages that are surely in another language, by language id on quickly "
        "extracted text, are rejected before the slow part of extraction; doubtful ones pass",
    )
    metadata: Literal["light", "full"] = Field(
        "light",
        description="title, date and licence from meta tags, JSON-LD, links and HTTP headers; `full` adds "
        "trafilatura's own search for title and date, which is slower",
    )
    part_bytes: int = Field(
        256 << 20,
        ge=1 << 16,
        description="decoded input bytes that go into one shard: so little is done again after a stop, and one large "
        "file uses all cores in the stages after it",
    )
    limits: ExtractLimits = ExtractLimits()
    pdf: PdfConfig | None = Field(
        None,
        description="`true`, or options as of `format: pdf`: PDFs in web archives become documents, and "
        "`signals_pages` says how their pages were read",
    )
    retry: tuple[RejectReason, ...] = Field(
        (),
        description="reasons such as `[damaged, timeout]`: inputs that have rejects of them are read again. Give it "
        "for one run, with `--set`",
    )

    @field_validator("pdf", mode="before")
    @classmethod
    def _yes_or_no_is_enough(cls, value: Any) -> Any:
        return (PdfConfig() if value else None) if isinstance(value, bool) else value


class StackExchangeOptions(StageConfig):
    """Which questions and answers of a dump of Stack Exchange become documents."""

    site: str | None = Field(None, description="host of the site; null: as the folder or the file's name says")
    answers: Literal["all", "accepted", "best"] = Field(
        "all", description="which answers a question has: `best` is the first, accepted or not"
    )
    min_question_score: int | None = Field(None, description="questions below are rejected as `namespace`")
    min_answer_score: int | None = Field(None, description="answers below are left out")
    unanswered: bool = Field(True, description="false: questions without an answer in the document are `namespace`")
    comments: bool = Field(False, description="put the comments of each post behind it")


class RedditOptions(StageConfig):
    """Which submissions and comments of Reddit become documents."""

    documents: Literal["threads", "submissions", "comments"] = Field("threads", description="what a document is")
    orphans: Literal["reject", "documents"] = Field(
        "reject", description="comments whose submission is not in the inputs: rejects, or a document a thread"
    )
    subreddits: tuple[str, ...] = Field((), description="only these subreddits; empty: all")
    exclude_subreddits: tuple[str, ...] = Field((), description="none of these subreddits")
    over_18: bool = Field(False, description="false: submissions marked so are rejected as `namespace`")
    bots: bool = Field(
        False,
        description="false: submissions of bots (AutoModerator and its like, names that end in a word *bot*) are "
        "`namespace`, their comments left out",
    )
    bot_names: tuple[str, ...] = Field((), description="authors that are bots, beside those known by name or ending")
    min_score: int | None = Field(None, description="submissions below are rejected as `namespace`")
    min_comment_score: int | None = Field(None, description="comments below are left out")
    max_depth: int | None = Field(None, gt=0, description="levels of comments")
    max_comments: int | None = Field(None, ge=0, description="comments of a document, in reading order")


class LatexOptions(StageConfig):
    """What of a paper's sources becomes text."""

    bibliography: bool = Field(False, description="keep the list of references, where the sources hold it (.bbl)")
    citations: bool = Field(True, description="true: `[key]` where a work is cited; false: nothing")


class CodeOptions(FileOptions):
    """Which files of repositories become documents. Files that are of no use for training are `unsupported`."""

    base_url: str | None = Field(
        None,
        description="where the files are on the web, `{commit}` and `{repository}` filled in; null: as a clone says",
    )
    licences: Literal["permissive", "any"] | tuple[str, ...] = Field(
        "permissive",
        description="licences that are taken, as SPDX ids; every one that is found has to be, and one has to be found",
    )
    generated: bool = Field(False, description="files that a program wrote")
    vendored: bool = Field(False, description="copies of other projects")
    minified: bool = Field(False, description="scripts and style sheets made small")
    data: bool = Field(
        False, description="tables, drawings, JSON, YAML and XML of over 5,000 characters, files with few letters"
    )
    max_bytes: int = Field(
        1 << 20,
        gt=0,
        description="bytes of a file; larger ones are `oversize`, as are those over `extract.limits.payload_bytes`",
    )


PAGES_FOLDER = "signals/pages"


def has_pages(form: str, config: ExtractConfig) -> bool:
    """Whether a source of this format has `signals/pages` beside its documents."""
    return form == "pdf" or (config.pdf is not None and form in ("warc", "auto"))


OPTIONS: dict[str, type[StageConfig]] = {
    "code": CodeOptions,
    "html": FileOptions,
    "text": FileOptions,
    "markdown": FileOptions,
    "latex": LatexOptions,
    "pdf": PdfOptions,
    "reddit": RedditOptions,
    "stackexchange": StackExchangeOptions,
    "wikipedia": WikipediaOptions,
}
"""What `options` may say, by format."""


class InputsConfig(StageConfig):
    """What a source is made of: its raw inputs, and which of their fields become which columns."""

    format: Format = Field(
        "auto",
        description="how inputs are read; `auto`: each as what its content is, which may also be a dump of "
        "MediaWiki, a `Posts.xml` or a LaTeX paper. An input that cannot be read is one row of "
        "`rejects`; when none can, the run refuses",
    )
    inputs: tuple[Address, ...] = Field(
        min_length=1,
        description="paths, globs, folders or fsspec URLs, a list or one alone. A folder means every file below it "
        "whose name does not begin with `.` or `_` (of `code`: with `.`); links are followed, and a file that two of "
        "them name is read once",
    )
    columns: dict[ColumnName, str] = Field(
        default_factory=dict,
        description="what the files call our columns `text`, `url`, `title`, `date`, `licence`, `id`, as in `{text: "
        "content, url: meta.url}`; unnamed ones have the same name, other fields go to `metadata`",
    )
    keep_columns: dict[KeptName, KeepColumn] = Field(
        default_factory=dict,
        description="fields of the corpus that become columns, by the columns' names; a path alone is enough: `{stars: "
        "meta.stars}`",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of the format; `gristmill docs FORMAT` lists them"
    )
    identity: Literal["stat", "content"] = Field(
        "stat", description="`stat`: an input is the same while URL, size and date are; `content`: while its bytes are"
    )

    @field_validator("inputs", mode="before")
    @classmethod
    def _one_input_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("keep_columns", mode="before")
    @classmethod
    def _a_path_alone_is_a_column(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for name, column in value.items():
            if not isinstance(column, (str, dict)):
                raise ValueError(f"{name}: write a path such as meta.stars, or {{path: meta.stars, type: int}}")
        return {name: {"path": column} if isinstance(column, str) else column for name, column in value.items()}

    @model_validator(mode="after")
    def _columns_fit_the_format(self) -> InputsConfig:
        for key in ("columns", "keep_columns"):
            if getattr(self, key) and self.format not in ("auto", "jsonl", "parquet", "csv"):
                named = "a WARC" if self.format == "warc" else f"format {self.format}"
                raise ValueError(f"{key}: {named} has none; they are for jsonl, parquet and csv")
        self.format_options()
        return self

    def format_options(self) -> StageConfig:
        """Return `options` as the format's own model. Raises: ValueError naming the key."""
        model = OPTIONS.get(self.format, StageConfig)
        try:
            return model.model_validate(self.options)
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(map(str, problem["loc"]))
            if problem["type"] == "extra_forbidden":
                known = ", ".join(model.model_fields) or "none"
                said = f"{self.format} has no such option{nearest(key, model.model_fields)} (known: {known})"
            else:
                said = problem["msg"].removeprefix("Value error, ")
            raise ValueError(f"options.{key}: {said}") from error
