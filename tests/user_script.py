"""A user's script against `import gristmill`: `make check` types it strictly, a test runs it on a real workspace."""

from __future__ import annotations

import gristmill as gm


def read(path: str) -> dict[str, int]:
    """Return what some calls found, as a script would use it."""
    ws = gm.open(path)
    funnel: gm.Answer = ws.funnel()
    kept = int(funnel.df()["documents_out"].iloc[-1])
    names: tuple[str, ...] = ws.sources
    source: gm.Source = ws.source(names[0])
    urls = source.curated.scan().to_table(columns=["url"]).num_rows
    frame = ws.sql("SELECT outcome, count(*) AS n FROM main.outcomes GROUP BY ALL").pl()
    try:
        ws.explain("https://nowhere.example/")
    except gm.WorkspaceError as error:
        missed = error.exit_code
    return {"kept": kept, "urls": urls, "outcomes": int(frame["n"].sum()), "missed": missed, "rows": len(funnel)}
