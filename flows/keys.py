"""`syncd keys` and `syncd sign`: what a command needs is imported when it runs."""

import os
from pathlib import Path
from typing import Annotated

import typer

from flows.options import HERE, RuntimeOption, WorkspaceOption, runtime_of

keys = typer.Typer(help="Keys that sign the statements.", no_args_is_help=True)


@keys.command(name="new")
def keys_new(
    out: Annotated[Path, typer.Option(help="Folder for the two files; keep it out of the workspace and of git.")],
    passphrase_variable: Annotated[
        str | None, typer.Option(help="Environment variable with a passphrase, to encrypt the private key.")
    ] = None,
) -> None:
    """Make an ed25519 key that signs, and the public key that others pin."""
    from configs.errors import ConfigError
    from data.signing import keyid_of, make_keys, read_public_key

    passphrase = os.environ.get(passphrase_variable, "") if passphrase_variable else None
    if passphrase == "":
        raise ConfigError(f"--passphrase-variable: {passphrase_variable} is empty or not set; put the passphrase there")
    private, public = make_keys(out, passphrase)
    typer.echo(f"private key  {private}  (keep it secret; runtime signing_key or SYNCD_SIGNING_KEY names it)")
    typer.echo(f"public key   {public}  (give it to auditors: syncd verify --public-key {public})")
    typer.echo(f"keyid        {keyid_of(read_public_key(public))}")


def sign(
    key: Annotated[
        Path | None, typer.Option(help="Private key in PEM; default: SYNCD_SIGNING_KEY or the runtime's signing_key.")
    ] = None,
    workspace: WorkspaceOption = HERE,
    runtime: RuntimeOption = None,
) -> None:
    """Sign the statements that this key has not signed, after checking that every digest holds.

    With a store in the runtime the signatures go there too.
    """
    from configs.errors import ConfigError
    from data.signing import keyid_of
    from flows.envelopes import send_signatures
    from flows.signing import sign_workspace, signer_of
    from flows.workspace import SIGNING_KEY_VARIABLE, find_workspace, locked

    folder = find_workspace(workspace)
    if key is not None:
        os.environ[SIGNING_KEY_VARIABLE] = str(key)
    chosen = runtime_of(runtime, None)
    signer = signer_of(chosen)
    if signer is None:
        raise ConfigError(
            "no key to sign with: give --key, or name one in the runtime (signing_key) or in SYNCD_SIGNING_KEY; "
            "make one with: syncd keys new --out FOLDER"
        )
    with locked(folder):
        fresh, before = sign_workspace(folder, signer)
        if chosen.store is not None:
            send_signatures(folder, [*fresh, *before], chosen.store)
    typer.echo(f"signed by keyid {keyid_of(signer.public_key())}: {', '.join(fresh) or 'nothing to sign'}")
    if before:
        typer.echo(f"signed before, and valid: {', '.join(before)}")
