"""The quality head: a score of about 1 to 10 on the CLIP image embedding, trained against graded degradations."""

from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from transformers import CLIPModel

from models.miniature.dataset import Views
from models.miniature.training.clip import embed_images
from models.miniature.training.common import Cost, Draws, fit
from models.miniature.training.degrade import DEGRADATIONS, degraded
from models.scorers.quality import QualityHead, save_quality_head

BATCH = 256
MAX_VIEWS = 8_000
BEST, WORST = 8.0, 2.0
"""Scores of an untouched image and of one degraded with severity 1."""
DEGRADED_SHARE = 0.75


def build(width: int) -> QualityHead:
    return QualityHead(width, (64,), "gelu")


def train(clip: CLIPModel, views: Views, steps: int, seed: int, work_dir: Path) -> tuple[QualityHead, Cost]:
    images, severities, _ = degraded(views.images[:MAX_VIEWS], DEGRADED_SHARE, np.random.default_rng(seed))
    embedded = embed_images(clip, images)
    scores = torch.from_numpy(BEST + (WORST - BEST) * severities).float()
    torch.manual_seed(seed)
    head = build(embedded.shape[1])
    with torch.no_grad():
        head.layers[-1].bias.fill_(float(scores.mean()))
    batch = min(BATCH, len(embedded))

    def loss_of(draws: Draws) -> Tensor:
        rows = torch.from_numpy(draws.rows(len(embedded), batch))
        with torch.autocast("cpu", enabled=False):
            return torch.nn.functional.smooth_l1_loss(head(embedded[rows]), scores[rows])

    return head, fit("quality", head, steps, 1e-2, batch, loss_of, work_dir, seed)


def save(head: QualityHead, folder: Path) -> None:
    save_quality_head(head.half(), folder)
    head.float()


@torch.inference_mode()
def evaluate(head: QualityHead, clip: CLIPModel, views: Views, seed: int) -> dict[str, float]:
    """Spearman correlation of score and negated severity, over all and per degradation; mean score of clean images."""
    images, severities, kinds = degraded(views.images, DEGRADED_SHARE, np.random.default_rng(seed))
    scores = head(embed_images(clip, images)).numpy()
    result = {"rank_correlation": round(float(spearmanr(scores, -severities).statistic), 4)}
    for kind, name in enumerate(DEGRADATIONS):
        chosen = kinds == kind
        if chosen.sum() > 2:
            result[name] = round(float(spearmanr(scores[chosen], -severities[chosen]).statistic), 4)
    result["clean_mean"] = round(float(scores[kinds < 0].mean()), 3)
    result["clean_p10"] = round(float(np.quantile(scores[kinds < 0], 0.1)), 3)
    result["severe_mean"] = round(float(scores[severities > 0.7].mean()), 3)
    return result
