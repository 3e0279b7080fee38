"""The tiny FLUX folder of tests/models/flux, for tests elsewhere."""

import importlib.util
from pathlib import Path

from tiny_models import ref_of

from configs.schema import ModelRef

_BUILDER = Path(__file__).parent / "models" / "flux" / "conftest.py"


def flux_ref(folder: Path, takes_depth: bool = True, guidance_embeds: bool = False) -> ModelRef:
    """8-pixel tokens, 10 text tokens; knows the words a red blue striped mug on the beach in forest blurry dark."""
    spec = importlib.util.spec_from_file_location("flux_conftest", _BUILDER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return ref_of(module.build(folder, takes_depth, guidance_embeds), "flux")
