"""Aesthetic score: a small head over the L2-normed CLIP image embedding, as in the LAION aesthetic predictors.

Folder format: `model.safetensors` with `layers.N.weight` and `layers.N.bias`, and `config.json`:

    {"in_dim": 768, "hidden": [], "activation": "none"}

`hidden` lists the widths between the embedding and the one output. An empty list is LAION's linear predictor
(768 -> 1); [1024, 128, 64, 16] with activation "none" is its improved predictor without the dropout of training.
A folder with nothing but the `.pth` file that LAION publishes is read as it is.
"""

import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

ACTIVATIONS = {"none": nn.Identity(), "relu": nn.ReLU(), "gelu": nn.GELU()}


class QualityHead(nn.Module):
    """Linear layers in_dim -> hidden... -> 1 with `activation` between them."""

    def __init__(self, in_dim: int, hidden: tuple[int, ...] = (), activation: str = "none") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"quality head: activation is {activation!r}; allowed: {', '.join(ACTIVATIONS)}")
        self.in_dim, self.hidden, self.activation = in_dim, tuple(hidden), activation
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((in_dim, *hidden, 1)))

    def forward(self, embeddings_nd: torch.Tensor) -> torch.Tensor:
        """Scores (N,) of L2-normed CLIP image embeddings (N, D)."""
        values = embeddings_nd
        for layer in self.layers[:-1]:
            values = ACTIVATIONS[self.activation](layer(values))
        return self.layers[-1](values).squeeze(-1)


def save_quality_head(head: QualityHead, folder: Path) -> None:
    """Write the folder format above, weights in the dtype they have."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"in_dim": head.in_dim, "hidden": list(head.hidden), "activation": head.activation}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    weights = {name: value.contiguous() for name, value in head.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _published_head(path: Path) -> QualityHead:
    """A head from LAION's file: linear layers `layers.N`, with gaps in N where training had its dropout.

    LAION publishes it as a pickle alone: `weights_only` reads tensors from one and calls nothing that it names.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: holds more than weights, and was not read; take LAION's own file") from error
    places = sorted({int(name.split(".")[1]) for name in state if name.startswith("layers.")})
    wanted = {f"layers.{place}.{part}" for place in places for part in ("weight", "bias")}
    if not places or set(state) != wanted:
        raise ValueError(f"{path}: holds {sorted(state)[:4]}, no linear layers called layers.N; take LAION's own file")
    widths = [len(state[f"layers.{place}.bias"]) for place in places]
    head = QualityHead(state[f"layers.{places[0]}.weight"].shape[1], tuple(widths[:-1]))
    head.load_state_dict(
        {
            f"layers.{number}.{part}": state[f"layers.{place}.{part}"]
            for number, place in enumerate(places)
            for part in ("weight", "bias")
        }
    )
    return head


class QualityScorer:
    """Scores of CLIP image embeddings, about 1 to 10."""

    def __init__(self, head: QualityHead, device: str, dtype: torch.dtype) -> None:
        self.head = head.to(device, dtype).eval().requires_grad_(False)
        self.device, self.dtype = device, dtype

    @classmethod
    def from_pretrained(cls, folder: Path, device: str, dtype: torch.dtype) -> Self:
        """ValueError if config and weights do not belong together; OSError if a file is missing."""
        published = sorted(folder.glob("*.pth"))
        if published and not (folder / "config.json").exists():
            return cls(_published_head(published[0]), device, dtype)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        try:
            head = QualityHead(**config)
            head.load_state_dict(load_file(folder / "model.safetensors"))
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"{folder}: config.json and model.safetensors do not match: {error}") from error
        return cls(head, device, dtype)

    @torch.inference_mode()
    def scores(self, embeddings_nd: np.ndarray) -> np.ndarray:
        """float32 (N,) from L2-normed float32 (N, D); ValueError if D is not the head's."""
        if embeddings_nd.ndim != 2 or embeddings_nd.shape[1] != self.head.in_dim:
            raise ValueError(
                f"quality head: embeddings of shape {embeddings_nd.shape}, expected (N, {self.head.in_dim}); "
                "the recipe must name the CLIP model that the head was trained on"
            )
        values = torch.from_numpy(embeddings_nd).to(self.device, self.dtype)
        return self.head(values).float().cpu().numpy()
