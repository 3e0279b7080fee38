"""Cost of reference images: keys and values kept over all steps, computed again at every step, and the joint form.

    python -m benchmarks.references [--tokens 1024] [--device cuda --dtype bfloat16]

One image, one guidance branch, a FLUX transformer with random weights, references of the image's size. Every figure is
the time of all steps relative to the same steps without references; "kept" includes reading the references once.
Yardstick: FLUX.2 [klein] 9B-KV reports 1.40 / 1.77 / 1.99 / 2.22 for 1 to 4 references at 1024 px.
Medians of interleaved repeats in one process (processor time on a CPU, so that other work counts less); compare
ratios, not milliseconds between machines.
"""

import argparse
import time

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from benchmarks.common import DTYPES, interleaved, markdown, parsed, parser_of_transformer
from models.flux.layout import image_ids, text_ids
from models.flux.reference import Reference, install, reference_keys


def compare(options: argparse.Namespace, transformer: FluxTransformer2DModel, count: int) -> list[str]:
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    side = int(options.tokens**0.5)
    generator = torch.Generator().manual_seed(options.seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    text, pooled = randn(1, options.text, 64), randn(1, 64)
    image = randn(1, side * side, 64)
    references = [Reference(randn(side * side, 64), side, side) for _ in range(count)]
    joined = torch.cat([image, *(reference.tokens[None] for reference in references)], dim=1)

    def call(tokens: Tensor, heights: int, **kwargs: object) -> Tensor:
        return transformer(
            hidden_states=tokens,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=torch.full((1,), 0.7, device=device),
            img_ids=image_ids(heights * side, side, device=device),
            txt_ids=text_ids(options.text, device=device),
            joint_attention_kwargs={"text_tokens": options.text, **kwargs},
            return_dict=False,
        )[0]

    kept = reference_keys(transformer, [references], side, pooled)
    seconds = interleaved(
        {
            "without": lambda: call(image, 1),
            "read": lambda: reference_keys(transformer, [references], side, pooled),
            "attend": lambda: call(image, 1, references=kept),
            "joint": lambda: call(joined, 1 + count),
        },
        options.repeats,
        device,
        clock=time.perf_counter if device.type == "cuda" else time.process_time,
    )
    steps = options.steps
    plain = steps * seconds["without"]
    return [
        str(count),
        f"{seconds['without'] * 1e3:.1f}",
        f"{(seconds['read'] + steps * seconds['attend']) / plain:.2f}",
        f"{steps * (seconds['read'] + seconds['attend']) / plain:.2f}",
        f"{steps * seconds['joint'] / plain:.2f}",
    ]


@torch.inference_mode()
def main() -> None:
    parser = parser_of_transformer(__doc__, tokens=256)
    parser.add_argument("--references", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=30)
    options, transformer, words = parsed(parser)
    install(transformer)
    head = ["references", "ms per step without", "kept", "read every step", "joint"]
    rows = [compare(options, transformer, count) for count in options.references]
    print(f"{words}, {options.steps} steps\n\n{markdown(head, rows)}")


if __name__ == "__main__":
    main()
