"""The identity encoder: a DINOv2-class ViT whose class token tells objects apart, whatever the view and the scene."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

from models.miniature.dataset import SIZE, Views
from models.miniature.training.attributes import KINDS, attribute_labels, jittered, patch_depth_loss, plane_positions
from models.miniature.training.common import Cost, Draws, fit, save_half, to_tensor
from models.scorers.crops import square_crop

WIDTH = 128
PATCH = 8
BATCH = 128
"""Crops in a batch: two of each of 64 objects."""
CATEGORIES_IN_BATCH = 4
"""So that most negatives share the category and differ in colours, pattern or shape alone."""
FEW_CATEGORIES_SHARE = 0.5
"""Share of such batches; the others hold any categories."""
TEMPERATURE = 0.1
HINT_WEIGHTS = {"category": 1.0, "primary": 0.5, "secondary": 0.5, "pattern": 0.5}
DEPTH_WEIGHT = 8.0
POSITION_SIZE = 0.2
"""Amplitude of the initial positions, near that of the embedded patches."""


def build() -> Dinov2Model:
    return Dinov2Model(
        Dinov2Config(
            hidden_size=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            mlp_ratio=3,
            image_size=SIZE,
            patch_size=PATCH,
            layerscale_value=1.0,
            drop_path_rate=0.0,
        )
    )


def processor() -> BitImageProcessorPil:
    return BitImageProcessorPil(
        size={"height": SIZE, "width": SIZE},
        resample=Image.Resampling.BICUBIC,
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


class Trained(nn.Module):
    """The encoder with heads that name category, colours and pattern and draw the depth: they speed up its training."""

    def __init__(self) -> None:
        super().__init__()
        self.dino = build()
        self.heads = nn.ModuleList(nn.Linear(WIDTH, len(values)) for values in KINDS.values())
        self.depth = nn.Linear(WIDTH, PATCH**2)


def crops(views: Views, background: bool) -> np.ndarray:
    """(V, 64, 64, 3) uint8: what the identity scores look at, in the encoder's size."""
    return _cropped(views.images, views.masks, background)


def depth_crops(views: Views) -> np.ndarray:
    """(V, 64, 64) uint8: the depth conditions of `crops`."""
    return _cropped(views.depths[..., None].repeat(3, axis=-1), views.masks, True)[..., 0].copy()


def _cropped(images: np.ndarray, masks: np.ndarray, background: bool) -> np.ndarray:
    found = np.empty((len(images), SIZE, SIZE, 3), np.uint8)
    for place, (image, mask) in enumerate(zip(images, masks, strict=True)):
        crop = Image.fromarray(square_crop(image, mask, background))
        found[place] = np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return found


