"""A base model tuned on the references of one object, for as long as a context lasts.

Both methods minimise the base model's own text-to-image loss: of the references with the identifier in their caption,
and of class images without it (prior preservation, Ruiz et al. 2023, Eq. 2), the second with a weight.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from configs.evaluation import CustomDiffusion, DreamBooth
from configs.training import NoisedReferences
from data.ids import digest_of, seed_for
from models.customizer import Customizer, Features, TrainingBatch
from models.tuning.custom_diffusion import open_text_attention
from models.tuning.dreambooth import fresh_lora
from models.tuning.prior import class_images
from models.tuning.prompts import class_prompt, instance_prompt
from models.tuning.run import Concept, Run

Settings = DreamBooth | CustomDiffusion
Parameters = Mapping[str, nn.Parameter]
VERSION = 1
"""Of this code: raise it when equal settings tune to other weights."""


class TuningError(Exception):
    """Tuning that cannot go on; the message names the object, the step and what to try."""


@contextmanager
def tuned(run: Run, concept: Concept, settings: Settings) -> Iterator[None]:
    """Inside, the customizer without references is the base model tuned on `concept`; afterwards it is as before.

    An adapter that it has is off, in tuning as in sampling. Weights are tuned once and then read from the cache,
    float32 there and of the model's own dtype in use. All that is random follows from the run's seed and the object.
    ValueError if a tokenizer does not know the identifier or the method does not suit the model, TuningError if the
    loss is not finite.
    """
    check(run.customizer, settings)
    with without_image(run.customizer):
        file = cache_file(run, concept, settings)
        if not file.exists():
            run.keep(file, _tune(run, concept, settings))
        weights = load_file(file)
        with opened(run, concept, settings) as parameters:
            for name, parameter in parameters.items():
                parameter.requires_grad_(False)
                parameter.data = weights[name].to(run.customizer.device, run.customizer.dtype)
            yield


def _tune(run: Run, concept: Concept, settings: Settings) -> dict[str, Tensor]:
    """The tuned weights by name, float32 on the CPU."""
    # Made by the base model, which the network is before anything is opened in it.
    prior = class_images(run, class_prompt(settings.prompt, concept.noun), settings.prior_images)
    with opened(run, concept, settings) as parameters:
        train(run, concept, settings, prior, parameters)
        return {name: own.detach().cpu().clone().contiguous() for name, own in parameters.items()}


@contextmanager
def without_image(customizer: Customizer) -> Iterator[None]:
    """Inside, a U-Net has no IP-Adapter: without references it is the text-to-image model alone."""
    form = customizer.references
    if isinstance(form, NoisedReferences):
        customizer.references = form.model_copy(update={"image": False})
    try:
        yield
    finally:
        customizer.references = form


def check(customizer: Customizer, settings: Settings) -> None:
    """ValueError unless the method suits the model and every tokenizer knows the identifier."""
    word, single = settings.token, isinstance(settings, CustomDiffusion)
    if single and not customizer.text_attention():
        raise ValueError(
            "custom_diffusion trains the keys and values of text cross-attention, and this model has none; allowed: "
            "a U-Net"
        )
    for tokenizer in customizer.tokenizers:
        ids = tokenizer(word, add_special_tokens=False).input_ids
        key = f"evaluate.{'custom_diffusion' if single else 'dreambooth'}.token"
        if not ids or tokenizer.unk_token_id in ids:
            raise ValueError(
                f"{key} is {word!r}, which a tokenizer of the model does not know; set it to a rare word that it knows"
            )
        if single and len(ids) > 1:
            raise ValueError(f"{key} is {word!r}, {len(ids)} tokens of the model's; set it to a rare word that is one")


def cache_file(run: Run, concept: Concept, settings: Settings) -> Path:
    """Where the tuned weights are kept, by everything that they follow from."""
    origin = run.origin | {
        "version": VERSION,
        "method": type(settings).__name__,
        "settings": settings.model_dump(),
        "object": concept.id,
        "noun": concept.noun,
        "references": concept.digest,
    }
    return run.cache / f"{concept.id}-{digest_of(origin)[:32]}.safetensors"


def opened(run: Run, concept: Concept, settings: Settings) -> AbstractContextManager[dict[str, nn.Parameter]]:
    """What a method trains, fresh, float32, by name; the model is as before when the context ends."""
    if isinstance(settings, DreamBooth):
        return fresh_lora(run.customizer, settings, seed_for(run.seed, "tuning/lora", concept.id))
    return open_text_attention(run.customizer, settings)


def train(
    run: Run, concept: Concept, settings: Settings, prior: Sequence[np.ndarray], parameters: Parameters
) -> list[float]:
    """Tune `parameters` with AdamW at a constant rate; returns the loss of every step.

    A step sees `batch` references drawn with replacement and, if there are `prior` images, as many of those.
    """
    customizer = run.customizer
    images = [*_features(customizer, concept.references, settings.batch), *_features(customizer, prior, settings.batch)]
    own = len(concept.references)
    captions = [
        instance_prompt(settings.prompt, settings.token, concept.noun),
        class_prompt(settings.prompt, concept.noun),
    ]
    texts = None if isinstance(settings, CustomDiffusion) else customizer.text_features(captions)
    trained = list(parameters.values())
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    history = []
    for step in range(settings.steps):
        seed = seed_for(run.seed, f"tuning/{type(settings).__name__}/{step}", concept.id)
        rng = random.Random(seed)
        drawn = rng.choices(range(own), k=settings.batch)
        drawn += rng.choices(range(own, len(images)), k=settings.batch) if prior else []
        # Embeddings of a token that is trained are other ones at every step.
        instance, of_class = texts or customizer.text_features(captions)
        said = [instance if place < own else of_class for place in drawn]
        losses = losses_of(customizer, [images[place] for place in drawn], said, seed)
        loss = objective(losses, settings)
        if not torch.isfinite(loss):
            raise TuningError(
                f"{concept.id}: loss is {loss.item()} at step {step} of {type(settings).__name__}; lower its "
                "learning_rate or max_grad_norm"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        history.append(loss.item())
    return history


def objective(losses: Tensor, settings: Settings) -> Tensor:
    """Mean loss of the references, the first `batch` of `losses` (B,), and the weighted mean of the others."""
    references, prior = losses[: settings.batch], losses[settings.batch :]
    return references.mean() + settings.prior_weight * prior.mean() if len(prior) else references.mean()


def losses_of(customizer: Customizer, images: Sequence[Features], texts: Sequence[Features], seed: int) -> Tensor:
    """The model's text-to-image loss (B,): no sample has references."""
    batch = TrainingBatch(images, texts, [()] * len(images))
    seeds = [seed_for(seed, "tune", str(row)) for row in range(len(images))]
    return customizer.losses(batch, [torch.Generator().manual_seed(own) for own in seeds])


def _features(customizer: Customizer, images: Sequence[np.ndarray], batch: int) -> list[Features]:
    """Of images as targets, which are seen whole."""
    found: list[Features] = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        found += customizer.target_features(part)
    return found
