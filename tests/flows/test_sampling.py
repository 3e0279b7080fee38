"""`syncd sample` and `syncd inspect` of its pictures, as they are called."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_checkpoint import SIDE, recipe_of, train_in
from typer.testing import CliRunner

from configs.errors import ConfigError
from configs.load import dump_recipe, load_recipe
from flows import sampling
from flows.cli import app
from flows.graph import RECIPE_FILE
from tasks.sample import read_provenance


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an active recipe, a checkpoint, two references and a mask."""
    folder = tmp_path_factory.mktemp("workspace")
    recipe = recipe_of(tmp_path_factory.mktemp("base") / "flux")
    train_in(folder, recipe)
    (folder / RECIPE_FILE).parent.mkdir(parents=True, exist_ok=True)
    (folder / RECIPE_FILE).write_text(dump_recipe(recipe), encoding="utf-8")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    for name, shown in zip(("one", "two"), pixels, strict=True):
        Image.fromarray(shown).save(folder / f"{name}.png")
    mask = np.zeros((20, 30), np.uint8)
    mask[2:8, 3:9] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


def syncd(folder: Path, *words: str) -> str:
    done = CliRunner().invoke(app, [*words], catch_exceptions=True)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def sample(folder: Path, *words: str) -> dict:
    out = folder / "out.png"
    where = ("--workspace", str(folder), "--out", str(out), "--device", "cpu", "--prompt", "a red mug")
    assert syncd(folder, "sample", "--reference", str(folder / "one.png"), *where, *words).strip() == str(out)
    return read_provenance(out)


def test_settings_are_the_recipes_and_options_override_them(workspace: Path) -> None:
    plain = sample(workspace, "--set", "evaluate.steps=2")
    assert plain["settings"]["steps"] == 2
    assert plain["settings"]["guidance_scale"] == 0.0
    assert (plain["settings"]["guidance"]["image_scale"], plain["settings"]["guidance"]["text_scale"]) == (2.0, 4.0)
    changed = sample(
        workspace,
        *("--steps", "3", "--set", "evaluate.steps=2", "--set", "evaluate.guidance.rescale=0.5"),
        *("--guidance", "plain", "--image-scale", "3", "--text-scale", "0.5", "--dtype", "bfloat16"),
        *("--height", "24", "--width", "8", "--seed", "7"),
    )
    settings, guidance = changed["settings"], changed["settings"]["guidance"]
    assert (settings["steps"], settings["height"], settings["width"]) == (3, 24, 8)
    assert (changed["seed"], changed["dtype"]) == (7, "bfloat16")
    assert (guidance["form"], guidance["image_scale"], guidance["text_scale"]) == ("plain", 3.0, 0.5)
    assert guidance["rescale"] == 0.5
    with Image.open(workspace / "out.png") as image:
        assert image.size == (8, 24)


def test_several_references_with_masks_and_several_pictures(workspace: Path) -> None:
    out = workspace / "many.png"
    words = [str(part) for name in ("one", "two") for part in ("--reference", workspace / f"{name}.png")]
    words += [str(part) for _ in range(2) for part in ("--mask", workspace / "mask.png")]
    words += ["--prompt", "a mug", "--steps", "2", "--count", "2", "--workspace", str(workspace), "--out", str(out)]
    made = syncd(workspace, "sample", *words).split()
    assert made == [str(workspace / "many-1.png"), str(workspace / "many-2.png")]
    told = [read_provenance(Path(path)) for path in made]
    assert [own["seed"] for own in told] == [0, 1]
    assert {own["references_cut"] for own in told} == {"mask"}
    assert len(told[0]["references_sha256"]) == 2


def test_a_checkpoint_file_alone_needs_no_recipe(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(sampling, "warn", warned.append)
    file = workspace / "artifacts" / "train" / "pytorch_lora_weights.safetensors"
    words = ("--workspace", str(tmp_path), "--out", str(tmp_path / "out.png"), "--checkpoint", str(file))
    call = ("sample", "--reference", str(workspace / "one.png"), "--prompt", "a mug", *words)
    syncd(tmp_path, *call, "--steps", "2")
    told = read_provenance(tmp_path / "out.png")
    assert told["references_cut"] == "middle" and "in the middle square of every reference" in warned[0]
    assert (told["settings"]["height"], told["settings"]["guidance"]["image_scale"]) == (SIDE, 1.0)
    with pytest.raises(ConfigError, match=r"--set models: .* only evaluate\.KEY can be set"):
        syncd(tmp_path, *call, "--set", "models.clip=other")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", "1"), r"evaluate\.steps is 1; allowed: whole numbers at least 2 and at most 200"),
        (("--guidance", "loud"), r"evaluate\.guidance\.form is 'loud'; allowed: normalised, plain, projected"),
        (("--mask", "nowhere.png"), r"no such mask: nowhere\.png"),
        (("--segment", "mug", "--set", "models.segmenter=null", "--set", "assets.eval_share=0"), "name a segmenter"),
        (("--height", "20"), "sample: height is 20; allowed: multiples of 8"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(workspace: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sample(workspace, *words)


def test_inspecting_a_picture_shows_what_it_was_made_from(workspace: Path) -> None:
    told = sample(workspace, "--steps", "2")
    shown = syncd(workspace, "inspect", str(workspace / "out.png"))
    assert told["checkpoint_sha256"] in shown and "a red mug" in shown and told["base_model"] in shown
    *_, first, second = shown.rstrip().splitlines()
    assert [line.split()[0] for line in (first, second)] == ["1", "2"]
    assert float(first.split()[1]) == 1.0
    with pytest.raises(ConfigError, match="carries no syncd metadata"):
        syncd(workspace, "inspect", str(workspace / "one.png"))


def test_settings_of_another_model_are_refused(workspace: Path, tmp_path: Path) -> None:
    call = ("sample", "--reference", str(workspace / "one.png"), "--prompt", "a mug", "--workspace", str(workspace))
    with pytest.raises(ConfigError, match=r"miniature-unet@.*; name a recipe of that model with --recipe"):
        syncd(workspace, *call, "--recipe", "miniature-unet")
    with pytest.raises(ConfigError, match="trained from sdxl-v, and without a recipe the settings are those of FLUX"):
        sampling._settings(tmp_path, None, (), load_recipe("ours-3b").models.customizer)
