"""What meshes and pictures that mean harm cost, and what reading them apart costs the others:
`python -m benchmarks.hostile [MESH.glb ...]`, from a checkout.

Milliseconds of processor time, so that other work on the machine does not count.
"""

import argparse
import os
import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import markdown
from data.mesh_errors import MeshError
from data.meshes import bounding_radius, load_mesh
from data.pictures import PictureError, read_picture
from data.sandbox import client
from data.sandbox.confinement import LIMITS
from data.surfaces import Shape, surfaces_of
from models.miniature.world import export_glb, parse_id

OBJECTS = ("teapot-pink-black-dotted-48", "chair-pink-cyan-plain-32", "duck-yellow-cyan-dotted-26")
ROUNDS = 40
TICKS = os.sysconf("SC_CLK_TCK")

# The files are built by the tests, which refuse each of them.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="further GLB files")
    options = parser.parse_args()
    confinement = client.probe()
    print(f"start of the process that meshes are read beside: {_of_zygote():.0f} ms, once per worker; {confinement}\n")
    meshes = {name: export_glb(parse_id(name)) for name in OBJECTS}
    meshes |= {path.stem: path.read_bytes() for path in options.files}
    print(
        markdown(
            ["mesh", "kB", "read here, ms", "read apart, ms", "more, ms"], [_cost(*item) for item in meshes.items()]
        )
    )
    print(f"\nlimits of one mesh: {LIMITS}\n")
    from hostile import test_meshes, test_pictures

    cases = {name: (data, "glb") for name, (data, _) in test_meshes.BY_HEADER.items()}
    cases |= {name: (data, kind) for name, (data, kind, _) in test_meshes.OTHER_FORMS.items()}
    print(markdown(["mesh", "bytes", "ms", "refused as"], [_refused(name, *case) for name, case in cases.items()]))
    pictures = [_picture(name, data) for name, (data, _) in test_pictures.REFUSED.items()]
    print("\n" + markdown(["picture", "bytes", "ms", "most memory, kB", "refused as"], pictures))


def _cost(name: str, data: bytes) -> list[str]:
    def here() -> None:
        random.seed(0)
        scene = load_mesh(data, "glb")
        Shape(surfaces_of(scene), bounding_radius(scene))

    # Together, since the clock of the other process ticks a hundred times a second.
    own = _spent(lambda: [here() for _ in range(ROUNDS)]) / ROUNDS
    apart = _spent(lambda: [client.read_shape(data, "glb") for _ in range(ROUNDS)]) / ROUNDS
    return [name, f"{len(data) / 1e3:.0f}", f"{own:.1f}", f"{apart:.1f}", f"{apart - own:.1f}"]


def _refused(name: str, data: bytes, kind: str) -> list[str]:
    said = ""

    def read() -> None:
        nonlocal said
        try:
            client.read_shape(data, kind)
        except MeshError as error:
            said = str(error)

    return [name, str(len(data)), f"{_spent(read):.0f}", said[:110].replace("|", "\\|")]


def _picture(name: str, data: bytes) -> list[str]:
    said = ""

    def read() -> None:
        nonlocal said
        try:
            read_picture(data, "it")
        except PictureError as error:
            said = error.problem

    spent = _spent(read)
    tracemalloc.start()
    read()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return [name, str(len(data)), f"{spent:.1f}", f"{most / 1e3:.0f}", said[:110]]


def _spent(call: Callable[[], object]) -> float:
    """Milliseconds of processor time, here and in the processes that meshes are read in."""
    before, own = _of_zygote(), time.process_time()
    call()
    return 1e3 * (time.process_time() - own) + _of_zygote() - before


def _of_zygote() -> float:
    """Of this thread's zygote and the processes that it has waited for."""
    fields = Path(f"/proc/{client._zygote().process.pid}/stat").read_text().rpartition(")")[2].split()
    return 1e3 * sum(map(int, fields[11:15])) / TICKS


if __name__ == "__main__":
    main()
