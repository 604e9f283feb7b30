"""Each preset beside datatrove's filter of the same name: how many documents both decide alike, and each difference.

    python tests/bench/bench_presets.py --peer PYTHON WORKSPACE/SOURCE [TEXTS.parquet ...] [--show 5] [--limit N]

PYTHON is the interpreter of an environment with datatrove: pip install "datatrove[processing]==0.10.1" spacy
fasttext-numpy2-wheel (the wheel that datatrove's language filter imports; it reads the model that Gristmill uses).
Both sides read the same texts: those of a workspace's source, of Parquet files with a column `text`, and hostile ones
made here. A preset is compared without its rule on the language, which is compared alone. A text for which datatrove
raises counts as dropped by it: its pipeline stops there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.tables import Table, bench_parser

PEER = """
import json, sys
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline import filters as f

def c4_then_fineweb():
    chain = [f.GopherRepetitionFilter(), f.GopherQualityFilter(),
             f.C4QualityFilter(filter_no_terminal_punct=False), f.FineWebQualityFilter()]
    def judge(document):
        for each in chain:
            result = each.filter(document)
            if result is not True:
                return result
        return True
    return judge

language = f.LanguageFilter(languages=["en"])
language.model.MODEL_URL = sys.argv[2]
judges = {
    "language": language.filter,
    "gopher quality": f.GopherQualityFilter().filter,
    "gopher repetition": f.GopherRepetitionFilter().filter,
    "c4": f.C4QualityFilter().filter,
    "mc4": f.C4ParagraphFilter().filter,
    "fineweb": c4_then_fineweb(),
    "lambda": f.LambdaFilter(lambda document: len(document.text) >= 150).filter,
}
for text in pq.read_table(sys.argv[1], columns=["text"])["text"].to_pylist():
    row = {}
    for name, judge in judges.items():
        try:
            result = judge(Document(text=text, id="x"))
            row[name] = "" if result is True else result[1] if isinstance(result, tuple) else "dropped"
        except Exception as error:
            row[name] = f"raises {type(error).__name__}"
    print(json.dumps(row))