def train(views: Views, steps: int, seed: int, work_dir: Path) -> tuple[Dinov2Model, Cost]:
    """Contrastive over identities: two views of an object in different scenes, with or without background."""
    torch.manual_seed(seed)
    nets = Trained()
    with torch.no_grad():
        nets.dino.embeddings.position_embeddings[0, 1:] = POSITION_SIZE * plane_positions(SIZE // PATCH, WIDTH)
    nets.dino.set_attn_implementation("eager")  # its bfloat16 backward pass is the fastest on a CPU
    stacks, depths = (crops(views, True), crops(views, False)), depth_crops(views)
    labels = attribute_labels(views)
    views_of = _views_by_object(views)
    categories = labels[:, 0].numpy()[[rows[0] for rows in views_of]]

    batch = 2 * min(BATCH // 2, len(views_of))

    def loss_of(draws: Draws) -> Tensor:
        rng = draws.numbers
        few = rng.random() < FEW_CATEGORIES_SHARE
        objects = (
            _draw_objects(categories, batch // 2, rng) if few else rng.choice(len(views_of), batch // 2, replace=False)
        )
        pairs = np.array([rng.choice(views_of[place], 2, replace=False) for place in objects])
        rows = np.concatenate([pairs[:, 0], pairs[:, 1]])
        masked = rng.random(len(rows)) < 0.5
        images = np.where(masked[:, None, None, None], stacks[1][rows], stacks[0][rows])
        moved = jittered(torch.cat([to_tensor(images), to_tensor(depths[rows])[:, :1]], dim=1), draws.noise)
        found = nets.dino(pixel_values=moved[:, :3]).last_hidden_state
        tokens = found[:, 0]
        embedded = normalize(tokens.float(), dim=-1)
        logits = embedded @ embedded.T / TEMPERATURE
        logits.fill_diagonal_(-1e4)
        half = len(rows) // 2
        partner = (torch.arange(len(rows)) + half) % len(rows)
        hints = sum(
            weight * cross_entropy(head(tokens).float(), labels[rows, column])
            for column, (head, weight) in enumerate(zip(nets.heads, HINT_WEIGHTS.values(), strict=True))
        )
        depth = patch_depth_loss(nets.depth(found[:, 1:]), moved[:, 3])
        return cross_entropy(logits, partner) + hints + DEPTH_WEIGHT * depth

    cost = fit("dino", nets, steps, 2e-3, batch, loss_of, work_dir, seed)
    return nets.dino, cost


def _views_by_object(views: Views) -> list[np.ndarray]:
    starts = np.flatnonzero(np.diff(views.objects, prepend=-1))
    return np.split(np.arange(len(views)), starts[1:])


def _draw_objects(categories: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` different objects of a few categories."""
    present = np.unique(categories)
    chosen = rng.permutation(present)[:CATEGORIES_IN_BATCH]
    candidates = np.flatnonzero(np.isin(categories, chosen))
    if len(candidates) < count:
        candidates = np.arange(len(categories))
    return rng.choice(candidates, count, replace=False)


def save(dino: Dinov2Model, folder: Path) -> None:
    save_half(dino, folder)
    processor().save_pretrained(folder)


def load(folder: Path) -> Dinov2Model:
    return Dinov2Model.from_pretrained(folder, dtype=torch.float32).eval()


@torch.inference_mode()
def embed(dino: Dinov2Model, images: np.ndarray, batch: int = 256) -> Tensor:
    """L2-normed class tokens (N, D) float32 of crops, uint8 (N, 64, 64, 3)."""
    parts = []
    for start in range(0, len(images), batch):
        tokens = dino(pixel_values=to_tensor(images[start : start + batch])).last_hidden_state[:, 0]
        parts.append(normalize(tokens.float(), dim=-1))
    return torch.cat(parts)


def evaluate(dino: Dinov2Model, views: Views) -> dict[str, float]:
    """Retrieval among unseen objects: is the nearest other view one of the same object? Chance level beside it.

    `same` and `different` are mean cosines of views of one object and of objects of one category.
    """
    result: dict[str, float] = {}
    same = torch.from_numpy(views.objects[:, None] == views.objects[None])
    category = attribute_labels(views)[:, 0]
    alike = (category[:, None] == category[None]) & ~same
    same.fill_diagonal_(False)
    result["chance_top1"] = round(float(same.float().sum(dim=1).mean()) / (len(views) - 1), 5)
    for name, background in (("crop", True), ("masked_crop", False)):
        embedded = embed(dino, crops(views, background))
        cosine = embedded @ embedded.T
        nearest = cosine.clone().fill_diagonal_(-2).argmax(dim=1)
        result[f"{name}_top1"] = round(float(same[torch.arange(len(views)), nearest].float().mean()), 4)
        result[f"{name}_same"] = round(float(cosine[same].mean()), 4)
        result[f"{name}_same_category"] = round(float(cosine[alike].mean()), 4)
        result[f"{name}_any_other"] = round(float(cosine[~same & ~torch.eye(len(views), dtype=torch.bool)].mean()), 4)
    return result
