"""`python -m flows.quickstart` is `make quickstart`: the data, and then commands that curate and mix them and ask.

With a folder (`python -m flows.quickstart .quickstart`) it makes the data there, which is the first of these commands.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from flows.quickstart import make

TOUR: tuple[tuple[str, str], ...] = (
    ("", "python -m flows.quickstart .quickstart"),
    ("", "gristmill run configs/quickstart.yaml --until dedup"),
    ("", "gristmill classifier train configs/classifiers/quickstart.yaml"),
    ("", "gristmill run configs/quickstart.yaml"),
    ("", "gristmill funnel .quickstart/workspace"),
    (
        "What was kept of each source?",
        'gristmill sql .quickstart/workspace "SELECT source, outcome, count(*) AS documents, '
        'sum(text_length) AS characters FROM outcomes GROUP BY ALL ORDER BY ALL"',
    ),
    (
        "Which rules fail most often, and would any of them matter alone?",
        'gristmill sql .quickstart/workspace "SELECT source, failed.rule AS rule, count(*) AS documents, '
        "count(*) FILTER (len(failed_rules) = 1) AS alone FROM outcomes, unnest(failed_rules) AS t(failed) "
        'GROUP BY ALL ORDER BY documents DESC, source, rule LIMIT 12"',
    ),
    (
        "Which copies were dropped, and what was kept in their place?",
        'gristmill sql .quickstart/workspace "SELECT copy.url AS dropped, keeper.url AS kept FROM web.outcomes copy '
        'JOIN web.outcomes keeper ON keeper.doc_id = copy.duplicate_of ORDER BY dropped LIMIT 5"',
    ),
    (
        "What does the classifier call the best pages?",
        'gristmill sql .quickstart/workspace "SELECT url, round(quality_probability, 3) AS quality, word_count '
        "FROM web.outcomes WHERE outcome = 'kept' ORDER BY quality_score DESC, url LIMIT 5\"",
    ),
    (
        "What never became a document, and why?",
        'gristmill sql .quickstart/workspace "SELECT reason, count(*) AS units, min(url) AS example FROM web.rejects '
        'GROUP BY ALL ORDER BY ALL"',
    ),
    (
        "In which proportions should web pages, READMEs and code be mixed, to explain things in prose?",
        "gristmill mix run configs/mixes/quickstart.yaml",
    ),
    (
        "And to write code? Another suite: the swarm is kept; only the runs that verify its mixture are trained.",
        "gristmill mix run configs/mixes/quickstart.yaml --set suite=configs/suites/quickstart_code.yaml",
    ),
)
"""What is asked before a command runs, and the command as a shell takes it."""

NEXT: tuple[tuple[str, str], ...] = (
    ("gristmill explain .quickstart/workspace https://docs.python.example/3/library/heapq.html", ""),
    ('gristmill run configs/quickstart.yaml --set sources.web.select.keep="text_length asc"', "only select runs again"),
    (
        'gristmill diff configs/quickstart.yaml --set sources.web.select.rules.length="word_count > 500"',
        "what that would lose",
    ),
    ("gristmill sample .quickstart/workspace web --dropped-by list_like -n 3", "pages to read"),
    ("gristmill run configs/quickstart.yaml --set dedup.num_bands=20 --dry-run", "what would run again"),
    ('gristmill sql .quickstart/workspace "SELECT * FROM readmes.curated LIMIT 3" --format json', ""),
    ("gristmill mix verify configs/mixes/quickstart.yaml", "predictions held against fresh proxies"),
    ("gristmill mix explain configs/mixes/quickstart.yaml", "which tasks pull which slice"),
    (
        "gristmill mix report configs/mixes/quickstart.yaml",
        "a page about the mix; its plots need: pip install -e '.[plots]'",
    ),
    ("gristmill init web > curate.yaml", "a config for your own crawl"),
)


def tour() -> int:
    """Run the commands of `TOUR`, each shown before as it can be typed again, until one fails; return its status."""
    programs = Path(sys.executable).parent
    shown = shlex.quote(str(programs.relative_to(Path.cwd()) if programs.is_relative_to(Path.cwd()) else programs))
    steps = [(question, command, shlex.split(command)) for question, command in TOUR]
    named = [Path(word.rpartition("=")[2]) for _, _, words in steps for word in words if "configs/" in word]
    for path in (*(programs / words[0] for _, _, words in steps), *named):
        if not path.is_file():
            where = "in the folder of the repository, with the Python that Gristmill is installed for"
            sys.stderr.write(f"quickstart: {path} is not there; run it {where}\n")
            return 2
    heard: list[int] = []
    running: list[subprocess.Popen[bytes]] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if number == signal.SIGTERM:  # Ctrl-C reaches the command by itself; two would end it without a last word
            for process in running:
                process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hear)
    for question, command, (program, *rest) in steps:
        sys.stdout.write(f"\n{question}\n{shown}/{command}\n" if question else f"{shown}/{command}\n")
        sys.stdout.flush()
        running[:] = [subprocess.Popen([programs / program, *rest])]
        if heard:  # before this command was there to hear it
            running[0].terminate()
        code = running[0].wait()
        if code or heard:
            return 128 + heard[0] if heard else 128 - code if code < 0 else code
    sys.stdout.write("\nWhat to try next (see configs/quickstart.yaml and docs):\n")
    for command, meaning in NEXT:
        sys.stdout.write(f"  {shown}/{command}{'   # ' if meaning else ''}{meaning}\n")
    return 0


def main() -> int:
    """Do what the command line asks; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.quickstart", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="make the data here, such as .quickstart, and no more")
    folder = parser.parse_args().folder
    try:
        if folder is None:
            return tour()
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        make(folder)
    except OSError as error:
        sys.stderr.write(f"quickstart: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("quickstart: stopped; the same command begins anew\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
