"""One set of K = 3 images at the full size: K independent images, shared attention by a dense mask, and ours.

    python -m benchmarks.gpu.generation [--resolutions 512 1024] [--share 0.3]

The transformer of FLUX.1 [dev] (12 B parameters, random weights, bfloat16) from configs/architectures.yaml. The first
step shares every token, the others the object's; a set is the first step and as many others as the recipe has. These
are steps of the transformer on K images: without text encoders and VAE, and without the negative pass of true CFG,
which doubles all of them. Without a GPU the same runs at a reduced size, and the table says so: its ratios are those of
small matrices.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from benchmarks.common import interleaved, markdown
from benchmarks.msa import ragged_masks
from models.flux.dense import DenseAttnProcessor
from models.flux.layout import image_ids, text_ids
from models.flux.processor import SharedAttnProcessor
from models.flux.sharing import share_keys
from models.sizes import architectures

REDUCED = {"num_layers": 2, "num_single_layers": 4, "num_attention_heads": 6}
STEPS = {512: 30, 1024: 50}
Call = Callable[[], Tensor]


def transformer_of(device: torch.device, reduced: bool) -> FluxTransformer2DModel:
    config = architectures()["flux-dev"]["transformer"]["config"]
    torch.set_default_dtype(torch.bfloat16)
    with device:
        made = FluxTransformer2DModel(**(config | (REDUCED if reduced else {})))
    torch.set_default_dtype(torch.float32)
    return made.eval()


def calls_of(
    transformer: FluxTransformer2DModel, resolution: int, images: int, share: float, text: int
) -> dict[str, Callable[[], Call]]:
    """One step of a set in every form, by name; plans and masks are made when a step is asked for."""
    device, side = transformer.device, resolution // 16
    generator = torch.Generator().manual_seed(0)
    config = transformer.config

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, torch.bfloat16)

    batch = {
        "hidden_states": randn(images, side * side, config.in_channels),
        "encoder_hidden_states": randn(images, text, config.joint_attention_dim),
        "pooled_projections": randn(images, config.pooled_projection_dim),
        "timestep": torch.full((images,), 0.7, device=device),
        "guidance": torch.full((images,), 3.5, device=device),
        "img_ids": image_ids(side, side, device=device),
        "txt_ids": text_ids(text, device=device),
    }
    masks = {"object": ragged_masks(images, side, share, generator), "all": torch.ones(images, side * side).bool()}

    def call(processor: object, **kwargs: object) -> Tensor:
        transformer.set_attn_processor(processor)
        return transformer(**batch, joint_attention_kwargs=kwargs, return_dict=False)[0]

    def plan(visible: Tensor) -> tuple:
        return visible.to(device), images, side, side, text, "release", transformer.pos_embed

    def ours(visible: Tensor) -> Call:
        shared = share_keys(*plan(visible))
        return lambda: call(SharedAttnProcessor(), shared=shared)

    def dense(visible: Tensor) -> Call:
        processor = DenseAttnProcessor(*plan(visible), dtype=torch.bfloat16)
        return lambda: call(processor)

    found: dict[str, Callable[[], Call]] = {"independent": lambda: lambda: call(SharedAttnProcessor())}
    for name, visible in masks.items():
        found[f"ours, {name}"] = partial(ours, visible)
        found[f"dense, {name}"] = partial(dense, visible)
    return found


def peak_gib(prepare: Callable[[], Call], device: torch.device) -> str:
    """Of one step in one form, when no other form's plans are in memory."""
    if device.type != "cuda":
        return "-"
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    prepare()()
    torch.cuda.synchronize(device)
    return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f}"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--images", type=int, default=3, help="K")
    parser.add_argument("--share", type=float, default=0.3, help="object share of the tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    reduced = device.type != "cuda"
    transformer = transformer_of(device, reduced)
    text = 64 if reduced else 512
    where = torch.get_num_threads() if reduced else torch.cuda.get_device_name(device)
    count = sum(weight.numel() for weight in transformer.parameters())
    print(
        f"{'REDUCED SIZE, ' if reduced else ''}{count / 1e9:.2f} B parameters, bfloat16, K = {options.images}, "
        f"{options.share:.0%} object tokens, {text} text tokens, {where}{' CPU threads' if reduced else ''}, median of "
        f"{options.repeats}\n"
    )
    rows = []
    for resolution in options.resolutions:
        shown = resolution // 2 if reduced else resolution
        forms = calls_of(transformer, shown, options.images, options.share, text)
        calls = {name: prepare() for name, prepare in forms.items()}
        seconds = interleaved(calls, options.repeats, device, time.process_time if reduced else time.perf_counter)
        calls.clear()
        transformer.set_attn_processor(SharedAttnProcessor())
        steps = STEPS.get(resolution, 30)
        for name in ("independent", "dense", "ours"):
            step = seconds.get(f"{name}, object", seconds["independent"])
            first = seconds.get(f"{name}, all", seconds["independent"])
            whole = first + (steps - 1) * step
            base = steps * seconds["independent"]
            peak = peak_gib(forms.get(f"{name}, all", forms["independent"]), device)
            transformer.set_attn_processor(SharedAttnProcessor())
            rows.append([f"{shown}", name, f"{step:.3f}", f"{first:.3f}", f"{whole:.1f}", f"{whole / base:.2f}", peak])
    head = ["px", "form", "s / step", "s, first step", "s / set", "of independent", "peak GiB"]
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
