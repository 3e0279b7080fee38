"""Where every model comes from: located, verified against its pin, and loaded once per process.

    python -m models.registry pin      write the digests of the miniature's weights into configs/models.yaml

A new base model is one file with a loader, and one line in LOADERS.
"""

import importlib
import os
import re
import sys
from collections.abc import Mapping
from functools import lru_cache, reduce
from pathlib import Path
from threading import Lock
from typing import Any

import yaml
from safetensors import SafetensorError

from configs.load import CONFIGS, load_runtime
from configs.schema import ModelRef
from data.ids import digest_of
from data.shards import sha256_file, write_atomic

LOADERS = {
    "flux": "models.flux.generator:FluxGenerator.from_pretrained",
    "clip": "models.scorers.clip:ClipScorer.from_pretrained",
    "quality_head": "models.scorers.quality:QualityScorer.from_pretrained",
    "dinov2": "models.scorers.identity:IdentityScorer.from_pretrained",
    "dino": "models.scorers.identity:IdentityScorer.from_vit",
    "segformer": "models.scorers.segmenter:Segmenter.from_pretrained",
    "grounding_dino": "models.scorers.detector:Detector.from_pretrained",
    "sam": "models.scorers.grounded:BoxSegmenter.from_pretrained",
    "blip_vqa": "models.scorers.vqa:VisualQuestionAnswerer.from_pretrained",
    "causal_lm": "models.prompts.local_chat:LocalChat.from_pretrained",
}
"""Architecture -> `module:function(folder, device, dtype)`; imported when first used."""

DTYPES = ("float32", "bfloat16", "float16")
UNSET = "unset"
UNREAD = ("*.bin", "*.h5", "*.msgpack", "*.gguf", "*.jpg", "*.png", "flux1-*", "ae.safetensors", "original/*")
"""Files of hub repositories that nothing here reads: pictures, and the same weights once more in other formats."""
WEIGHTS_VARIABLE = "SYNCD_MINIATURE_WEIGHTS"
"""Environment variable: another folder than models/miniature/weights, to try weights before they are in place."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_loading = Lock()


class ModelError(Exception):
    """A model that is missing, not the one that was pinned, or not allowed; the message names it and the fix."""


def miniature_weights() -> Path:
    """The folder that `miniature:` sources are in."""
    return Path(os.environ.get(WEIGHTS_VARIABLE) or Path(__file__).resolve().parent / "miniature" / "weights")


def folder_files(folder: Path) -> list[list[str]]:
    """Sorted [path relative to `folder`, sha256] of every file; hidden files and folders are no part of a model."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    visible = {name: path for name, path in files.items() if not any(part.startswith(".") for part in name.parts)}
    stamps = tuple(
        sorted((name.as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for name, path in visible.items())
    )
    return [list(item) for item in _hash_files(folder, stamps)]


@lru_cache(maxsize=64)
def _hash_files(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, sha256_file(folder / name)) for name, _, _ in stamps)


def folder_digest(folder: Path) -> str:
    """sha256 of the canonical JSON of `folder_files`: what pins a `miniature:` or `folder:` model.

    Hashed once per process as long as no file's size or time of change differs.
    """
    return digest_of(folder_files(folder.resolve()))


def locate(ref: ModelRef, offline: bool | None = None) -> Path:
    """Folder of the model, after checking that it is the pinned one. ModelError says what is wrong and the fix.

    `offline`: nothing is downloaded; None: as the runtime says.
    """
    scheme, _, place = ref.source.partition(":")
    if scheme == "hub":
        return _locate_hub(ref, place, load_runtime().offline if offline is None else offline)
    if scheme == "miniature":
        folder, fix = miniature_weights() / place, "make it with: syncd miniature train"
    elif scheme == "folder":
        folder, fix = Path(place).expanduser(), f"get it with: {ref.fetch}" if ref.fetch else "put the model there"
    else:
        raise ModelError(f"{_name(ref)}: source {ref.source!r}; allowed: miniature:FOLDER, hub:OWNER/NAME, folder:PATH")
    if ref.revision == UNSET:
        accept = _pin(ref) if folder.is_dir() else ""
        raise ModelError(f"{_name(ref)}: revision is {UNSET!r}, so nothing says which bytes are meant; {fix}{accept}")
    if not folder.is_dir():
        raise ModelError(f"{_name(ref)}: no folder {folder}; {fix}")
    found = folder_digest(folder)
    if found != ref.revision:
        raise ModelError(
            f"{_name(ref)}: {folder} has the digest {found}, the pin is {ref.revision}; "
            f"bring back the pinned files{' (git checkout)' if scheme == 'miniature' else ''}{_pin(ref)}"
        )
    return folder


def served_name(ref: ModelRef) -> str | None:
    """What a server calls a model that is reached through it; None for a model with files of its own."""
    scheme, _, place = ref.source.partition(":")
    return place if scheme == "server" else None


