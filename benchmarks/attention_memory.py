"""Peak memory of finding masks in the attention, as layers and steps grow: it should not.

    python -m benchmarks.attention_memory [--tokens 1024] [--layers 2 8 32] [--steps 2 8]

A FLUX transformer with random weights, 3 images sampled with and without the observation, each in a process of its own.
Peak is the most resident memory while sampling, above what the process had when the model was built. For comparison the
size of what keeping every map of every layer would be: layers x 3 x image tokens x text tokens x 4 bytes.
"""

import argparse
import subprocess
import sys
import threading
import time

import psutil
import torch
from diffusers import FluxTransformer2DModel

from benchmarks.common import markdown
from models.flux.layout import image_ids, text_ids
from models.flux.object_attention import ObjectAttention
from models.flux.processor import SharedAttnProcessor

IMAGES, TEXT, MIB = 3, 128, 2**20


class Peak:
    """Most resident memory of this process while the `with` block runs, above that at its start, in MiB."""

    def __enter__(self) -> "Peak":
        self._process, self._done = psutil.Process(), threading.Event()
        self._start = self._most = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.is_set():
            self._most = max(self._most, self._process.memory_info().rss)
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.mib = (self._most - self._start) / MIB


@torch.inference_mode()
def sample(layers: int, steps: int, tokens: int, observing: bool) -> float:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side = int(tokens**0.5)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=layers // 2,
        num_single_layers=layers - layers // 2,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(8, 12, 12),
    ).eval()
    transformer.set_attn_processor(SharedAttnProcessor())
    observed = ObjectAttention([[1, 2]] * IMAGES, TEXT, tokens) if observing else None
    hidden = torch.randn(IMAGES, tokens, 16)
    with Peak() as peak:
        for _ in range(steps):
            hidden = transformer(
                hidden_states=hidden,
                encoder_hidden_states=torch.randn(IMAGES, TEXT, 32),
                pooled_projections=torch.randn(IMAGES, 32),
                timestep=torch.full((IMAGES,), 0.5),
                img_ids=image_ids(side, side),
                txt_ids=text_ids(TEXT),
                joint_attention_kwargs={"observed": observed},
                return_dict=False,
            )[0]
            if observed is not None:
                observed.masks()
    return peak.mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024, help="image tokens per image, a square number")
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--one", nargs=3, type=int, metavar=("LAYERS", "STEPS", "OBSERVING"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(sample(options.one[0], options.one[1], options.tokens, bool(options.one[2])))
        return
    rows = []
    for layers in options.layers:
        for steps in options.steps:
            found = []
            for observing in (0, 1):
                words = ["--tokens", str(options.tokens), "--one", str(layers), str(steps), str(observing)]
                command = [sys.executable, "-m", "benchmarks.attention_memory", *words]
                found.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            maps = layers * IMAGES * options.tokens * TEXT * 4 / MIB
            rows.append([str(layers), str(steps), *(f"{value:.0f}" for value in found), f"{maps:.0f}"])
    print(f"{IMAGES} images of {options.tokens} tokens, {TEXT} text tokens, CPU, MiB above the built model\n")
    print(markdown(["layers", "steps", "peak without", "peak with masks", "every map kept"], rows))


if __name__ == "__main__":
    main()
