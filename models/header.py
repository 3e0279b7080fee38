"""The file of a checkpoint: its name, and its header read without the weights and without torch."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

FILE_NAME = "pytorch_lora_weights.safetensors"


def read_metadata(file: Path) -> dict[str, str]:
    """The metadata in the header; FileNotFoundError names the file.

    ValueError for a file of another kind or ending: diffusers would take it for a pickle, and reading one can run code.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such checkpoint; train one first: syncd run --until train")
    try:
        if file.suffix != ".safetensors":
            raise SafetensorError(f"its ending is {file.suffix!r}")
        with safe_open(file, framework="np") as opened:
            return opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{file}: not a .safetensors file ({error}); only those are read: a pickle (.pt, .bin, .ckpt) can run code "
            "when it is loaded; ask for the weights as safetensors"
        ) from error
