"""CLIP: whole images against captions of every level of detail."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, smooth_l1_loss
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Model,
)

from models.miniature.dataset import SIZE, Views
from models.miniature.scenes import OTHER_OBJECTS, SCENES, full_caption
from models.miniature.tokenizers import LENGTH, SPECIAL, build_tokenizer, vocabulary_size
from models.miniature.training.attributes import KINDS, attribute_labels, jittered, patch_depth_loss
from models.miniature.training.captions import draw_caption
from models.miniature.training.common import Cost, Draws, fit, save_half, to_tensor
from models.miniature.training.degrade import degraded
from models.miniature.world import CATEGORIES, COLOURS, PATTERNS, caption, with_article

BATCH = 128
WIDTH = 128
PATCH = 8
TEXT_WIDTH = 128
PROJECTION = 128
HINT_WEIGHT = 2.0
"""Of the mean over the hints."""
DEPTH_WEIGHT = 4.0
DEGRADED_SHARE = 0.2
SEVERITY_WEIGHT = 4.0
"""Of telling how degraded an image is from its embedding: the quality head sees nothing else."""
CROPPED = 0.4
"""Share of batches that show crops around the object, where it is largest."""
ONE_SCENE = 0.5
"""Share of batches whose views all have the same scene: there the object alone tells them apart."""


def build() -> CLIPModel:
    text = CLIPTextConfig(
        vocab_size=vocabulary_size(),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        hidden_act="gelu",
        projection_dim=PROJECTION,
        pad_token_id=SPECIAL.index("<pad>"),
        bos_token_id=SPECIAL.index("<start>"),
        eos_token_id=SPECIAL.index("<end>"),
    )
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=PROJECTION,
    )
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=PROJECTION))


def processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


class Trained(nn.Module):
    """The model with heads that name what is to be seen and draw the depth: they speed up its image side."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = build()
        sizes = [*(len(values) for values in KINDS.values()), len(SCENES), len(OTHER_OBJECTS) + 1]
        self.heads = nn.ModuleList(nn.Linear(WIDTH, size) for size in sizes)
        self.depth = nn.Linear(WIDTH, PATCH**2)
        self.severity = nn.Sequential(nn.Linear(PROJECTION, 64), nn.GELU(), nn.Linear(64, 1))


def start_from(clip: CLIPModel, dino: Dinov2Model, pixels: Tensor) -> None:
    """Give the vision tower the weights of an identity encoder of the same shape.

    CLIP has no patch bias, which goes into the positions; no layer scale, which goes into the projections; and one
    more norm in front, which is made to keep the size that the embeddings of `pixels` (N, 3, 64, 64) have.
    """
    vision, embeddings = clip.vision_model, dino.embeddings
    with torch.no_grad():
        vision.embeddings.patch_embedding.weight.copy_(embeddings.patch_embeddings.projection.weight)
        vision.embeddings.class_embedding.copy_(embeddings.cls_token.flatten())
        positions = embeddings.position_embeddings[0].clone()
        positions[1:] += embeddings.patch_embeddings.projection.bias
        vision.embeddings.position_embedding.weight.copy_(positions)
        vision.pre_layrnorm.weight.fill_(embeddings(pixels)[:, 1:].std(dim=-1).mean())
        for ours, theirs in zip(vision.encoder.layers, dino.encoder.layer, strict=True):
            for name, norm in (("layer_norm1", theirs.norm1), ("layer_norm2", theirs.norm2)):
                getattr(ours, name).load_state_dict(norm.state_dict())
            for name in ("q_proj", "k_proj", "v_proj"):
                getattr(ours.self_attn, name).load_state_dict(getattr(theirs.attention, name).state_dict())
            ours.mlp.fc1.load_state_dict(theirs.mlp.fc1.state_dict())
            for layer, source, scale in (
                (ours.self_attn.out_proj, theirs.attention.o_proj, theirs.layer_scale1.lambda1),
                (ours.mlp.fc2, theirs.mlp.fc2, theirs.layer_scale2.lambda1),
            ):
                layer.weight.copy_(source.weight * scale[:, None])
                layer.bias.copy_(source.bias * scale)
        vision.post_layernorm.load_state_dict(dino.layernorm.state_dict())


