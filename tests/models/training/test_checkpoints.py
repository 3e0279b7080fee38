from pathlib import Path

import pytest
import torch

from data.store import Store
from models.training.checkpoints import (
    CheckpointError,
    bring_checkpoint,
    checkpoints,
    load_checkpoint,
    newest_step,
    save_checkpoint,
)


def test_the_newest_is_loaded_and_only_the_last_two_are_kept(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, "cpu") is None
    for step in (90, 100, 1000):
        save_checkpoint(
            tmp_path, step, {"adapter": {"w": torch.full((2,), float(step))}, "rows": [{"loss": 0.5}]}, keep=2
        )
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000100.pt", "step-00001000.pt"]
    state = load_checkpoint(tmp_path, "cpu")
    assert state["step"] == 1000
    assert torch.equal(state["adapter"]["w"], torch.tensor([1000.0, 1000.0]))
    assert state["rows"] == [{"loss": 0.5}]


def test_temporary_files_of_a_killed_run_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / ".step-00000100.pt.1.tmp").write_bytes(b"half")
    assert load_checkpoint(tmp_path, "cpu") is None


def test_a_damaged_checkpoint_is_named_with_the_fix(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 5, {"adapter": {"w": torch.ones(1000)}}, keep=1)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(CheckpointError, match=r"step-00000005\.pt: cannot be read .*; delete it to resume"):
        load_checkpoint(tmp_path, "cpu")


@pytest.mark.parametrize("at", [0, 0.25, 0.5, 0.75, 1])
def test_a_flipped_bit_is_found_which_torch_itself_would_load(tmp_path: Path, at: float) -> None:
    path = save_checkpoint(tmp_path, 5, {"adapter": {"w": torch.ones(1000)}}, keep=1)
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"step-00000005\.pt: cannot be read \(the file was changed"):
        load_checkpoint(tmp_path, "cpu")


def test_the_newest_are_in_the_store_too_and_another_machine_goes_on_from_there(tmp_path: Path) -> None:
    store, here, there = Store((tmp_path / "store").as_uri()), tmp_path / "here", tmp_path / "there"
    bring_checkpoint(there, store)
    assert not there.exists()
    for step in (5, 10, 15):
        save_checkpoint(here, step, {"adapter": {"w": torch.full((2,), float(step))}}, 2, store)
    assert list(store.list()) == ["step-00000010.pt", "step-00000015.pt"]
    bring_checkpoint(there, store)
    assert load_checkpoint(there, "cpu")["adapter"]["w"].tolist() == [15.0, 15.0]
    save_checkpoint(there, 20, {"adapter": {"w": torch.zeros(2)}}, 2)
    bring_checkpoint(there, store)
    assert newest_step(there) == 20, "what is here and newer stays"


def test_a_damaged_checkpoint_of_the_store_is_named_and_not_brought(tmp_path: Path) -> None:
    store = Store((tmp_path / "store").as_uri())
    stored = tmp_path / "store" / save_checkpoint(tmp_path / "here", 5, {"w": torch.ones(9)}, 1, store).name
    data = bytearray(stored.read_bytes())
    data[40] ^= 1
    stored.unlink()
    stored.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"store/step-00000005\.pt: cannot be read .*changed.*; delete it"):
        bring_checkpoint(tmp_path / "there", store)
    assert not (tmp_path / "there").exists()
