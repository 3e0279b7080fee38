"""Cost of reference images in sampling: keys and values kept over all steps, read again, and the joint form.

    python -m benchmarks.references [--tokens 1024] [--device cuda --dtype bfloat16]

A FLUX transformer with random weights, one image, references of its size. A step is three forward passes, one for each
branch of dual guidance, two of which see the references. Costs are relative to as many passes of the base model, as
many at a time; "kept" includes reading the references once. "One branch" is a sampling without guidance, as FLUX.2
[klein] 9B-KV samples, which reports 1.40 / 1.77 / 1.99 / 2.22 for 1 to 4 references at 1024 px. "Difference" is the
largest between the branches as one batch with kept keys and each of them alone with keys read for it, over the largest
value of the prediction. The second table is of a U-Net, whose references are noised to each step: they are read there
once for both branches, and nothing can be kept.
Medians of interleaved repeats in one process (processor time on a CPU, so that other work counts less); compare
ratios, not milliseconds between machines.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from torch import Tensor

from benchmarks.common import DTYPES, interleaved, markdown, parsed, parser_of_transformer
from models.flux.layout import image_ids, text_ids
from models.flux.reference import Reference, ReferenceKeys, install, reference_keys
from models.unet import reference as unet_reference

BRANCHES = 3
SEEING = 2
"""Of the branches, those that see the references."""


@dataclass(frozen=True)
class Costs:
    """Seconds, or operations, of one step or one reading."""

    base: float
    """As many passes of the base model as a step has."""
    read: float
    attend: float
    """A step with keys and values at hand."""
    joint: float
    """A step with the references in the target's own sequence."""
    base_alone: float
    attend_alone: float
    """The same of one branch that sees the references."""

    def kept(self, steps: int) -> float:
        return (self.read + steps * self.attend) / (steps * self.base)

    @property
    def read_every_step(self) -> float:
        """Once for both branches that see them."""
        return (self.read + self.attend) / self.base

    @property
    def read_every_pass(self) -> float:
        """In each pass that sees them, as a model does that knows nothing of the other branch."""
        return (SEEING * self.read + self.attend) / self.base

    @property
    def joint_form(self) -> float:
        return self.joint / self.base

    def one_branch(self, steps: int) -> float:
        return (self.read + steps * self.attend_alone) / (steps * self.base_alone)


class Sampling:
    """The passes of one step on one image of side x side tokens with `count` references, on random inputs."""

    def __init__(self, transformer: FluxTransformer2DModel, side: int, text: int, count: int, seed: int = 0) -> None:
        install(transformer)
        config, self.transformer, self.side, self.text, self.count = transformer.config, transformer, side, text, count
        generator = torch.Generator().manual_seed(seed)

        def randn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(transformer.device, transformer.dtype)

        channels = config.in_channels
        self.prompts, self.pooled = randn(2, text, config.joint_attention_dim), randn(2, config.pooled_projection_dim)
        self.image = randn(1, side * side, channels)
        self.references = [Reference(randn(side * side, channels), side, side) for _ in range(count)]

    def read(self) -> ReferenceKeys | None:
        guidance = 1.0 if self.transformer.config.guidance_embeds else None
        return reference_keys(self.transformer, [self.references], self.side, self.pooled[:1], guidance)

    def step(self, kept: ReferenceKeys | None, prompts: Sequence[int] = (0, 0, 1)) -> Tensor:
        """One batch; `prompts` names that of every sample, 0 being the empty one."""
        if kept is not None:
            kept = kept.select(torch.zeros(min(SEEING, len(prompts)), dtype=torch.int64, device=self.image.device))
        return self._call(self.image.expand(len(prompts), -1, -1), prompts, 1, references=kept)

    def joint_step(self) -> None:
        self.step(None, (0,))
        joined = torch.cat([self.image, *(own.tokens[None] for own in self.references)], dim=1)
        self._call(joined.expand(SEEING, -1, -1), (0, 1), 1 + self.count)

    def difference(self) -> float:
        """Of the branches as one batch with kept keys from each alone with its own, as a share of the largest value."""
        together = self.step(self.read()).float()
        alone = [self.step(None, (0,)), self.step(self.read(), (0,)), self.step(self.read(), (1,))]
        wanted = torch.cat(alone).float()
        return float((together - wanted).abs().max() / wanted.abs().max())

    def passes(self) -> dict[str, Callable[[], object]]:
        """What `Costs` are of, by the names of its fields."""
        kept = self.read()
        return {
            "base": lambda: self.step(None),
            "read": self.read,
            "attend": lambda: self.step(kept),
            "joint": self.joint_step,
            "base_alone": lambda: self.step(None, (1,)),
            "attend_alone": lambda: self.step(kept, (1,)),
        }

    def costs(self, repeats: int) -> Costs:
        device = self.image.device
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        return Costs(**interleaved(self.passes(), repeats, device, clock))

    def _call(self, tokens: Tensor, prompts: Sequence[int], heights: int, **attention: object) -> Tensor:
        batch, device, rows = len(tokens), tokens.device, list(prompts)
        guidance = torch.full((batch,), 3.5, device=device) if self.transformer.config.guidance_embeds else None
        return self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=self.prompts[rows],
            pooled_projections=self.pooled[rows],
            timestep=torch.full((batch,), 0.7, device=device),
            guidance=guidance,
            img_ids=image_ids(heights * self.side, self.side, device=device),
            txt_ids=text_ids(self.text, device=device),
            joint_attention_kwargs={"text_tokens": self.text, **attention},
            return_dict=False,
        )[0]