def train(
    views: Views,
    crops: tuple[np.ndarray, np.ndarray],
    dino: Dinov2Model,
    steps: int,
    seed: int,
    work_dir: Path,
) -> tuple[CLIPModel, Cost]:
    """Symmetric contrastive loss from the identity encoder on; equal captions in a batch share the target.

    `crops` show the objects of the views from near: (V, 64, 64, 3) uint8 and their depth conditions (V, 64, 64).
    """
    torch.manual_seed(seed)
    nets = Trained()
    start_from(nets.clip, dino, to_tensor(crops[0][:64]))
    nets.clip.set_attn_implementation("eager")  # its bfloat16 backward pass is the fastest on a CPU
    tokenizer = build_tokenizer(start=True)
    specs = views.specs()
    labels = attribute_labels(views)
    by_scene = [rows for scene in range(len(SCENES)) if len(rows := np.flatnonzero(views.scenes == scene)) > 1]
    batch = min(BATCH, min(len(rows) for rows in by_scene))

    def loss_of(draws: Draws) -> Tensor:
        rng = draws.numbers
        pool = by_scene[rng.integers(len(by_scene))] if rng.random() < ONE_SCENE else len(views)
        rows = rng.choice(pool, batch, replace=False)
        captions = [
            draw_caption(specs[views.objects[row]], views.scenes[row], views.other(row), draws.words) for row in rows
        ]
        tokens = tokenizer(captions, padding="longest", return_tensors="pt")
        shown, depths = crops if rng.random() < CROPPED else (views.images, views.depths)
        pictures, severities, _ = degraded(shown[rows], DEGRADED_SHARE, rng)
        moved = jittered(torch.cat([to_tensor(pictures), to_tensor(depths[rows])[:, :1]], dim=1), draws.noise)
        vision = nets.clip.vision_model(pixel_values=moved[:, :3])
        images = normalize(nets.clip.visual_projection(vision.pooler_output).float(), dim=-1)
        texts = nets.clip.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        texts = normalize(texts.pooler_output.float(), dim=-1)
        scale = nets.clip.logit_scale.clamp(max=4.2).exp()
        logits = scale * images @ texts.T
        same = same_caption(captions)
        loss = (soft_cross_entropy(logits, same) + soft_cross_entropy(logits.T, same)) / 2
        severity = nets.severity(images * PROJECTION**0.5)[:, 0].float()
        loss = loss + SEVERITY_WEIGHT * smooth_l1_loss(severity, torch.from_numpy(severities).float())
        clean = torch.from_numpy(severities == 0)
        hints = sum(
            cross_entropy(head(vision.pooler_output[clean]).float(), labels[rows, column][clean])
            for column, head in enumerate(nets.heads)
        )
        depth = patch_depth_loss(nets.depth(vision.last_hidden_state[clean, 1:]), moved[clean, 3])
        return loss + HINT_WEIGHT * hints / len(nets.heads) + DEPTH_WEIGHT * depth

    cost = fit("clip", nets, steps, 5e-4, batch, loss_of, work_dir, seed)
    return nets.clip, cost


def same_caption(captions: list[str]) -> Tensor:
    """(N, N) bool."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(captions))}
    column = torch.tensor([numbers[text] for text in captions])
    return column[:, None] == column[None]


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy against the uniform distribution over each row's true `targets` (N, N)."""
    shares = targets.float() / targets.sum(dim=1, keepdim=True)
    return -(shares * logits.log_softmax(dim=1)).sum(dim=1).mean()


def save(clip: CLIPModel, folder: Path) -> None:
    save_half(clip, folder)
    build_tokenizer(start=True).save_pretrained(folder)
    processor().save_pretrained(folder)


def load(folder: Path) -> CLIPModel:
    return CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()


@torch.inference_mode()
def embed_images(clip: CLIPModel, images: np.ndarray, batch: int = 256) -> Tensor:
    """L2-normed (N, D) float32 of uint8 (N, 64, 64, 3)."""
    parts = []
    for start in range(0, len(images), batch):
        features = clip.get_image_features(pixel_values=to_tensor(images[start : start + batch])).pooler_output
        parts.append(normalize(features.float(), dim=-1))
    return torch.cat(parts)


@torch.inference_mode()
def embed_texts(clip: CLIPModel, texts: list[str]) -> Tensor:
    tokens = build_tokenizer(start=True)(texts, padding="max_length", max_length=LENGTH, return_tensors="pt")
    features = clip.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
    return normalize(features.pooler_output.float(), dim=-1)


def zero_shot(clip: CLIPModel, images: np.ndarray, views: Views) -> dict[str, float]:
    """Accuracy in naming category, primary colour, pattern and scene of `images`, which show what `views` describe.

    Each question is asked with the rest of the caption as it is: among captions that differ in the attribute alone.
    """
    embedded = embed_images(clip, images)
    specs = [views.specs()[place] for place in views.objects]
    scenes = [SCENES[place] for place in views.scenes]
    asked: dict[str, tuple[list[list[str]], list[int]]] = {
        "category": (
            [[with_article(f"{spec.pattern} {name}") for name in CATEGORIES] for spec in specs],
            [CATEGORIES.index(spec.category) for spec in specs],
        ),
        "colour": (
            [[with_article(f"{name} {spec.category}") for name in COLOURS] for spec in specs],
            [list(COLOURS).index(spec.primary) for spec in specs],
        ),
        "pattern": (
            [[with_article(f"{name} {spec.category}") for name in PATTERNS] for spec in specs],
            [PATTERNS.index(spec.pattern) for spec in specs],
        ),
        "scene": (
            [[full_caption(caption(spec, "open"), name) for name in SCENES] for spec in specs],
            [SCENES.index(scene) for scene in scenes],
        ),
    }
    result = {}
    for kind, (choices, answers) in asked.items():
        texts = sorted({text for row in choices for text in row})
        places = {text: number for number, text in enumerate(texts)}
        similarity = embedded @ embed_texts(clip, texts).T
        columns = torch.tensor([[places[text] for text in row] for row in choices])
        found = similarity.gather(1, columns).argmax(dim=1)
        result[kind] = round(float((found == torch.tensor(answers)).float().mean()), 4)
    return result
