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
from diffusers.utils import logging
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.common import interleaved
from models.flux.layout import image_ids, text_ids
from models.flux.reference import Reference, install, reference_keys

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--tokens", type=int, default=256, help="image tokens per image, a square number")
    parser.add_argument("--text", type=int, default=64, help="text tokens")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--heads", type=int, default=6, help="heads of 64 channels; 6 is width 384")
    parser.add_argument("--double", type=int, default=2, help="double-stream blocks")
    parser.add_argument("--single", type=int, default=4, help="single-stream blocks")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on a CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if int(options.tokens**0.5) ** 2 != options.tokens:
        parser.error(f"--tokens is {options.tokens}; allowed: square numbers such as 256, 576, 1024")
    logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    transformer = FluxTransformer2DModel(
        num_layers=options.double,
        num_single_layers=options.single,
        attention_head_dim=64,
        num_attention_heads=options.heads,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        axes_dims_rope=(8, 28, 28),
    ).to(options.device, DTYPES[options.dtype])
    install(transformer)
    table = Table(title=f"{options.tokens} tokens, {options.steps} steps, {options.dtype} on {options.device}")
    for column in ("references", "ms per step without", "kept", "read every step", "joint"):
        table.add_column(column, justify="right")
    for count in options.references:
        table.add_row(*compare(options, transformer, count))
    Console().print(table)


if __name__ == "__main__":
    main()