def flux_row(options: argparse.Namespace, transformer: FluxTransformer2DModel, count: int) -> list[str]:
    sampling = Sampling(transformer, int(options.tokens**0.5), options.text, count, options.seed)
    costs = sampling.costs(options.repeats)
    ratios = [
        costs.kept(options.steps),
        costs.read_every_step,
        costs.read_every_pass,
        costs.joint_form,
        costs.one_branch(options.steps),
    ]
    shown = [f"{ratio:.2f}" for ratio in ratios]
    return [str(count), f"{costs.base * 1e3:.1f}", *shown, f"{sampling.difference():.1e}"]


def unet_row(unet: UNet2DConditionModel, side: int, count: int, repeats: int) -> list[str]:
    """A step of a U-Net on latents of side x side: references are read in it, whole, once for both branches."""
    exchange = unet_reference.install(unet)
    generator = torch.Generator().manual_seed(0)
    shape = (unet.config.in_channels, side, side)
    noisy = torch.randn(BRANCHES, *shape, generator=generator).to(unet.device, unet.dtype)
    text = torch.randn(BRANCHES, 16, unet.config.cross_attention_dim, generator=generator).to(noisy)
    references = [
        [unet_reference.Reference(torch.randn(shape, generator=generator).to(noisy), None) for _ in range(count)]
    ]
    clean = torch.stack([own.latents for own in references[0]])

    def call(latents: Tensor, seen: unet_reference.ReferenceFeatures | None = None) -> None:
        with exchange.attending(seen, blind=0 if seen is None else BRANCHES - SEEING):
            unet(latents, 500, text[:1].expand(len(latents), -1, -1))

    def read() -> unet_reference.ReferenceFeatures:
        with exchange.recording() as recorded:
            call(clean)
        own = [{name: hidden[row] for name, hidden in recorded.items()} for row in range(count)]
        return unet_reference.gather(references, own)

    seen = read()
    seconds = interleaved(
        {
            "base": lambda: call(noisy),
            "read": read,
            "attend": lambda: call(noisy, seen),
        },
        repeats,
        noisy.device,
        clock=time.perf_counter if noisy.device.type == "cuda" else time.process_time,
    )
    each = [seconds["attend"], seconds["read"] + seconds["attend"], SEEING * seconds["read"] + seconds["attend"]]
    return [str(count), f"{seconds['base'] * 1e3:.1f}", *(f"{cost / seconds['base']:.2f}" for cost in each)]


def small_unet(options: argparse.Namespace) -> UNet2DConditionModel:
    torch.manual_seed(options.seed)
    return (
        UNet2DConditionModel(
            sample_size=int(options.tokens**0.5),
            block_out_channels=(128, 256),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            attention_head_dim=(2, 4),
            cross_attention_dim=64,
        )
        .to(options.device, DTYPES[options.dtype])
        .eval()
    )


@torch.inference_mode()
def main() -> None:
    parser = parser_of_transformer(__doc__, tokens=256)
    parser.add_argument("--references", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=30)
    options, transformer, words = parsed(parser)
    head = ["references", "ms per step, base", "kept", "read every step", "read every pass", "joint"]
    rows = [flux_row(options, transformer, count) for count in options.references]
    print(f"{words}, {options.steps} steps\n\n{markdown([*head, 'kept, one branch', 'difference'], rows)}\n")
    unet, side = small_unet(options), int(options.tokens**0.5)
    count = sum(weight.numel() for weight in unet.parameters())
    rows = [unet_row(unet, side, count, options.repeats) for count in options.references]
    print(f"U-Net of {count / 1e6:.0f} M parameters, latents of {side} x {side}\n")
    print(markdown(["references", "ms per step, base", "attending alone", "read every step", "read every pass"], rows))


if __name__ == "__main__":
    main()
