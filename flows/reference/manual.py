"""What each command does at length, and examples of it: the description and the end of its `--help`.

Options say what they mean where they are added, in `flows.cli`. A line of an example that begins with `$` is a command,
what follows is what it prints.
"""

from __future__ import annotations

from typing import NamedTuple


class Manual(NamedTuple):
    """A command's description beyond its first line, and its examples."""

    about: str
    examples: str


def _of(about: str, examples: str) -> Manual:
    return Manual(about.strip("\n"), examples.strip("\n"))


MANUAL: dict[str, Manual] = {
    "init": _of(
        """
Templates are `web` for WARC files, `corpus` for text that somebody extracted already, those of
further formats, and published corpora with their columns. Write what it prints into a file and
edit `inputs`.
""",
        """
$ gristmill init web > curate.yaml
$ gristmill init stackexchange > curate.yaml
""",
    ),
    "run": _of(
        """
Inputs, models, rules and types are checked first; a bad rule is refused before anything runs. What
is done is not done again, and a run that was stopped or killed goes on with the same command. On a
terminal bars show how far it is; elsewhere there is a line for each shard.

With --dry-run `because` says why there is something to do, the most frequent first: `new input`,
`changed input`, `input that is gone`, `deleted part`, `changed setting KEY (old -> new)`, `changed
version`, `changed rule NAME`, `new rule NAME`, `rule NAME is gone`, `made of parts that changed`,
`not made before`. Shards of stages behind one that has work are not known yet (null in JSON). Time
and disk are those of the last ten recorded runs; a first extraction is tried on a sample.
""",
        """
$ gristmill run curate.yaml --dry-run
source  stage     shards to do            done  because                        time       disk       estimated from
------  --------  ----------------------  ----  -----------------------------  ---------  ---------  ---------- ...
web     extract   1                       0     1 new input                    26 s       3.9 MB     sample of ...
web     annotate  after the stages above        follows from the stages above  not known  not known
...
$ gristmill run curate.yaml
$ gristmill run curate.yaml --set select.rules=gopher --set sources.web.dedup=null
$ gristmill run curate.yaml --only web --until annotate
""",
    ),
    "serve": _of(
        """
One run at a time; with `PREFECT_API_URL` as a deployment that the pages of your server show, pause
and start. The configuration is read anew for each run; one that fails says so in a line, and the
next comes in its time. Ends with Ctrl-C, and the runs with it.
""",
        """
$ gristmill serve curate.yaml --cron "0 2 * * *"
""",
    ),
    "rephrase": _of(
        """
The stage `rephrase` of a run alone: documents of the new source, and answers that are never asked
for twice. A budget, and the keys of the endpoint, are in the configuration.
""",
        """
$ gristmill rephrase curate.yaml --dry-run
$ gristmill rephrase curate.yaml --sample 3
""",
    ),
    "verify": _of(
        """
Prints one JSON line a row, with every verdict and `faithful`, true or false at the default
thresholds. Give a `language` beside each pair: without one it is English or unknown.
""",
        """
$ gristmill verify pairs.jsonl
""",
    ),
    "sql": _of(
        """
One SELECT (also WITH, FROM, VALUES, DESCRIBE, SUMMARIZE, SHOW, EXPLAIN) in DuckDB's dialect. Every
source is a schema, and `main` has each view over all sources. Files cannot be written, and none
outside the workspace can be read. Times are in UTC.
""",
        """
$ gristmill sql ./ws "SELECT reason, count(*) FROM web.rejects GROUP BY ALL ORDER BY ALL"
$ gristmill sql ./ws "SELECT url, title FROM web.curated LIMIT 3" --format json
$ gristmill sql ./ws "SELECT failed.rule AS rule, count(*) AS documents,
    count(*) FILTER (len(failed_rules) = 1) AS alone
    FROM web.outcomes, unnest(failed_rules) AS t(failed) GROUP BY ALL ORDER BY documents DESC LIMIT 3"
rule               documents  alone
-----------------  ---------  -----
language                 524     26
gopher_stop_words        482      1
gopher_alpha_words       271     56
""",
    ),
    "peek": _of(
        """
Size, compression, encoding, the format that reads it with what tells so (`certain`: what it holds;
`likely`: its name, or most of an archive), what its beginning says of the whole (a wiki's name,
types of WARC records, the published corpus whose columns it has), columns with an example each,
first rows, what of them would be rejected, and last a `sources:` block for a configuration. At most
the first 100 rows are read, and nothing is written. Of a file that nothing reads (damaged, empty,
encrypted, binary) the answer is what it is and what to do.
""",
        """
$ gristmill peek dump/Posts.xml
$ gristmill peek corpus/part-0.jsonl.gz --json
""",
    ),
    "extract": _of(
        """
Documents in their order and as they come, by the readers and workers of a run: a line that begins
with `===` and has number, title, address, date and licence, then the text. What is rejected is
counted on standard error. Files that are read together with it (PostLinks.xml and Comments.xml
beside Posts.xml, comments beside submissions) are found in its folder. Nothing is written but
scratch and the file of `--html`, and `| head` is enough to stop it. A file that nothing reads
(damaged, empty, binary) ends with 2; one that a run would reject does not.
""",
        """
$ gristmill extract crawl/sample.warc.gz -n 3
$ gristmill extract dump/Posts.xml --set options.comments=true --json
$ gristmill extract rows.jsonl --format jsonl --set columns.text=body
$ gristmill extract paper.pdf --pages --html paper.html
""",
    ),
    "explain": _of(
        """
Its verdict, each failed rule with its values, the constants that it was compared with and how far
off it was, the rules that it passed by less than 5 %, where it came from, its component and keeper,
all signals and scores. A URL may name several documents and rejects; what has none is found by its
record's own id or its file's name. It works at every stage of completeness.
""",
        """
$ gristmill explain ./ws https://en.wikipedia.org/wiki/Hermitian_matrix
document bc97b3b46b2b360ed2d0c2e13fde2232 of source web: dropped
  failed gopher_alpha_words: {"alpha_word_ratio": 0.7331828442437923}
    alpha_word_ratio is 0.733183, must be at least 0.8: 0.0668172 (8.4 %) too little
...
""",
    ),
    "funnel": _of(
        """
A document leaves at the first rule that it fails; rejects are counted by reason. Tokens are
`token_count` where a tokenizer is configured, otherwise `estimated_tokens`. For a rule that keeps a
share (`top_share`, `top_token_share`) it says what share of documents and of their tokens that was.
""",
        """
$ gristmill funnel ./ws
web
  stage     rule                             in    out     kept  of units  tokens in  tokens out
  extract                                 1,508  1,478   98.0 %    98.0 %          -   2,665,758
  ...
  select    language                      1,478    954   64.5 %    63.3 %  2,665,758   2,022,901
...
""",
    ),
    "what-if": _of(
        """
Nothing is extracted, measured or written, and `select` need not have run. For each source and rule:
documents and tokens before and after it in the rules' order, how many fail it at all, and how many
it alone drops; then the pairs of rules that drop the same documents, with their share of the
smaller rule's. Copies are told as `select` would: a source that shares components with others is
judged with them. Without `keep` in RULES the workspace's order of election holds.
""",
        """
$ gristmill what-if ./ws gopher --source web --examples 1
web
  rule                documents_in  documents_out  tokens_in  tokens_out  fails  fails_tokens  alone  alone_tokens
  ------------------  ------------  -------------  ---------  ----------  -----  ------------  -----  ------------
  gopher_words               1,478          1,448  2,665,758   2,664,401     30         1,357      4           217
  gopher_word_length         1,448          1,426  2,664,401   2,637,118     23        27,326      1         2,426
...
web: documents that two rules both drop, the largest 10 of 145
  rule                     other                     documents   share
  -----------------------  ------------------------  ---------  ------
  gopher_alpha_words       gopher_stop_words                97  35.8 %
...
""",
    ),
    "sweep": _of(
        """
In place of the number that a rule compares with, or of the share that it takes; everything else is
as the workspace's outcomes were decided, copies and shares among it. The number of now is always
among them.
""",
        """
$ gristmill sweep ./ws --rule language --values 0.5:0.9:0.1
web: language
  value  is_now  documents  kept  kept_share     tokens  kept_tokens  fails  alone
  -----  ------  ---------  ----  ----------  ---------  -----------  -----  -----
    0.5              1,478   650      44.0 %  2,665,758    1,245,134    510     26
   0.65  yes         1,478   650      44.0 %  2,665,758    1,245,134    524     26
...
$ gristmill sweep ./ws --rule gopher_words --column "word_count >=" --values 50,60,80 --html sweep.html
""",
    ),
    "diff": _of(
        """
A configuration against the outcomes of its workspace, or a second workspace against the first,
document by document, without writing. Of what is lost, the first rule that takes it after; of what
is gained, the first that took it before, or `absent`. Only what `select` decides can differ: where
a stage before it would have something to do, it says which, and ends with exit code 2. What is
rephrased is left out, since it follows what is kept.
""",
        """
$ gristmill diff curate.yaml --set "select.rules.gopher_alpha_words=alpha_word_ratio >= 0.7"
web
          documents     tokens
  ------  ---------  ---------
  before        650  1,245,134
  after         696  1,337,148
  both          650  1,245,134
  gained         46     92,015
  lost            0          0
...
$ gristmill diff ./ws ./other-ws
""",
    ),
    "sample": _of(
        """
Each with its URL, title and tokens, the numbers that decided, and the first 500 characters of its
text. Which ones depends on their ids and the seed alone.
""",
        """
$ gristmill sample ./ws web --dropped-by gopher_alpha_words --alone -n 1
8d4e6fa9b0a758887c9e9b9ddd205283 https://lemire.me/blog/2019/08/02/json-parsing-simdjson-vs-json-for-modern-c/
  JSON parsing: simdjson vs. JSON for Modern C++; 336 tokens
  alpha_word_ratio is 0.731861, must be at least 0.8: 0.0681388 (8.5 %) too little
    JSON is the ubiquitous data format on the Internet. There is a lot of JSON that needs to be parsed and validated.
...
$ gristmill sample ./ws web --html kept.html
""",
    ),
    "check": _of(
        """
Whatever was verified before, each part is held against its manifest and index; it says what is
damaged or missing and what to delete, so that the next run makes it anew. Exit code 1 when
anything is.
""",
        """
$ gristmill check ./ws
""",
    ),
    "status": _of(
        """
The last runs with what their configuration, rules or versions changed since the one before, what
each group holds and was made by, how much is superseded, and what is older than what it was made
from. It opens no part, also works while a run is on, and names a damaged index in a line. The last
1,000 runs stay recorded. Behind a URL a killed run leaves its lock: it is `running` until
`_lock.json` is deleted.
""",
        """
$ gristmill status ./ws
workspace ./ws: 1 source, 8.0 MB

when                 command                    took    made                                      outcome
-------------------  -------------------------  ------  ----------------------------------------  --------
2026-11-30 10:53:52  gristmill run curate.yaml  58.9 s  extract 1, annotate 1, dedup 2, select 1  finished
2026-11-30 10:54:58  gristmill run curate.yaml  0.2 s   select 1                                  finished
  select.rules: fineweb -> gopher
...
""",
    ),
    "test": _of(
        """
It runs nothing. Exit code 0 when all expectations of the key `expect` are met, 1 when one is missed
or cannot be told, and 2 when the workspace is not up to date with the configuration. A range is
`between A and B`, `at least A` or `at most A`, its bounds included; a number alone is enough where
the key says which side it is. `changed_...` compares with the run before the last one that has
counts.
""",
        """
$ gristmill test curate.yaml --set "expect.kept_share=at least 0.4"
source  expectation  wanted        found  outcome  details
------  -----------  ------------  -----  -------  -------
web     kept_share   at least 0.4  0.521  met
""",
    ),
    "rules list": _of(
        """
A preset's name is enough for `select.rules`; single rules of it are changed with `extends`.
""",
        """
$ gristmill rules list
""",
    ),
    "rules show": _of(
        """
A preset as its file says, with its comments; those of a rules file or of the sources of a run's
configuration as they are in force, once `extends` is worked out.
""",
        """
$ gristmill rules show gopher
$ gristmill rules show curate.yaml --source web
""",
    ),
    "gc": _of(
        """
Prints the names of what it deletes. Files that Gristmill did not make are left alone and named. It
takes the workspace's lock. Parts of a run that was killed before its stage was complete go, too;
that run then starts those shards anew.
""",
        """
$ gristmill gc ./ws --dry-run
$ gristmill gc ./ws
""",
    ),
    "export": _of(
        """
The documents that a source kept, in the order and with the text of `curated`. `DIR/data` holds
nothing but files of them, so that pyarrow, Polars and `datasets.load_dataset("DIR")` take it as it
is; `DIR/README.md` is a data-set card of what was counted, and `DIR/manifest.json`, written last,
has every file's rows, bytes and SHA-256.

    --as parquet      part-00000.parquet, ...
    --as hf           train-00000-of-00002.parquet, ...: as the Hugging Face Hub names them
    --as jsonl.zst    part-00000.jsonl.zst, ...: an object a line, `metadata` an object in it,
                      points in time in ISO 8601
    --as partitioned  language=en/part-00000.parquet, ...: a folder for each value of --by, as Hive's

The column of --by is in the folders' names alone, null as `__HIVE_DEFAULT_PARTITION__`. `datasets`
makes no column of them, and `pandas.read_parquet` cannot join a null among them with others.

The same workspace and options give the same bytes. The same export into the same DIR again finds
nothing to do; another one is refused, as is a DIR that holds anything else or lies in the
workspace. A kill leaves no `manifest.json`, and the next export begins anew.
""",
        """
$ gristmill export ./ws web --to web-data --as hf
web-data: 770 documents, 1,549,773 tokens, 2,374,682 bytes in 1 file
$ gristmill export ./ws web --to web-en --as partitioned --by licence \\
    --columns url,text,licence,language_score --where "language_score > 0.9"
""",
    ),
    "classifier train": _of(
        """
The same texts and seed give the same bytes; training runs on one thread for that. A text in both
classes is used for neither. Each class needs at least 20 distinct texts. It warns where the scores
are not to be relied on.
""",
        """
$ gristmill classifier train quality.yaml
""",
    ),
    "classifier evaluate": _of(
        """
CONFIG has `positives` and `negatives`. Given the configuration of the training itself, only the
texts that training set aside are used. The interval is of 95 %.
""",
        """
$ gristmill classifier evaluate models/quality quality.yaml
""",
    ),
    "classifier report": _of(
        """
Which cut keeps 1, 5, 10, 20 and 50 % of the documents, and how many tokens; the distribution of
scores and calibrated probabilities; the mean score by length, source, language and host; the
calibration; the words that move the score most; and ten documents each to read: best, worst, at the
border of 0.5. On a workspace the scores that this very model gave are taken, of at most a million
documents; where it has not scored all of a source, and on files, a sample of about 10,000 is scored
now. Every number of a sample has its 95 % interval. Files are Parquet, JSON lines or CSV (.gz,
.zst) with `text` and, if they like, `url`, `language` and a `label` (`positive`, 1 or true;
`negative`, 0 or false), on which the calibration is then measured, too.
""",
        """
$ gristmill classifier report models/quality --on ./ws --html report.html
$ gristmill classifier report models/quality --on "texts/*.jsonl" --columns text=content,url=link --at 0.6
""",
    ),
    "mix run": _of(
        """
Slices, swarm, training, fit, proposal, verification, token shards, report. Prints the proposed
mixture, what it is expected to gain, and the verdict of verification. After a change of the suite
it measures what is new on the kept proxies, fits and proposes, and trains nothing: a transformer's
verification and new shards then wait for `mix verify` and `mix sample`. --dry-run says how many
proxies are to train and why, and refuses what the run would refuse.
""",
        """
$ gristmill mix run mix.yaml
$ gristmill mix run mix.yaml --set suite=code.yaml --dry-run
""",
    ),
    "mix slices": _of(
        """
Prints documents, tokens, natural proportion and cap of each slice, and how many documents were held
out or share text with the suite. Like every step it does first what is missing before it.
""",
        """
$ gristmill mix slices mix.yaml
""",
    ),
    "mix swarm": _of(
        """
Baselines, replicates and the swarm; then the slices whose effect so few runs or such bounds cannot
show, each with the reason.
""",
        """
$ gristmill mix swarm mix.yaml
""",
    ),
    "mix train": _of(
        """
Prints for each task the spread over mixtures, the noise over seeds, and which tasks are mostly
noise; for transformers also the rank correlation with what n-gram proxies say of the same mixtures.
""",
        """
$ gristmill mix train mix.yaml
""",
    ),
    "mix fit": _of(
        """
Prints how well it predicts runs that neither the fit nor the choice of model saw. With --ratios,
--metrics and --out it works on anybody's tables: CSV whose first column `index` joins the rows.
""",
        """
$ gristmill mix fit mix.yaml
$ gristmill mix fit --ratios ratios.csv --metrics metrics.csv --out fit --higher accuracy
""",
    ),
    "mix predict": _of(
        """
CSV with `index`, each metric, and `METRIC_lo` and `METRIC_hi`, the 90 % interval of a new run.
""",
        """
$ gristmill mix predict --fit fit --ratios candidates.csv --out predicted.csv
""",
    ),
    "mix propose": _of(
        """
Writes `mixture.yaml`, not verified: the least weighted metric within caps, bounds, groups and the
region that the swarm sampled.
""",
        """
$ gristmill mix propose mix.yaml --set propose.objective=upper
""",
    ),
    "mix explain": _of(
        """
For each slice or for one: what five points more or less would cost, which bound holds it, and what
changed since the proposal that was written before. Reads files alone.
""",
        """
$ gristmill mix explain mix.yaml
$ gristmill mix explain mix.yaml code
""",
    ),
    "mix verify": _of(
        """
Trains the candidates (proposal, natural, uniform, best seen) with the same fresh seeds, prints what
is expected of each and how they differ seed by seed, and writes into `mixture.yaml` the one that is
expected to be best.
""",
        """
$ gristmill mix verify mix.yaml
""",
    ),
    "mix sample": _of(
        """
The shards of the mixture that was written last, verified or not; it says which that is. --set asks
for the mixture of that configuration instead.
""",
        """
$ gristmill mix sample mix.yaml
""",
    ),
    "mix report": _of(
        """
The page lies beside the proposal that was written last; its path is printed, and nothing is trained
for it.
""",
        """
$ gristmill mix report mix.yaml
""",
    ),
    "scaling fit": _of(
        """
L(N, D) = E + A/N^alpha + B/D^beta, by Huber loss on the log, many starts and a bootstrap. Writes
`fit.json` and an isoFLOP plot.
""",
        """
$ gristmill scaling fit --runs runs.csv --out law
""",
    ),
    "scaling predict": _of(
        """
With the 90 % interval of the law, and that of a single run.
""",
        """
$ gristmill scaling predict --fit law --parameters 1e9 --tokens 2e10
""",
    ),
    "scaling allocate": _of(
        """
For the least loss of training alone and, with tokens to serve, for the same loss at the least cost
of training and serving, and for the least loss within the same budget.
""",
        """
$ gristmill scaling allocate --fit law --flops 1e21 --served-tokens 1e12
""",
    ),
    "doctor": _of(
        """
Also compiled kernels and isolated extraction. Exit code 1 when a run would not work here.
""",
        """
$ gristmill doctor
""",
    ),
    "docs": _of(
        """
NAME is a command (`mix run`), an option (`run --until`), a key of a configuration (`select.rules`,
`sources.web.format`, or its last names), a view or column, a reject reason, a rule of a preset, a
rule function, a preset, a format, a file that is written or an exit code; of several of that name
all are printed. The beginning of keys (`dedup`) lists those below it, a format its options and
columns, a kind (`exit-codes`) all of its names. Without NAME it lists what there is. A name that is
not known ends with 2 and the nearest one.
""",
        """
$ gristmill docs select.rules
$ gristmill docs "run --until"
$ gristmill docs word_count
column word_count
  words with a letter, mark or number in them
  type: int64
  of: signals_text_stats, outcomes, everything
$ gristmill docs gopher_stop_words
$ gristmill docs mix run
""",
    ),
}
"""By what is typed behind `gristmill`."""
