"""What the scorers share: complete weights or an error, and fixed batches."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging


def load_complete(model_class: Any, folder: Path, device: str, dtype: torch.dtype, **options: Any) -> Any:
    """`model_class.from_pretrained` of a local folder, in evaluation mode; `options` go to the model's constructor.

    ValueError if the folder lacks weights, which transformers would otherwise fill with random numbers.
    """
    logging.disable_progress_bar()
    model, info = model_class.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
    )
    wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise ValueError(f"{folder}: {len(wrong)} weights missing or of another shape, for example {wrong[0]}")
    return model.to(device).eval().requires_grad_(False)


def in_batches(run: Callable[[Sequence[Any]], torch.Tensor], items: Sequence[Any], size: int) -> np.ndarray:
    """float32 rows of `run` over consecutive runs of `size` items; ValueError for no items."""
    if not items:
        raise ValueError("nothing to score: the list is empty")
    rows = [run(items[start : start + size]).float().cpu() for start in range(0, len(items), size)]
    return torch.cat(rows).numpy()


def pixels(processor: Any, images: Sequence[np.ndarray]) -> torch.Tensor:
    """float32 (N, 3, h, w) of uint8 (H, W, 3) images, as the model folder's preprocessor_config.json says."""
    return processor(images=list(images), input_data_format="channels_last", return_tensors="pt")["pixel_values"]