def _name(ref: ModelRef) -> str:
    return f"model {ref.name}"


def _pin(ref: ModelRef) -> str:
    """How to accept the files that are there."""
    if ref.source.startswith("miniature:"):
        return "; or accept what is there with: python -m models.registry pin"
    return "; or accept what is there by writing its digest as `revision` in configs/models.yaml"


def _locate_hub(ref: ModelRef, repository: str, offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    if not _COMMIT.fullmatch(ref.revision):
        raise ModelError(
            f"{_name(ref)}: revision {ref.revision!r} of {repository} is not a pin; "
            "write the 40-digit commit of the repository"
        )
    unread = " ".join(f'--exclude "{pattern}"' for pattern in UNREAD)
    fetch = ref.fetch or f"hf download {repository} --revision {ref.revision} {unread}"
    try:
        return Path(
            snapshot_download(
                repository,
                revision=ref.revision,
                local_files_only=offline,
                ignore_patterns=UNREAD,
            )
        )
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{_name(ref)}: {repository} at {ref.revision} is not in the local cache{_lacking(error)}; "
            f"fetch it with: {fetch}; or allow downloads with `offline: false` in the runtime"
        ) from error
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise ModelError(
            f"{_name(ref)}: {repository} is not open to this account; accept its licence on the hub, then: "
            f"hf auth login && {fetch}"
        ) from error


def _lacking(error: Exception) -> str:
    """What the hub's client says of a download that was broken off: how many files are missing, and some of them."""
    found = re.search(r"\d+ file\(s\) are missing \([^)]*\)", str(error))
    return f" as a whole: {found[0]}" if found else ""


def load_with(loaders: Mapping[str, str], ref: ModelRef, device: str, dtype: str) -> Any:
    """A model of the caller's own, made by the loader of its architecture. ModelError if it cannot be loaded."""
    if ref.architecture not in loaders:
        raise ModelError(f"{_name(ref)}: architecture {ref.architecture!r}; known: {', '.join(sorted(loaders))}")
    if dtype not in DTYPES:
        raise ModelError(f"{_name(ref)}: dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    import torch  # as late as this, so that whoever only asks where models are does not wait for it

    folder = locate(ref)
    module, _, attribute = loaders[ref.architecture].partition(":")
    loader: Any = reduce(getattr, attribute.split("."), importlib.import_module(module))
    try:
        return loader(folder, device, getattr(torch, dtype))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{_name(ref)}: {folder} cannot be loaded as {ref.architecture}: {error}") from error


def load(ref: ModelRef, device: str, dtype: str, offload: str = "none") -> Any:
    """The model, loaded once per process and shared by all who ask: do not change it (`load_with` gives another).

    `offload`: "text_encoders" or "all" stay in main memory and are on the device only while they work.
    """
    with _loading:
        return _loaded(ref, device, dtype, offload)


@lru_cache(maxsize=16)
def _loaded(ref: ModelRef, device: str, dtype: str, offload: str) -> Any:
    if offload == "none":
        return load_with(LOADERS, ref, device, dtype)
    model = load_with(LOADERS, ref, "cpu", dtype)
    model.offload(device, offload)
    return model


def pin_miniature(registry: Path = CONFIGS / "models.yaml") -> dict[str, str]:
    """Write the digest of every `miniature:` folder as that model's revision; returns name -> revision.

    A plain text rewrite that keeps comments and order. A model that was never pinned and has no folder yet stays unset;
    ModelError if the folder of a pinned one is missing.
    """
    text = registry.read_text(encoding="utf-8")
    pinned = {}
    for name, entry in yaml.safe_load(text).items():
        scheme, _, place = entry["source"].partition(":")
        if scheme != "miniature":
            continue
        folder = miniature_weights() / place
        if not folder.is_dir() and entry["revision"] == UNSET:
            pinned[name] = UNSET
            continue
        if not folder.is_dir():
            raise ModelError(f"model {name}: no folder {folder}; make it with: syncd miniature train")
        pinned[name] = folder_digest(folder)
        section = re.compile(rf"^({re.escape(name)}:.*\n(?:[ \t#].*\n|\n)*?[ \t]+revision:[ \t]*)(\S+)", re.MULTILINE)
        text, count = section.subn(rf"\g<1>{pinned[name]}", text)
        if count != 1:
            raise ModelError(f"{registry}: model {name} has no line `revision: ...` of its own to rewrite")
    write_atomic(registry, text.encode())
    return pinned


def main(arguments: list[str]) -> int:
    if arguments != ["pin"]:
        print("usage: python -m models.registry pin", file=sys.stderr)
        return 2
    try:
        pinned = pin_miniature()
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, digest in pinned.items():
        print(f"{name:24s} {digest}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
