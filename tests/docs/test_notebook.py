"""The notebook in docs/ runs from top to bottom, and gives what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebook.ipynb"


def shown(notebook: Any) -> list[tuple[str, str]]:
    """Return the source and the printed text of each cell of code; what goes to standard error are rates and times."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            texts = [output.get("text") or output["data"]["text/plain"] for output in outputs]
            found.append((cell.source, "".join(texts)))
    return found


@pytest.mark.filterwarnings("ignore")  # of the kernel's transport
def test_the_notebook_gives_what_it_shows(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    written = shown(notebook)
    NotebookClient(notebook, timeout=250, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert shown(notebook) == written
    assert sum(bool(text) for _, text in written) > 8
