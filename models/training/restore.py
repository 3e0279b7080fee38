"""A trained customization model from its published checkpoint, after checking that it is the one that was published."""

from pathlib import Path

from data.shards import ShardError, load_index, read_all
from models.customizer import Customizer, load_customizer
from models.header import FILE_NAME, read_metadata
from models.training.record import CheckpointRecord


def checkpoint_file(path: Path) -> Path:
    """The weights file of a train stage's folder, equal to the one in its shard, or `path` itself if it is a file.

    FileNotFoundError if there is none, ShardError if the folder's shard or file was changed after it was published.
    """
    if path.is_file():
        return path
    file = path / FILE_NAME
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such checkpoint; train one first: syncd run --until train")
    (sample,) = read_all(path, load_index(path))
    if sample.files["safetensors"] != file.read_bytes():
        raise ShardError(f"{file}: not the weights that {path / 'index.json'} vouches for; run the train stage again")
    return file


def restore(path: Path, device: str, dtype: str = "float32") -> tuple[Customizer, CheckpointRecord]:
    """Base model with adapter from a checkpoint folder or file. ModelError if the base is not the pinned one.

    ValueError if the file was not written by this project: its header must name the base model and the dataset.
    """
    file = checkpoint_file(path)
    try:
        record = CheckpointRecord.from_header(read_metadata(file))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{file}: its header does not describe a SynCD checkpoint ({error})") from error
    customizer = load_customizer(record.base_model, device, dtype, record.reference_form)
    customizer.load_adapter(file)
    return customizer, record
