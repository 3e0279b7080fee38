import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_unet import build


@pytest.fixture(scope="session")
def unet_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """unet_folder(sdxl): 2-pixel latents of 4 channels, text of 12 tokens, image tokens of 16 px in 8 px patches."""

    @functools.cache
    def folder(sdxl: bool) -> Path:
        return build(tmp_path_factory.mktemp("unet"), sdxl)

    return folder


@pytest.fixture(params=[False, True], ids=["sd15", "sdxl"])
def folder(request: pytest.FixtureRequest, unet_folder: Callable[[bool], Path]) -> Path:
    return unet_folder(request.param)
