"""Floating-point operations of what runs, and what share of a device's peak they make up."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_backward_flop, sdpa_flop

PEAK_TFLOPS = {
    "GH200": (989.0, 67.0),
    "H200": (989.0, 67.0),
    "H100 PCIe": (756.0, 51.0),
    "H100 NVL": (835.0, 60.0),
    "H100": (989.0, 67.0),
    "B200": (2250.0, 75.0),
    "A100": (312.0, 19.5),
    "A10G": (70.0, 31.2),
    "A10": (125.0, 31.2),
    "A6000": (154.8, 38.7),
    "L40S": (362.0, 91.6),
    "L40": (181.0, 90.5),
    "L4": (121.0, 30.3),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71.0, 35.6),
}
"""Part of a GPU's name -> dense peak of (bfloat16 on tensor cores, float32) in TFLOP/s, from NVIDIA's data sheets.

A name that is part of another one stands behind it.
"""

_counting: ContextVar["FlopCounter | None"] = ContextVar("counting", default=None)

aten = torch.ops.aten
register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu, get_raw=True)(sdpa_flop)
register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu_backward, get_raw=True)(sdpa_backward_flop)


class FlopCounter(TorchDispatchMode):
    """Counts inside its `with` block, forward and backward, by torch's formulas: products, convolutions, attention.

    torch's own FlopCounterMode would count what gradient checkpointing computes a second time, which is no work of the
    model, and computes some operators in other pieces. This one only looks on: results stay bit-equal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.paused = False

    def __enter__(self) -> Self:
        self._token = _counting.set(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _counting.reset(self._token)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = None if self.paused else flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def counting() -> FlopCounter | None:
    """The counter that is at work here."""
    return _counting.get()


@contextmanager
def uncounted(counter: FlopCounter | None) -> Iterator[None]:
    """Inside, `counter` takes no note."""
    if counter is None:
        yield
        return
    counter.paused = True
    try:
        yield
    finally:
        counter.paused = False


def peak_tflops(device: torch.device, dtype: str) -> float | None:
    """Dense peak of a GPU in the table; None for another device."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for part, (half, single) in PEAK_TFLOPS.items():
        if part in name:
            return half if dtype == "bfloat16" else single
    return None