"""
Drop = tuple[str, str, str, str]
"""Texts, filter, whose, and the first rule that drops a document, nothing where it is kept."""
COMPARED = {  # of datatrove's filter: the preset, and which of its rules
    "language": ("fineweb", ("language",)),
    "gopher quality": ("gopher", slice(0, 8)),
    "gopher repetition": ("gopher", slice(8, None)),
    "c4": ("c4", slice(1, None)),
    "mc4": ("mc4", slice(None)),
    "fineweb": ("fineweb", slice(1, None)),
    "lambda": ("text_length >= 150", ()),
}


PROSE = (
    "The river rises in the hills and reaches the sea after two hundred miles.",
    "Nobody had asked the carpenter to stay, but he would not leave before dark.",
    "Cheap paint fades within a year, which is why the shutters look grey.",
    "A committee of seven met on Tuesday to settle the price of grain.",
    "Most of these birds have never been seen this far north in winter!",
    "When the bridge was closed, the ferry took twelve cars at a time.",
    "Her second novel was translated with great care into eleven languages.",
    "Is it possible that the letter was written by somebody else entirely?",
    "Farmers remember the drought of 1976 better than any flood since then.",
    "Salt, flour and warm water are all that the recipe really needs.",
    "The museum keeps its oldest maps in a cellar that is dry and cool.",
    "Our train stood for an hour outside the station without any reason given.",
)


def hostile_texts() -> list[str]:
    """Return texts that rules on lines, words, sentences and repetition may read differently."""
    glues = ["\n", "\r\n", "\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\n\n", "\n \n", " ", "\t"]
    page, line = "\n".join(PROSE), PROSE[0]
    texts = ["", " ", "\n", "\n\n\n", "\u2028", "\u200b", "\ufeff", "\x00", "word", "Word.", "...", "…", "#", "•", "-"]
    texts += [glue.join(PROSE) for glue in glues] + [glue.join([line] * 9) for glue in glues]
    texts += [
        page.replace(" ", space) for space in ("\u00a0", "\u200b", "\u3000", "\u202f", "  ", "\t", " \u200b", "\u00ad ")
    ]
    texts += [
        page.replace(".", stop)
        for stop in ("", "。", "...", "…", ". . .", ".\u200b", ".\u00a0", ".)", "[1].", '."', ". [edit]")
    ]
    texts += [page.replace("\n", f"\n{mark}") for mark in ("- ", "• ", "* ", "● ", "# ", "\u00a0- ", "1. ", "{", "  ")]
    texts += [page.replace("a", "a\u0301"), page.upper(), page.title(), "\ufeff" + page, page + "\n", "\n\n" + page]
    texts += [f"{page}\n{more}" for more in ("Lorem ipsum dolor sit.", "LOREM IPSUM", "Enable JavaScript to see it.")]
    texts += [
        f"{page}\n{more}"
        for more in ("x" * 1001 + " y z.", "f() { return; } is.", "3 likes", "We use cookies on this site.")
    ]
    texts += [
        "北京是中华人民共和国的首都。它有三千年的历史。" * 20,
        "東京は日本の首都です。\n" * 30,
        "กรุงเทพมหานครเป็นเมืองหลวง " * 40,
    ]
    texts += [
        "Ελληνικά είναι γλώσσα. " * 30,
        "שלום עולם, מה שלומך? " * 30,
        "🙂🙂 😀 " * 60,
        "👩‍👩‍👧‍👦 family of four and 🇳🇴 flag. " * 30,
    ]
    texts += [
        "é" * 400,
        "e\u0301 " * 200,
        "x" * 100_000,
        (line + " ") * 900,
        "a b " * 3000,
        page.replace("\n", " ") * 3,
    ]
    texts += [
        " ".join(f"{word} 🙂" for word in page.split()),
        page.replace("e", "е"),
        page[::-1],
        page.replace("\n", "\n\n") * 2,
    ]
    return texts


def peer_verdicts(python: Path, texts: pa.Table, folder: Path) -> list[dict[str, str]]:
    """Return each text's verdict by each of datatrove's filters: nothing where it is kept."""
    from pipeline.inputs.shipped import lid_model_path

    sample, script = folder / "texts.parquet", folder / "peer.py"
    pq.write_table(texts, sample)
    script.write_text(PEER)
    run = subprocess.run([python, script, sample, lid_model_path()], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{run.stderr[-600:]}\ndatatrove did not run: see above, and what to install in the head of this file")
    return [json.loads(row) for row in run.stdout.splitlines()]


def our_verdicts(texts: pa.Table) -> dict[str, list[str]]:
    """Return, of each comparison, the names of the rules that each text fails, in their order."""
    import duckdb

    from pipeline.select.rules import load_rules
    from pipeline.signals.recipe_stats import recipe_stats
    from pipeline.signals.stage import _language
    from pipeline.signals.text_stats import text_stats

    wide = text_stats(texts)
    for group in (_language(texts), recipe_stats(texts)):
        for name in group.column_names[1:]:
            wide = wide.append_column(name, group[name])
    connection = duckdb.connect()
    connection.register("wide", wide)
    found = {}
    for name, (preset, chosen) in COMPARED.items():
        rules = load_rules(preset if chosen != () else {"predicate": preset}, "bench").rules
        rules = rules[chosen] if isinstance(chosen, slice) else [r for r in rules if not chosen or r.name in chosen]
        failed = ", ".join(f"CASE WHEN coalesce({rule.sql}, false) THEN '' ELSE '{rule.name} ' END" for rule in rules)
        found[name] = [row[0].strip() for row in connection.execute(f"SELECT concat({failed}) FROM wide").fetchall()]
    return found


def compare(label: str, texts: pa.Table, options: argparse.Namespace, folder: Path, table: Table) -> Counter[Drop]:
    """Add rows of agreement over some texts, print every class of difference, and return which rules drop first."""
    theirs, ours = peer_verdicts(options.peer, texts, folder), our_verdicts(texts)
    for name in COMPARED:
        pairs = [(not mine, not row[name]) for mine, row in zip(ours[name], theirs, strict=True)]
        counts = Counter(pairs)
        agree = (counts[True, True] + counts[False, False]) / max(len(pairs), 1)
        kinds = (True, True), (False, False), (True, False), (False, True)
        table.row(label, name, *(counts[kind] for kind in kinds), agree)
    for name in COMPARED:
        classes: dict[tuple[str, str], list[int]] = {}
        for i, (mine, row) in enumerate(zip(ours[name], theirs, strict=True)):
            if bool(mine) != bool(row[name]):
                classes.setdefault((mine.split(" ")[0] or "kept", row[name] or "kept"), []).append(i)
        for (mine, other), rows in sorted(classes.items(), key=lambda item: -len(item[1])):
            print(f"  {name}: ours {mine}, datatrove {other}: {len(rows)}")
            for i in rows[: options.show]:
                print(f"      {i}: {texts['text'][i].as_py()[:70]!r}")
    names = ("gopher quality", "gopher repetition", "c4", "mc4", "fineweb")
    mine = Counter((label, name, "ours", found.split(" ")[0]) for name in names for found in ours[name])
    return mine + Counter((label, name, "datatrove", row[name]) for name in names for row in theirs)


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("sources", nargs="*", type=Path, help="WORKSPACE/SOURCE, or Parquet files with a column text")
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--show", type=int, default=0, help="examples of each class of difference")
    parser.add_argument("--limit", type=int, default=5_000)
    options = parser.parse_args()
    sets, drops = {"hostile": hostile_texts()}, Counter[Drop]()
    table = Table("presets", options.csv, "texts filter both_keep both_drop ours_keeps theirs_keeps agree")
    for path in options.sources:
        files = [path] if path.is_file() else sorted((path / "documents").glob("*.parquet"))
        texts = pa.concat_tables([pq.read_table(file, columns=["text"]) for file in files])["text"]
        sets["/".join(path.parts[-2:])] = texts.slice(0, options.limit).to_pylist()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for label, texts in sets.items():
            ids = [f"{i:032x}" for i in range(len(texts))]
            read = pa.table({"doc_id": ids, "text": pa.array(texts, pa.string())})
            drops += compare(label, read, options, Path(folder), table)
    first = Table("presets-drops", options.csv, "texts filter by rule documents")
    for (label, name, by, rule), documents in drops.items():
        first.row(label, name, by, rule or "kept", documents)


if __name__ == "__main__":
    main()
