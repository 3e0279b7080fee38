"""CLIP: whole images against captions of every level of detail."""

from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from models.miniature.dataset import SIZE, Views
from models.miniature.scenes import OTHER_OBJECTS, SCENES, full_caption
from models.miniature.tokenizers import LENGTH, SPECIAL, build_tokenizer, vocabulary_size
from models.miniature.training.captions import draw_caption
from models.miniature.training.common import Budget, Cost, epochs, fit, save_half, to_tensor
from models.miniature.world import CATEGORIES, COLOURS, PATTERNS, caption, with_article

BATCH = 128
WIDTH = 128
TEXT_WIDTH = 128
PROJECTION = 128
HINT_WEIGHT = 0.5
KINDS = {"category": CATEGORIES, "primary": tuple(COLOURS), "secondary": tuple(COLOURS), "pattern": PATTERNS}


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
        patch_size=8,
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
    """The model with heads that name category, colours, pattern, scene and prop: they speed up its image side."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = build()
        sizes = [*(len(values) for values in KINDS.values()), len(SCENES), len(OTHER_OBJECTS) + 1]
        self.heads = nn.ModuleList(nn.Linear(WIDTH, size) for size in sizes)


def train(views: Views, budget: Budget, seed: int, work_dir: Path) -> tuple[CLIPModel, Cost]:
    """Symmetric contrastive loss; captions that describe several images of a batch alike share the target."""
    torch.manual_seed(seed)
    nets = Trained()
    nets.clip.set_attn_implementation("eager")  # its bfloat16 backward pass is the fastest on a CPU
    tokenizer = build_tokenizer(start=True)
    draws, shifts = Random(seed), torch.Generator().manual_seed(seed)
    batch = min(BATCH, len(views))
    batches = epochs(len(views), batch, np.random.default_rng(seed))
    specs = views.specs()
    labels = attribute_labels(views)

    def loss_of(_: int) -> Tensor:
        rows = next(batches)
        captions = [draw_caption(specs[views.objects[row]], views.scenes[row], views.other(row), draws) for row in rows]
        tokens = tokenizer(captions, padding="longest", return_tensors="pt")
        pixels = jittered(to_tensor(views.images[rows]), shifts)
        vision = nets.clip.vision_model(pixel_values=pixels)
        images = normalize(nets.clip.visual_projection(vision.pooler_output).float(), dim=-1)
        texts = nets.clip.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        texts = normalize(texts.pooler_output.float(), dim=-1)
        scale = nets.clip.logit_scale.clamp(max=4.2).exp()
        logits = scale * images @ texts.T
        same = same_caption(captions)
        loss = (soft_cross_entropy(logits, same) + soft_cross_entropy(logits.T, same)) / 2
        hints = sum(
            cross_entropy(head(vision.pooler_output).float(), labels[rows, column])
            for column, head in enumerate(nets.heads)
        )
        return loss + HINT_WEIGHT * hints / len(nets.heads)

    cost = fit("clip", nets, budget, 1e-3, batch, loss_of, work_dir)
    return nets.clip, cost


def attribute_labels(views: Views) -> Tensor:
    """(V, 6): category, primary, secondary, pattern, scene, prop (0 for none)."""
    by_object = np.array([[KINDS[kind].index(getattr(spec, kind)) for kind in KINDS] for spec in views.specs()])
    columns = [by_object[views.objects], views.scenes[:, None], views.others[:, None] + 1]
    return torch.from_numpy(np.concatenate(columns, axis=1))


def jittered(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted by up to 3 pixels, brightness and contrast a little off, noise: views of one image differ so."""
    count, _, size, _ = pixels.shape
    padded = torch.nn.functional.pad(pixels, (3, 3, 3, 3), mode="replicate")
    offsets = torch.randint(0, 7, (count, 2), generator=generator)
    rows = offsets[:, :1] + torch.arange(size)
    columns = offsets[:, 1:] + torch.arange(size)
    each = torch.arange(count)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    gain = 1 + 0.1 * (torch.rand(count, 1, 1, 1, generator=generator) - 0.5)
    level = 0.1 * (torch.rand(count, 1, 1, 1, generator=generator) - 0.5)
    noise = torch.randn(moved.shape, generator=generator) * 0.08 * torch.rand(count, 1, 1, 1, generator=generator)
    return moved * gain + level + noise


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
