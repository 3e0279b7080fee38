"""`syncd push` and `syncd pull`: what DVC has of a workspace's stages, to and from a DVC remote.

What to transfer is in dvc.lock, which belongs into git with the recipe; the remote holds contents alone. Signatures of
the statements travel beside them (flows/envelopes.py).
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from flows.options import HERE, WorkspaceOption

if TYPE_CHECKING:
    from dvc.repo import Repo

REMOTE = "syncd"
"""Name of the remote in DVC's configuration."""
RemoteOption = Annotated[
    str | None, typer.Option("--remote", help="s3://BUCKET/PREFIX or file:///FOLDER, remembered for this workspace.")
]


def push(workspace: WorkspaceOption = HERE, remote: RemoteOption = None) -> None:
    """Store the outputs of finished stages in the DVC remote; what is there already is left alone."""
    from flows.envelopes import send_signatures

    count, signatures = transferred(workspace, remote, lambda repo: repo.push(), send_signatures)
    typer.echo(f"{count} files pushed, {signatures} signatures")


def pull(workspace: WorkspaceOption = HERE, remote: RemoteOption = None) -> None:
    """Bring the outputs that dvc.lock names from the DVC remote."""
    from flows.envelopes import bring_signatures

    count, signatures = transferred(workspace, remote, lambda repo: repo.pull()["stats"]["fetched"], bring_signatures)
    typer.echo(f"{count} files fetched, {signatures} signatures; check them with: syncd verify")


def transferred(
    folder: Path,
    url: str | None,
    outputs: Callable[["Repo"], int],
    signatures: Callable[[Path, Sequence[str], str], int],
) -> tuple[int, int]:
    """What the two functions transferred; ConfigError if there is no lock or no remote, or if DVC cannot do it.

    Signatures stay where they are, with a warning, if the remote is of a kind that is no store (data/store.py).
    """
    from configs.errors import ConfigError
    from data.store import SCHEMES, is_url
    from flows.graph import load_graph
    from flows.workspace import find_workspace, locked, quiet_environment

    workspace = find_workspace(folder)
    if not (workspace / "dvc.lock").exists():
        raise ConfigError(f"{workspace / 'dvc.lock'}: missing; run the pipeline, or get the file from where it ran")
    os.environ.update(quiet_environment(workspace))
    with locked(workspace), _repository(workspace, url) as repo:
        count, place = outputs(repo), repo.config["remote"][repo.config["core"]["remote"]]["url"]
        if not is_url(place):
            place = Path(place).resolve().as_uri()
        if urlsplit(place).scheme in SCHEMES:
            return count, signatures(workspace, load_graph(workspace).names, place)
    typer.echo(
        f"WARNING: {place}: signatures travel to {' and '.join(SCHEMES)} only; copy artifacts/signatures", err=True
    )
    return count, 0


@contextmanager
def _repository(workspace: Path, url: str | None) -> Iterator["Repo"]:
    from dvc.config import Config
    from dvc.exceptions import DvcException
    from dvc.logger import set_loggers_level
    from dvc.repo import Repo

    from configs.errors import ConfigError
    from data.store import is_url, local_path

    try:
        if url is not None:
            place = url if is_url(url) and not url.startswith("file://") else str(local_path(url).resolve())
            with Config(dvc_dir=str(workspace / ".dvc")).edit("local") as written:
                written["remote"][REMOTE] = {"url": place}
                written["core"]["remote"] = REMOTE
        with set_loggers_level(logging.CRITICAL), Repo(str(workspace)) as repo:
            if not repo.config["core"].get("remote"):
                raise ConfigError(
                    f"{workspace}: no remote is set; set one with: syncd push --remote s3://BUCKET/PREFIX"
                )
            yield repo
    except (DvcException, OSError) as error:
        raise ConfigError(f"{workspace}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """DVC's own words; for a kind of remote that is not installed, those of this project."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "RemoteMissingDepsError":
        return f"{text.partition('.')[0]}; pip install 'syncd[s3]'"
    if type(error).__name__ in ("UploadError", "DownloadError", "CheckoutError"):
        where = os.environ.get("AWS_ENDPOINT_URL", "unset")
        return f"{text}; check the remote, its rights and AWS_ENDPOINT_URL ({where}), and run the same command again"
    return text or type(error).__name__
