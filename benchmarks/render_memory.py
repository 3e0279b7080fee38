"""Memory of one worker over many meshes: `python -m benchmarks.render_memory FILE.glb [...] [--meshes 1000]`."""

import argparse
import time
from pathlib import Path

import numpy as np
import psutil

from data.cameras import fitting_distance, sample_hemisphere
from data.rendering import Renderer
from data.sandbox.client import read_shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--meshes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--views", type=int, default=8)
    options = parser.parse_args()
    contents = [path.read_bytes() for path in options.files]
    process = psutil.Process()
    start = time.perf_counter()
    with Renderer(options.size, options.size) as renderer:
        for number in range(1, options.meshes + 1):
            shape = read_shape(contents[number % len(contents)], "glb")
            reach = fitting_distance(40.0, shape.radius)
            rng = np.random.default_rng(number)
            cameras = sample_hemisphere(options.views, rng, distance=reach, width=options.size, height=options.size)
            for _ in renderer.render_views(shape.surfaces, cameras):
                pass
            if number in (1, 10, 100, 250, 500, 750) or number == options.meshes:
                rss = process.memory_info().rss / 2**20
                print(f"{number:6d} meshes  {rss:7.1f} MiB  {time.perf_counter() - start:7.1f} s", flush=True)


if __name__ == "__main__":
    main()
