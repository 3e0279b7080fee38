"""Masked shared attention: gathered keys against the dense bias, and against images that share nothing.

    python -m benchmarks.msa [--tokens 1024] [--device cuda --dtype bfloat16]

One call of a FLUX transformer with random weights for one set of K images. "largest difference" is between the outputs
of the gathered and the dense form (outputs are of order 1). Times are medians of interleaved repeats in one process;
compare ratios within a table, not milliseconds between machines.
"""

import argparse

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from benchmarks.common import DTYPES, interleaved, markdown, parsed, parser_of_transformer
from models.flux.dense import DenseAttnProcessor
from models.flux.layout import image_ids, text_ids
from models.flux.processor import SharedAttnProcessor
from models.flux.sharing import share_keys


def ragged_masks(images: int, side: int, share: float, generator: torch.Generator) -> Tensor:
    """(images, side * side) bool: rectangles of about `share` of the tokens, from 0.75 to 1.25 times as many."""
    masks = torch.zeros(images, side, side, dtype=torch.bool)
    for index, mask in enumerate(masks):
        wanted = min(1.0, share * (0.75 + 0.5 * index / max(1, images - 1))) if share < 1 else 1.0
        height = max(1, round(side * wanted**0.5))
        width = min(side, max(1, round(side * side * wanted / height)))
        top = int(torch.randint(side - height + 1, (1,), generator=generator))
        left = int(torch.randint(side - width + 1, (1,), generator=generator))
        mask[top : top + height, left : left + width] = True
    return masks.flatten(1)


def compare(options: argparse.Namespace, transformer: FluxTransformer2DModel, size: int, share: float) -> list[str]:
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    side = int(options.tokens**0.5)
    generator = torch.Generator().manual_seed(options.seed)
    visible = ragged_masks(size, side, share, generator).to(device)
    batch = {
        "hidden_states": torch.randn(size, side * side, 64, generator=generator).to(device, dtype),
        "encoder_hidden_states": torch.randn(size, options.text, 64, generator=generator).to(device, dtype),
        "pooled_projections": torch.randn(size, 64, generator=generator).to(device, dtype),
        "timestep": torch.full((size,), 0.7, device=device),
        "img_ids": image_ids(side, side, device=device),
        "txt_ids": text_ids(options.text, device=device),
    }
    plan = (visible, size, side, side, options.text, options.rope, transformer.pos_embed)
    gathered, dense = SharedAttnProcessor(), DenseAttnProcessor(*plan, dtype=dtype)
    shared = share_keys(*plan)

    def call(processor: object, **kwargs: object) -> Tensor:
        transformer.set_attn_processor(processor)
        return transformer(**batch, joint_attention_kwargs=kwargs, return_dict=False)[0]

    calls = {
        "gathered": lambda: call(gathered, shared=shared),
        "dense": lambda: call(dense),
        "independent": lambda: call(gathered),
    }
    difference = (calls["gathered"]().float() - calls["dense"]().float()).abs().max().item()
    seconds = interleaved(calls, options.repeats, device)
    return [
        str(size),
        f"{visible.float().mean().item():.0%}",
        f"{difference:.1e}",
        *(f"{seconds[name] * 1e3:.1f}" for name in ("gathered", "dense", "independent")),
        f"{seconds['gathered'] / seconds['dense']:.2f}",
        f"{seconds['gathered'] / seconds['independent']:.2f}",
        f"{seconds['dense'] / seconds['independent']:.2f}",
    ]


@torch.inference_mode()
def main() -> None:
    parser = parser_of_transformer(__doc__, tokens=576)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 3, 4], help="images per set, K")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.3, 0.5], help="object share of the tokens")
    parser.add_argument("--rope", choices=["release", "stacked"], default="release")
    options, transformer, words = parsed(parser)
    head = ["K", "object", "largest difference", "gathered ms", "dense ms", "independent ms"]
    head += ["gathered / dense", "gathered / independent", "dense / independent"]
    rows = [compare(options, transformer, size, share) for size in options.sizes for share in options.shares]
    print(f"{words}\n\n{markdown(head, rows)}")


if __name__ == "__main__":
    main()
