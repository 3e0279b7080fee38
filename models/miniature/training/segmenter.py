"""The segmenter: which pixels are the object, in images that have no render."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

from models.miniature.dataset import SIZE, Views
from models.miniature.training.attributes import jittered
from models.miniature.training.common import Cost, Draws, fit, save_half, to_tensor

BATCH = 32
LABELS = {0: "background", 1: "object"}


def build() -> SegformerForSemanticSegmentation:
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            num_encoder_blocks=3,
            depths=[1, 1, 1],
            sr_ratios=[4, 2, 1],
            hidden_sizes=[16, 48, 96],
            patch_sizes=[7, 3, 3],
            strides=[2, 2, 2],
            num_attention_heads=[1, 2, 3],
            mlp_ratios=[2, 2, 2],
            decoder_hidden_size=32,
            hidden_dropout_prob=0.0,
            classifier_dropout_prob=0.0,
            drop_path_rate=0.0,
            id2label=LABELS,
            label2id={name: number for number, name in LABELS.items()},
        )
    )


def processor() -> SegformerImageProcessorPil:
    return SegformerImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_reduce_labels=False
    )


def train(views: Views, steps: int, seed: int, work_dir: Path) -> tuple[SegformerForSemanticSegmentation, Cost]:
    """Pixel-wise cross entropy; props are background. Images and masks are shifted together."""
    torch.manual_seed(seed)
    net = build()
    batch = min(BATCH, len(views))

    def loss_of(draws: Draws) -> Tensor:
        rows = draws.rows(len(views), batch)
        # Jittered as a fourth channel, so that the mask moves with its image; gain and noise leave it above 0.
        stacked = torch.cat([to_tensor(views.images[rows]), to_tensor(views.masks[rows] * np.uint8(255))[:, :1]], dim=1)
        moved = jittered(stacked, draws.noise)
        logits = interpolate(net(pixel_values=moved[:, :3]).logits.float(), size=SIZE, mode="bilinear")
        return cross_entropy(logits, (moved[:, 3] > 0).long())

    cost = fit("segmenter", net, steps, 4e-3, batch, loss_of, work_dir, seed)
    return net, cost


def save(net: SegformerForSemanticSegmentation, folder: Path) -> None:
    save_half(net, folder)
    processor().save_pretrained(folder)


@torch.inference_mode()
def segment(net: SegformerForSemanticSegmentation, images: np.ndarray, batch: int = 64) -> np.ndarray:
    """bool (N, 64, 64) of uint8 (N, 64, 64, 3)."""
    parts = []
    for start in range(0, len(images), batch):
        logits = net(pixel_values=to_tensor(images[start : start + batch])).logits.float()
        parts.append(interpolate(logits, size=SIZE, mode="bilinear").argmax(dim=1) == 1)
    return torch.cat(parts).numpy()


def evaluate(net: SegformerForSemanticSegmentation, views: Views) -> dict[str, float]:
    """Mean intersection over union of the object's mask."""
    found = segment(net, views.images)
    both = (found & views.masks).sum(axis=(1, 2))
    either = (found | views.masks).sum(axis=(1, 2))
    return {"iou": round(float((both / np.maximum(either, 1)).mean()), 4)}
