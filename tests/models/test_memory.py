"""What fits is let through, what does not is refused with the number that would."""

from pathlib import Path

import psutil
import pytest
import torch

from models.memory import MemoryLimitError, check_references, free_bytes

CPU = torch.device("cpu")


def test_the_last_reference_that_fits_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.memory.free_bytes", lambda _: 35_000_000)
    check_references(3, each=10e6, rest=5e6, device=CPU)
    with pytest.raises(MemoryLimitError) as refused:
        check_references(4, each=10e6, rest=5e6, device=CPU)
    assert str(refused.value) == (
        "4 references need about 0.04 GB of memory beside the model, and cpu has 0.04 GB free: 3 fit; give 3 or fewer, "
        "make fewer or smaller images at a time, or use bfloat16"
    )


def test_free_memory_is_the_machines_the_containers_or_what_torch_can_still_use_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = psutil.virtual_memory().total
    monkeypatch.setattr("models.memory.CGROUP", tmp_path)
    assert 0 < free_bytes(CPU) <= total
    (tmp_path / "memory.max").write_text("max\n")
    assert 0 < free_bytes(CPU) <= total
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 2500\ninactive_file 1500\n")
    assert free_bytes(CPU) == 2500
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 8000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 200)
    assert free_bytes(torch.device("cuda:0")) == 1300
