"""The files that commands write, for the reference. A test holds them against what commands write.

Words in capitals, and `*`, stand for any name.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.table.catalog import ANSWERS, RUNS
from pipeline.table.shards import INDEX, MANIFESTS, VERIFIED
from pipeline.table.storage import LOCK, TEMPORARY

FILES: dict[str, Mapping[str, str]] = {
    "A workspace": {
        "SOURCE/GROUP/part-*.parquet": "rows: a group is a view's folder (`documents`, `signals/language`, "
        "`scores/NAME`), `signatures`, or one of those that other stages read (`predictions/NAME`, `against/SOURCE`)",
        f"SOURCE/{MANIFESTS}/GROUP/part-*.json": "the part's manifest, written last: what it was made from, settings, "
        "versions, counts, and the hash of the file",
        f"SOURCE/{MANIFESTS}/GROUP/{INDEX}": "the parts that count; one that it does not list does not exist",
        LOCK: "which run holds the workspace, or held it last",
        f"{RUNS}/*.json": "a run: `command`, `started`, `seconds`, `outcome`, `error`, `versions`, its configuration, "
        "and what each stage made; `gristmill status --json` has the last ones",
        f"{VERIFIED}/SOURCE/GROUP.json": "which files were found sound; without it they are read once more",
        f"{TEMPORARY}/*": "half-written files; may be deleted while nothing runs",
        f"{ANSWERS}/answers.sqlite*": "what language models answered, never asked for twice; deleting it costs money",
    },
    "A mix": {
        "mix/MIX/mixture.yaml": "the mixture that was written last; its keys are those of the configuration `mixture`",
        "mix/MIX/written.json": "the proposals whose mixtures were written, the last one last",
        f"mix/MIX/{LOCK}": "which command holds the mix, or held it last",
        "mix/MIX/slices/tokenizer.json": "the tokenizer, for the key `tokenizer.file` of other mixes",
        "mix/MIX/slices/tokenizer.manifest.json": "what the tokenizer was made from",
        "mix/MIX/slices/SLICE/tokens.npy": "all training tokens of the slice, uint16 or uint32, for `np.load`",
        "mix/MIX/slices/SLICE/documents.parquet": "`doc_id`, `source`, `start` (first token), `tokens` (the "
        "end-of-document token among them), `bytes`",
        "mix/MIX/slices/SLICE/held_out.parquet": "`doc_id` and `text` of the documents never trained on",
        "mix/MIX/slices/SLICE/manifest.json": "what the slice was made from; documents held out and contaminated",
        "mix/MIX/slices/late/*.json": "the documents that share text with tasks which came after the slice was made",
        "mix/MIX/swarm/swarm.json": "the mixtures that proxies train on",
        "mix/MIX/runs/RUN/run.json": "a proxy run, written once it is done: `kind`, `seed`, `weights`, its loss curve",
        "mix/MIX/runs/RUN/stopped.json": "the share of its tokens at which early stopping ended it",
        "mix/MIX/runs/RUN/ngram.json": "how far an n-gram proxy was trained",
        "mix/MIX/runs/RUN/MODEL.npz": "a transformer's weights, `checkpoint` until it is done and `model` then",
        "mix/MIX/runs/RUN/measures*/TASK.npz": "what was measured of a task: `nats` and `n_bytes`, an item each",
        "mix/MIX/runs/ngram_counts/*.npz": "counts that n-gram proxies share; made again when it is gone",
        "mix/MIX/proposals/PROPOSAL/config.json": "the configuration of the mix that led to it",
        "mix/MIX/proposals/PROPOSAL/proposal.json": "what the regression proposes, with intervals",
        "mix/MIX/proposals/PROPOSAL/verification.json": "what fresh proxies said",
        "mix/MIX/proposals/PROPOSAL/mixture.yaml": "its mixture",
        "mix/MIX/proposals/PROPOSAL/fit/ratios.csv": "the mixtures that were fitted: `index` (a run and its seed), a "
        "weight a slice, `seed`; `mix fit --ratios` reads it",
        "mix/MIX/proposals/PROPOSAL/fit/metrics.csv": "what they measured: `index`, a column a task, bits per byte; "
        "`mix fit --metrics` reads it",
        "mix/MIX/proposals/PROPOSAL/fit/noise.json": "for each task the spread over seeds (`seed_std`) and over "
        "mixtures (`signal_std`), and their `ratio`; `flagged`: mostly noise",
        "mix/MIX/proposals/PROPOSAL/fit/fit.json": "the regression, for `mix predict --fit`; with `--out` a folder of "
        "yours has it",
        "mix/MIX/proposals/PROPOSAL/fit/fit-*.npz": "its numbers",
        "mix/MIX/proposals/PROPOSAL/fit/key.json": "what it was fitted to",
        "mix/MIX/proposals/PROPOSAL/report/index.html": "the page of `mix report`",
        "mix/MIX/proposals/PROPOSAL/report/plots/*.png": "its plots",
        "mix/MIX/proposals/PROPOSAL/shards/index.json": "the sample: `folder`, `format`, `dtype`, `eos`, `tokens`, "
        "of each slice what was asked and what is there, the shards' files",
    },
    "Token shards": {
        "shards/FOLDER/part-*.npy": "`sample.format: npy`: tokens alone, without NumPy's header, little-endian, for "
        "`np.memmap` with the `dtype` of `index.json`; `np.load` does not read it",
        "shards/FOLDER/part-*.csv.gz": "beside it, a line a document, without a header: its first token, and the one "
        "behind its last",
        "shards/FOLDER/part-*.bin": "`megatron`: tokens, uint16 or int32",
        "shards/FOLDER/part-*.idx": "beside it: Megatron's index, a sequence a document",
        "shards/FOLDER/part-*.parquet": "`parquet`: `doc_id`, `slice`, `epoch`, `tokens`, a row a document",
        "shards/FOLDER/trace-*.parquet": "whose tokens lie where: `slice`, `doc_id`, `epoch`, `start` and `end` in the "
        "shard, `document_start` (from which token of the document on), `cut` (it is cut short), `continues` (the next "
        "shard has its rest)",
        "shards/FOLDER/shard-*.json": "tokens a slice, documents, and the files' hashes",
    },
    "An export": {
        "data/*": "the documents, as `--as` says, and nothing else",
        "README.md": "a data-set card of what was counted",
        "manifest.json": "written last: every file's rows, bytes and SHA-256, options, and `recipe`, a digest of all "
        "that the documents follow from",
    },
    "A classifier": {
        "model.bin": "fastText's model",
        "artefact.json": "name, preprocessing, calibration, what it was trained on, and its AUC on held-out texts",
    },
    "A scaling law": {
        "fit.json": "the law's constants with their intervals, for `scaling predict` and `scaling allocate`",
        "isoflop.png": "its plot, with the extra `plots`",
    },
}
"""What each folder holds: paths below it, and what they are."""
