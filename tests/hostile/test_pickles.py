"""A pickle can run code when it is loaded. Wherever weights are read, one is refused, and its code does not run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_flux
import tiny_models
import tiny_unet
import torch
from PIL import Image
from typer.testing import CliRunner

from configs.errors import ConfigError
from configs.load import load_recipe
from configs.schema import ModelRef
from flows.checkpoint import fitting
from flows.cli import app
from models import registry
from models.header import read_metadata
from models.prompts.local_chat import LocalChat
from models.training.checkpoints import CheckpointError, load_checkpoint
from models.unet.customizer import UNetCustomizer
from tasks.sample import CustomizationPipeline


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sprung,)


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    return tmp_path / "sprung"


@pytest.fixture
def pickled(tmp_path: Path, sprung: Path) -> Callable[[str], Path]:
    """A file of that name, as torch.save writes it, with a trap beside its weights."""

    def write(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weight": torch.ones(2), "trap": Trap(sprung)}, path)
        return path

    return write


def test_the_trap_is_one(pickled: Callable[[str], Path], sprung: Path) -> None:
    torch.load(pickled("trap.pt"), weights_only=False)
    assert sprung.exists()


NAMES = ("weights.pt", "weights.bin", "weights.ckpt", "weights.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_no_command_that_takes_a_checkpoint_takes_a_pickle(
    pickled: Callable[[str], Path], sprung: Path, tmp_path: Path, name: str
) -> None:
    path = pickled(name)
    reference = tmp_path / "mug.png"
    Image.new("RGB", (16, 16)).save(reference)
    sample = ["sample", "--reference", str(reference), "--prompt", "a mug", "--checkpoint", str(path)]
    refused = CliRunner().invoke(app, [*sample, "-w", str(tmp_path / "none"), "--out", str(tmp_path / "out.png")])
    assert isinstance(refused.exception, ConfigError)
    recipe = load_recipe("dreambooth", (f"evaluate.benchmark_folder={tmp_path}",))
    with pytest.raises(ConfigError) as evaluated:
        fitting(recipe, path, tmp_path / "none")
    with pytest.raises(ValueError) as loaded:
        CustomizationPipeline.from_checkpoint(path)
    for error in (refused.exception, evaluated.value, loaded.value):
        assert f"{path}: not a .safetensors file" in str(error)
        assert "a pickle (.pt, .bin, .ckpt) can run code" in str(error)
    assert not sprung.exists()


def test_true_weights_under_another_ending_are_refused_since_diffusers_would_unpickle_them(tmp_path: Path) -> None:
    weights = next((tiny_models.quality_folder(tmp_path / "quality")).glob("*.safetensors"))
    renamed = Path(shutil.copy(weights, tmp_path / "weights.bin"))
    with pytest.raises(ValueError, match=r"weights\.bin: not a \.safetensors file \(its ending is '\.bin'\)"):
        read_metadata(renamed)


def pinned_again(ref: ModelRef, folder: Path) -> ModelRef:
    """The model as whoever changed its files would pin it: the digest alone is no protection then."""
    return ref.model_copy(update={"revision": registry.folder_digest(folder)})


def replace_weights(folder: Path, name: str, pickled: Callable[[str], Path]) -> None:
    found = list(folder.glob("*.safetensors"))
    assert found
    for path in found:
        path.unlink()
    shutil.move(pickled("trap.bin"), folder / name)


@pytest.mark.parametrize(
    ("part", "name"),
    [("transformer", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")],
)
def test_a_generator_with_pickled_weights_is_not_loaded(
    tmp_path: Path, pickled: Callable[[str], Path], sprung: Path, part: str, name: str
) -> None:
    folder = tmp_path / "flux"
    ref = tiny_flux.flux_ref(folder)
    replace_weights(folder / part, name, pickled)
    with pytest.raises(registry.ModelError, match="cannot be loaded as flux"):
        registry.load(pinned_again(ref, folder), "cpu", "float32")
    assert not sprung.exists()


def test_a_scorer_with_pickled_weights_is_not_loaded(
    tmp_path: Path, pickled: Callable[[str], Path], sprung: Path
) -> None:
    folder = tiny_models.clip_folder(tmp_path / "clip")
    replace_weights(folder, "pytorch_model.bin", pickled)
    with pytest.raises(registry.ModelError, match="cannot be loaded as clip"):
        registry.load(tiny_models.ref_of(folder, "clip"), "cpu", "float32")
    assert not sprung.exists()


def test_a_published_quality_head_that_holds_more_than_weights_is_not_loaded(
    tmp_path: Path, pickled: Callable[[str], Path], sprung: Path
) -> None:
    folder = pickled("head/predictor.pth").parent
    with pytest.raises(registry.ModelError, match=r"predictor\.pth: holds more than weights, and was not read"):
        registry.load(tiny_models.ref_of(folder, "quality_head"), "cpu", "float32")
    assert not sprung.exists()


def test_a_unet_with_pickled_weights_is_not_loaded(
    tmp_path: Path, pickled: Callable[[str], Path], sprung: Path
) -> None:
    folder = tiny_unet.build(tmp_path / "unet", sdxl=False)
    replace_weights(folder / "unet", "diffusion_pytorch_model.bin", pickled)
    with pytest.raises(OSError):
        UNetCustomizer.from_pretrained(folder, "cpu", torch.float32)
    assert not sprung.exists()


def test_a_language_model_with_pickled_weights_is_not_loaded(
    tmp_path: Path, pickled: Callable[[str], Path], sprung: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "chat"
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    LlamaForCausalLM(config).save_pretrained(folder)
    replace_weights(folder, "pytorch_model.bin", pickled)
    with pytest.raises(OSError):
        LocalChat.from_pretrained(folder, dtype=torch.float32)
    assert not sprung.exists()


def test_a_training_is_not_resumed_from_a_pickle_that_runs_code(
    tmp_path: Path, pickled: Callable[[str], Path], sprung: Path
) -> None:
    from hashlib import sha256

    path = pickled("checkpoints/step-00000005.pt")
    path.write_bytes(path.read_bytes() + sha256(path.read_bytes()).digest())
    with pytest.raises(CheckpointError, match=r"step-00000005\.pt: cannot be read .*; delete it") as refused:
        load_checkpoint(path.parent, "cpu")
    assert "weights_only=False" not in str(refused.value)
    assert not sprung.exists()
