"""Whether what a sampling keeps of its references fits into memory, asked before it starts."""

from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")
"""Limits of the container that this process is in (Linux, version 2)."""


class MemoryLimitError(ValueError):
    """More references than fit; the message says how many would."""


def free_bytes(device: torch.device) -> int:
    """Memory that `device` has left for tensors: what is free, and on a GPU what torch holds without using it."""
    if device.type != "cuda":
        return min([psutil.virtual_memory().available, *_left_in_container()])
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _left_in_container() -> list[int]:
    """What the container's limit leaves, pages of files not counted, which go when memory is wanted; empty if it has
    no limit."""
    limit = CGROUP / "memory.max"
    if not limit.exists() or (most := limit.read_text().strip()) == "max":
        return []
    counts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    used = int((CGROUP / "memory.current").read_text()) - int(counts["inactive_file"])
    return [max(0, int(most) - used)]


def check_references(count: int, each: float, rest: float, device: torch.device) -> None:
    """MemoryLimitError unless `count` references of `each` bytes fit beside `rest` bytes that a step takes anyway."""
    free = free_bytes(device)
    if rest + count * each <= free:
        return
    fit = max(0, int((free - rest) // each))
    advice = f"give {fit} or fewer" if fit else "not one fits"
    raise MemoryLimitError(
        f"{count} references need about {(rest + count * each) / 1e9:.2f} GB of memory beside the model, and {device} "
        f"has {free / 1e9:.2f} GB free: {fit} fit; {advice}, make fewer or smaller images at a time, or use bfloat16"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch found no memory, on a GPU or in its CPU allocator, which has no error class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
