"""A workspace and its sources, to be read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows import commands
from pipeline.table.catalog import Catalog
from pipeline.table.errors import WorkspaceError, nearest
from pipeline.table.format import Answer
from pipeline.table.query import quote
from pipeline.table.shards import Group
from pipeline.table.storage import Storage

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from pipeline.export.export import Form
    from pipeline.table.catalog import Source as Listed


@dataclass(frozen=True)
class Workspace:
    """A workspace at a path or URL. Each call reads what it holds then; a run beside it does no harm."""

    path: str

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the sources, sorted."""
        return tuple(source.name for source in Catalog.read(Storage.at(self.path)).sources)

    def source(self, name: str) -> Source:
        """Return a source. Raises: WorkspaceError when there is none of that name."""
        if name not in self.sources:
            raise WorkspaceError(f"{self.path} has no source {name!r}{nearest(name, self.sources)}")
        return Source(self, name)

    def sql(self, query: str) -> Answer:
        """Ask in DuckDB SQL: `<source>.documents`, `.outcomes`, `.everything` and others. All rows are in memory.

        Raises: QueryError.
        """
        return commands.sql(self.path, query)

    def funnel(self) -> Answer:
        """Return how many documents and tokens each stage and each rule left, a row a stage or rule."""
        return commands.funnel(self.path)

    def explain(self, document: str) -> Answer:
        """Return why a document (a doc_id or URL) ended as it did: a row a rule that it failed, or passed by little.

        Raises: WorkspaceError when nothing has this id or URL.
        """
        return commands.explain(self.path, document)

    def what_if(
        self, rules: str | os.PathLike[str] | Mapping[str, Any], sources: str | Sequence[str] = (), examples: int = 0
    ) -> Answer:
        """Return what other rules (a preset, a file, a mapping) would do: a row a source and rule; overlap and examples
        are in `value`. Nothing is written.

        Raises: WorkspaceError, ConfigError, RuleError.
        """
        asked = rules if isinstance(rules, Mapping) else os.fspath(rules)
        return commands.what_if(self.path, asked, [sources] if isinstance(sources, str) else sources, examples)

    def sweep(
        self,
        rule: str,
        values: str | Sequence[float],
        sources: str | Sequence[str] = (),
        column: str | None = None,
        html: str | None = None,
    ) -> Answer:
        """Return what would be kept with other numbers in place of the one that a rule compares with: a row a number.

        Raises: WorkspaceError, UsageError.
        """
        chosen = [sources] if isinstance(sources, str) else sources
        return commands.sweep(self.path, rule, values, chosen, column, html)

    def sample(
        self,
        source: str,
        dropped_by: str | None = None,
        alone: bool = False,
        n: int = 20,
        seed: int = 1,
        html: str | None = None,
    ) -> Answer:
        """Return documents to read, a row each: some that a source kept, or that a rule dropped.

        Raises: WorkspaceError, UsageError.
        """
        return commands.sample(self.path, source, dropped_by, alone, n, seed, html)

    def check(self) -> Answer:
        """Read every part and hold it against its manifest: a row a group, with its problems."""
        return commands.check(self.path)

    def status(self) -> Answer:
        """Say what ran when, what the workspace holds, what is superseded or out of date: a row a group.

        The runs, with what each changed, are in `value`.
        """
        return commands.status(self.path)

    def gc(self, dry_run: bool = False) -> Answer:
        """Delete the parts that no index lists; return a row a file. Raises: WorkspaceError when a run is on."""
        return commands.gc(self.path, dry_run)

    def export(
        self,
        source: str,
        to: str | os.PathLike[str],
        form: Form = "parquet",
        *,
        by: str | None = None,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        shard_size: str = "512MB",
        overwrite: bool = False,
    ) -> Answer:
        """Write what a source kept to a folder or URL, with a data-set card and a manifest: a row a file.

        `columns`, `by` (a folder a value, for `partitioned`) and the predicate `where` name columns of `curated` and
        `outcomes`. The same again writes nothing.

        Raises: UsageError for options that cannot be used, and a folder that holds anything else; ShardError when a
        file cannot be written.
        """
        return commands.export(self.path, source, os.fspath(to), form, by, columns, where, shard_size, overwrite)


@dataclass(frozen=True)
class Source:
    """One source of a workspace: its groups of Parquet parts."""

    workspace: Workspace
    name: str

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that stages have completed: `documents`, `signals/language`, `outcomes` ..."""
        return tuple(self._listed().groups)

    def group(self, folder: str) -> Parts:
        """Return the parts of a group, such as `signals/language`. Raises: WorkspaceError when it is not there."""
        if folder not in self.groups:
            hint = nearest(folder, self.groups) or "; run the stage that makes it"
            raise WorkspaceError(f"{self.workspace.path}: source {self.name} has no {folder!r}{hint}")
        return Parts(self, folder)

    @property
    def documents(self) -> Parts:
        """What extraction made, with the text."""
        return self.group("documents")

    @property
    def rejects(self) -> Parts:
        """What extraction refused, with reasons."""
        return self.group("rejects")

    @property
    def outcomes(self) -> Parts:
        """What was measured and decided of each document, without its text."""
        return self.group("outcomes")

    @property
    def curated(self) -> Parts:
        """The documents that were kept."""
        return self.group("curated")

    def _listed(self) -> Listed:
        sources = Catalog.read(Storage.at(self.workspace.path)).sources
        return next(source for source in sources if source.name == self.name)


@dataclass(frozen=True)
class Parts:
    """The parts of a group. Each call sees those that the group's index lists then."""

    source: Source
    folder: str

    def __len__(self) -> int:
        return self.source._listed().rows(self.folder)

    def scan(self) -> ds.Dataset:
        """Return the parts as a `pyarrow.dataset`, once they were held against their manifests.

        Raises: WorkspaceError when one is damaged.
        """
        import pyarrow.dataset as ds

        from pipeline.table.sql import verify_parts

        storage = Storage.at(self.source.workspace.path)
        group, index = Group(storage, f"{self.source.name}/{self.folder}"), self.source._listed().groups[self.folder]
        if not index.parts:
            view = f"{quote(self.source.name)}.{quote(self.folder.replace('/', '_'))}"
            return ds.dataset(self.source.workspace.sql(f"FROM {view} LIMIT 0").arrow())
        verify_parts(group, index)
        paths = [storage.path(group.path(part.name)) for part in index.parts]
        return ds.dataset(paths, format="parquet", filesystem=None if storage.is_local else storage.fs)


def open(workspace: str | os.PathLike[str]) -> Workspace:  # noqa: A001
    """Return the workspace at a path or URL. Raises: WorkspaceError when there is none."""
    Catalog.read(Storage.at(os.fspath(workspace)))
    return Workspace(os.fspath(workspace))
