"""The file of a checkpoint: its name, and its header read without the weights and without torch."""

from pathlib import Path

from safetensors import safe_open

FILE_NAME = "pytorch_lora_weights.safetensors"


def read_metadata(file: Path) -> dict[str, str]:
    """The metadata in the header; FileNotFoundError names the file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such checkpoint; train one first: syncd run --until train")
    with safe_open(file, framework="np") as opened:
        return opened.metadata() or {}
