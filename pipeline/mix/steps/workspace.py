"""One mix, opened: its configuration, and its folder under a lock.

The folder lies where the workspace lies. Tokens are mapped into memory and proxies are trained by processes of their
own, so what is behind a URL is worked on in a copy in the user's cache, a `Mirror`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipeline.mix.config import MixConfig, TargetStage, default_name
from pipeline.mix.folder import MixFolder, mix_folder
from pipeline.mix.steps.types import Desk, OpenMix
from pipeline.mix.weights.mixture import Mixture, load_mixture
from pipeline.table.catalog import Catalog
from pipeline.table.config import validate
from pipeline.table.errors import ConfigError, UsageError, WorkspaceError
from pipeline.table.kept import as_written, local_copy, read_config, read_json, size_of
from pipeline.table.storage import Storage, hold


def load_mix(path: str, assignments: Sequence[str] = ()) -> tuple[MixConfig, str]:
    """Return the configuration in a YAML file with `--set` assignments applied, and the mix's name.

    Raises: ConfigError.
    """
    config = read_config(MixConfig, path, assignments)
    return config, config.name or default_name(path)


def checked_mix(path: str, assignments: Sequence[str]) -> tuple[MixConfig, str, Storage]:
    """Return configuration, name and workspace of a mix, once the workspace is known to be one. Nothing is written.

    Raises: UsageError when configuration or workspace cannot be used.
    """
    config, name = load_mix(path, assignments)
    storage = Storage.at(config.workspace)
    Catalog.read(storage)  # a mistyped path must not become a new workspace
    return config, name, storage


def stage_mixture(stage: TargetStage) -> tuple[MixConfig, Mixture]:
    """Return the configuration and the mixture of another stage of the target run.

    Raises: ConfigError when the configuration cannot be used or its mixture was not made yet.
    """
    config, name = load_mix(stage.config)
    path = mix_home(Storage.at(config.workspace), name).sql_path("mixture.yaml")
    if size_of(path) is None:
        raise ConfigError(
            f"stages.{stage.name}: {path} does not exist; make it first: gristmill mix run {stage.config}"
        )
    with local_copy(path) as local:
        return config, load_mixture(Path(local))


def mix_home(storage: Storage, name: str) -> Storage:
    """Return the folder of a mix in a workspace."""
    return Storage.at(storage.sql_path(f"mix/{name}"))


@contextmanager
def opened_mix(
    path: str, assignments: Sequence[str], command: str, desk: Desk, stored: str | None = None
) -> Iterator[OpenMix]:
    """Hold a mix's folder and give the block the mix. The workspace itself is only read, and not held.

    `stored` names a proposal of the mix, whose own configuration is then taken; "" the one whose mixture was written
    last, where there is one.

    Raises: UsageError when configuration or workspace cannot be used, or another command holds the mix.
    """
    config, name, storage = checked_mix(path, assignments)
    home = mix_home(storage, name)
    folder = mix_folder(home)
    with ExitStack() as held:
        if stored and home.is_local:
            stored_config(folder, stored, config)  # a name that is wrong makes no folder
        held.enter_context(hold(home, command))
        for part in ("", "swarm/", "slices/", "slices/late/", "proposals/*/", "proposals/*/*/"):
            for left in folder.root.glob(f"{part}.*.tmp"):  # of killed writers
                left.unlink(missing_ok=True)
        if folder.mirror is not None:
            held.enter_context(hold(Storage.at(str(folder.root)), command))
            folder.mirror.pull()
            held.callback(folder.publish)
        if stored == "":
            stored = _written_last(folder)
        if stored is not None:
            today, config = config, stored_config(folder, stored, config)
            changed = [key for key in type(config).model_fields if getattr(config, key) != getattr(today, key)]
            if changed:
                said = f"proposal {stored}; {path} has other {', '.join(changed)} by now"
                desk.line(f"{said}: `gristmill mix propose {path}` makes another proposal of it")
        yield OpenMix(path, tuple(assignments), stored, name, config, storage, folder, desk)


def glanced_mix(path: str, assignments: Sequence[str], desk: Desk) -> OpenMix:
    """Return the mix to look at: it is not held, so nothing may be written but the copy of a remote one.

    Raises: UsageError when configuration or workspace cannot be used.
    """
    config, name, storage = checked_mix(path, assignments)
    folder = mix_folder(mix_home(storage, name))
    if folder.mirror is not None:
        with suppress(WorkspaceError), hold(Storage.at(str(folder.root)), "gristmill mix"):
            folder.mirror.pull()  # unless a command is at work in it: then it is seen as that sees it
    return OpenMix(path, tuple(assignments), None, name, config, storage, folder, desk)


def _written_last(folder: MixFolder) -> str | None:
    """Return the name of the proposal whose mixture was written last, or None when there is none."""
    written = load_mixture(folder.mixture).provenance if folder.mixture.is_file() else None
    return written.proposal if written and folder.proposal(written.proposal).config.is_file() else None


def stored_config(folder: MixFolder, proposal: str, config: MixConfig) -> MixConfig:
    """Return the configuration that led to a proposal, in today's workspace.

    Raises: UsageError when the mix has no such proposal; ConfigError when another version wrote its configuration.
    """
    names = [each.name for each in folder.proposals()]
    if proposal not in names:
        known = f"; there are {', '.join(names)}" if names else ""
        raise UsageError(f"--proposal {proposal}: {folder.root / 'proposals'} has none of that name{known}")
    path = folder.proposal(proposal).config
    with as_written(path):
        value = {**(read_json(path) or {}), "workspace": config.workspace, "name": config.name}
    return validate(MixConfig, value, str(path), {})
