"""What the benchmarks share: interleaved timing, running the pipeline from outside, Markdown tables."""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from diffusers.utils import logging

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def interleaved(
    calls: dict[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each call, one of each per round after a warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def parser_of_transformer(description: str, tokens: int) -> argparse.ArgumentParser:
    """Options of benchmarks that call a FLUX transformer with random weights; parse them with `parsed`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=tokens, help="image tokens per image, a square number")
    parser.add_argument("--text", type=int, default=64, help="text tokens per image")
    parser.add_argument("--heads", type=int, default=6, help="heads of 64 channels; 6 is width 384")
    parser.add_argument("--double", type=int, default=2, help="double-stream blocks")
    parser.add_argument("--single", type=int, default=4, help="single-stream blocks")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on a CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def parsed(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, FluxTransformer2DModel, str]:
    """The options, the transformer they describe, and both in words."""
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
        axes_dims_rope=(16, 24, 24),
    ).to(options.device, DTYPES[options.dtype])
    on_cpu = options.device == "cpu"
    where = f"{options.threads} CPU thread(s)" if on_cpu else torch.cuda.get_device_name(options.device)
    words = (
        f"width {64 * options.heads}, {options.double}+{options.single} blocks, {options.tokens} image and "
        f"{options.text} text tokens per image, {options.dtype}, {where}, median of {options.repeats}"
    )
    return options, transformer.eval(), words


def pipeline_command(workspace: Path, recipe: str, until: str, workers: int, settings: Sequence[str]) -> list[str]:
    """`syncd run` of a recipe in a workspace of its own; `settings` are KEY=VALUE."""
    overrides = [word for setting in settings for word in ("--set", setting)]
    where = ["--workspace", str(workspace), "--workers", str(workers), "--until", until]
    return [sys.executable, "-m", "flows.cli", "run", "--recipe", recipe, *where, *overrides]


def run_pipeline(workspace: Path, recipe: str, until: str, workers: int, settings: Sequence[str]) -> None:
    subprocess.run(pipeline_command(workspace, recipe, until, workers, settings), check=True, stdout=subprocess.DEVNULL)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
