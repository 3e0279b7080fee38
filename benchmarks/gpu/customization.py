"""Sampling with reference images at the full size: keys and values kept over the steps, read again, the joint form.

    python -m benchmarks.gpu.customization [--resolutions 512 1024] [--references 0 1 2 3 4]
    python -m benchmarks.gpu.customization --operations  # anywhere: counted at the full size, not timed
    python -m benchmarks.gpu.customization --reduced     # on a CPU: timed at a reduced size

The transformer of FLUX.1 [dev] (12 B parameters, random weights, bfloat16) from configs/architectures.yaml, one image,
references of its size. A step is the three passes of dual guidance; the base is as many passes of the model without
references, as many at a time, and "kept" includes reading the references once for all steps. Without text encoders and
VAE, which cost both alike. Peak memory is that of the transformer and one step of the form.

Targets, with 3 references: "kept" at most 1.5 times the base, and at least 2 times as fast as reading them again. That
is measured both ways: read once in a step for both branches that see them, and read in every pass that sees them.
"""

import argparse
from collections.abc import Callable

import torch
from diffusers.utils import logging
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import markdown
from benchmarks.gpu.generation import transformer_of
from benchmarks.references import Costs, Sampling
from models.flux.reference import kept_bytes

STEPS = 30
TARGET_REFERENCES, MOST_OF_BASE, LEAST_SPEEDUP = 3, 1.5, 2.0


def peak_gib(work: Callable[[], object], device: torch.device) -> str:
    if device.type != "cuda":
        return "-"
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f}"


def operations(sampling: Sampling) -> Costs:
    """In units of 10^12 floating-point operations, of matrix products and attention; on the meta device."""

    def count(work: Callable[[], object]) -> float:
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops() / 1e12

    return Costs(**{name: count(work) for name, work in sampling.passes().items()})


def row_of(sampling: Sampling, costs: Costs, pixels: int) -> list[str]:
    kept, device = costs.kept(STEPS), sampling.image.device
    speedups = [costs.read_every_step / kept, costs.read_every_pass / kept, costs.joint_form / kept]
    tokens = sampling.count * sampling.side**2
    return [
        str(pixels),
        str(sampling.count),
        f"{costs.base:.3f}",
        f"{costs.attend + costs.read / STEPS:.3f}",
        f"{kept:.2f}",
        f"{costs.one_branch(STEPS):.2f}",
        *(f"{speedup:.2f}" for speedup in speedups),
        f"{kept_bytes(sampling.transformer, tokens) / 2**30:.2f}",
        peak_gib(lambda: sampling.step(sampling.read()), device),
        peak_gib(sampling.joint_step, device),
        "-" if device.type == "meta" else f"{sampling.difference():.0e}",
    ]


def verdicts(costs: Costs, pixels: int) -> list[list[str]]:
    """Of the targets, which name 3 references."""
    kept = costs.kept(STEPS)
    asked = [
        ("of the base", kept, f"<= {MOST_OF_BASE}", kept <= MOST_OF_BASE),
        *(
            (f"kept against read in every {what}", again / kept, f">= {LEAST_SPEEDUP}", again / kept >= LEAST_SPEEDUP)
            for what, again in (("step", costs.read_every_step), ("pass", costs.read_every_pass))
        ),
    ]
    return [
        [str(pixels), what, f"{found:.2f}", target, "pass" if met else "FAIL"] for what, found, target, met in asked
    ]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--references", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--repeats", type=int, default=3)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--reduced", action="store_true", help="fewer blocks and heads, half the side, on a CPU")
    how.add_argument("--operations", action="store_true", help="count operations of the full size; needs no memory")
    options = parser.parse_args()
    device = torch.device("cpu" if options.reduced else "meta" if options.operations else "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(
            "torch sees no GPU; the full size needs one of 80 GB, other machines take --operations or --reduced"
        )
    logging.set_verbosity_error()
    transformer = transformer_of(device, options.reduced)
    text = 64 if options.reduced else 512
    parameters = sum(weight.numel() for weight in transformer.parameters())
    measured = f"median of {options.repeats}"
    where = {
        "cuda": lambda: f"{torch.cuda.get_device_name(device)}, {measured}",
        "cpu": lambda: f"{torch.get_num_threads()} CPU threads, {measured}",
        "meta": lambda: "OPERATIONS COUNTED, NOT TIMED: 10^12 in place of s",
    }[device.type]()
    print(
        f"{'REDUCED SIZE, ' if options.reduced else ''}{parameters / 1e9:.2f} B parameters, bfloat16, {text} text "
        f"tokens, {STEPS} steps, {where}\n"
    )
    head = ["px", "references", "s / step, base", "s / step, kept", "of the base", "of the base, one branch"]
    head += [f"kept against {what}" for what in ("read every step", "read every pass", "joint")]
    head += ["keys and values, GiB", "peak GiB, kept", "peak GiB, joint", "difference"]
    print(markdown(head, []), flush=True)
    judged = []
    for resolution in options.resolutions:
        pixels = resolution // 2 if options.reduced else resolution
        for count in options.references:
            sampling = Sampling(transformer, pixels // 16, text, count)
            costs = operations(sampling) if device.type == "meta" else sampling.costs(options.repeats)
            print("| " + " | ".join(row_of(sampling, costs, pixels)) + " |", flush=True)
            if count == TARGET_REFERENCES:
                judged += verdicts(costs, pixels)
    if judged:
        not_it = "" if device.type == "cuda" else " (they are of times at the full size; these are not)"
        print(f"\nTargets with {TARGET_REFERENCES} references{not_it}:\n")
        print(markdown(["px", "", "found", "target", ""], judged))


if __name__ == "__main__":
    main()
