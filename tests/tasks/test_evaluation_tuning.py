"""Rows that are tuned on every object: from the work folder if they were, with the identifier in their prompts."""

from pathlib import Path

import evaluation_runs
import numpy as np
import pytest
import tiny_unet
from evaluation_runs import build_workspace, context_of, evaluated, prompts_of, rendered, small_recipe, train_small

from configs.errors import ConfigError
from configs.evaluation import CustomDiffusion, DreamBooth
from configs.load import load_recipe
from configs.schema import Recipe
from configs.training import NoisedReferences
from data.images import decode_png
from data.records import Prompt, PromptRecord
from data.stage import StageContext
from models.customizer import CustomizeRequest, CustomizeSettings, load_customizer
from models.tuning import tune
from models.tuning.run import Concept, Run
from tasks.evaluation import making
from tasks.evaluation.rows import ROWS, guidance_of, models_of, pairs_of, rows_of
from tasks.evaluation.scoring import Shot
from tasks.evaluation.subjects import Subject

TUNED = {
    "dreambooth": DreamBooth(token="dark", steps=2, batch=1, learning_rate=0.1, rank=2),
    "custom_diffusion": CustomDiffusion(
        token="dark", prompt="a {token} {noun}", steps=2, batch=1, learning_rate=0.1, prior_images=2
    ),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    whole = small_recipe(tmp_path_factory.mktemp("models"))
    more = {"rows": ("base", "dreambooth"), "references": (1,), "seeds": (0,), "shard_size": 2, **TUNED}
    return whole.model_copy(update={"evaluate": whole.evaluate.model_copy(update=more)})


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("trained"), recipe)


def test_a_row_is_tuned_on_its_object_and_not_again_when_resumed(
    recipe: Recipe, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renders, prompts = (
        [rendered(f"mug-{n}", seed) for seed, n in enumerate("ab")],
        [prompts_of(f"mug-{n}") for n in "ab"],
    )
    both = build_workspace(tmp_path / "both", recipe, trained, renders, prompts)
    records, files, _ = evaluated(both, recipe)
    assert {(image.row, image.references) for image in records["mug-a"].images} == {("base", 0), ("dreambooth", 1)}
    for name in ("mug-a", "mug-b"):
        made = [decode_png(files[name][f"{row}.p0.s0.png"]) for row in ("base", "dreambooth")]
        assert not np.array_equal(*made), name
    monkeypatch.setattr(tune, "train", lambda *_: pytest.fail("tuned again"))
    assert evaluated(both, recipe)[1] == files
    monkeypatch.undo()
    alone = build_workspace(tmp_path / "alone", recipe, trained, renders[1:], prompts[1:])
    assert evaluated(alone, recipe)[1]["mug-b"]["dreambooth.p1.s0.png"] == files["mug-b"]["dreambooth.p1.s0.png"]


def test_an_object_whose_prompts_lack_its_noun_is_failed_before_anything_is_made(
    recipe: Recipe, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, record, files = prompts_of("mug-a")
    odd = record.model_copy(update={"prompts": [Prompt(text="a cup", kind="background", facts=[evaluation_runs.FACT])]})
    workspace = build_workspace(tmp_path / "run", recipe, trained, [rendered("mug-a", 1)], [(key, odd, files)])
    monkeypatch.setattr(making, "make_row", lambda *_: pytest.fail("made"))
    _, _, index = evaluated(workspace, recipe)
    (failure,) = index.failed
    assert (failure.key, failure.reason) == ("mug-a", "no_noun")
    assert "the prompt 'a cup' does not name the object by its noun 'mug'" in failure.detail


def test_an_unknown_identifier_is_refused_before_anything_is_made(
    recipe: Recipe, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = recipe.evaluate.model_copy(update={"dreambooth": DreamBooth()})
    workspace = build_workspace(tmp_path / "run", recipe, trained, [rendered("mug-a", 1)], [prompts_of("mug-a")])
    monkeypatch.setattr("tasks.evaluation.making.make_row", lambda *_: pytest.fail("made"))
    with pytest.raises(ValueError, match=r"evaluate\.dreambooth\.token is 'sks', which a tokenizer"):
        evaluated(workspace, recipe.model_copy(update={"evaluate": section}))


@pytest.mark.parametrize("kind", ["dreambooth", "custom_diffusion"])
def test_a_u_net_is_tuned_without_ip_adapter_and_told_the_identifier(
    recipe: Recipe, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = tiny_unet.unet_ref(tmp_path / "unet")
    section = recipe.evaluate.model_copy(update={"rows": (kind,), "text_metric": "clip_score"})
    whole = recipe.model_copy(
        update={"models": recipe.models.model_copy(update={"customizer": ref}), "evaluate": section}
    )
    ctx: StageContext = context_of(tmp_path, whole)
    model = load_customizer(ref, "cpu", "float32", NoisedReferences())
    monkeypatch.setattr(making, "restored", lambda _: (model, None))
    prompts = [Prompt(text="a mug on the beach", kind="background"), Prompt(text="a red mug", kind="property")]
    record = PromptRecord(object_id="x", split="eval", category="mug", caption="", writer="grammar", prompts=prompts)
    masks = (np.ones((16, 16), bool),) * 2
    subject = Subject(record, (tiny_unet.picture(1), tiny_unet.picture(2)), masks, "mug")
    shots = [Shot(subject, place, 0, 7 + place) for place in range(2)]
    made, norms = making.make_row(ctx, ROWS[kind], shots)
    assert norms == {} and model.references == NoisedReferences()

    sampling = CustomizeSettings(
        16, 16, section.steps, section.guidance_scale, guidance_of(section, ROWS[kind], "background")
    )
    assert (sampling.guidance.form, sampling.guidance.text_scale) == ("plain", section.base_text_scale)
    run = Run(model, ref, sampling, section.batch_images, whole.seed, tmp_path / "again")
    with tune.tuned(run, Concept("x", "mug", subject.references), TUNED[kind]):
        wanted = model.generate_many(
            [CustomizeRequest("a dark mug on the beach", 7), CustomizeRequest("a red dark mug", 8)], sampling
        )
    assert all(np.array_equal(*pair) for pair in zip(made, wanted, strict=True))


def test_tuned_rows_are_named_and_compared_with_ours(recipe: Recipe) -> None:
    section = recipe.evaluate.model_copy(update={"rows": ("ours", "dreambooth"), "references": (1, 3)})
    rows = rows_of(section)
    assert [row.name for row in rows] == ["ours-1", "ours-3", "dreambooth"]
    assert {("ours-1", "dreambooth"), ("ours-3", "dreambooth")} < set(pairs_of(rows))
    models = models_of(recipe.model_copy(update={"evaluate": section}))
    base = f"{recipe.models.customizer.name}@{recipe.models.customizer.revision}"
    assert models["dreambooth"] == f"LoRA of {base}, tuned on each object"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.rows=[ours, custom_diffusion]", "architecture flux, and its text has no cross-attention of its own"),
        ("evaluate.dreambooth.prompt=a {noun}", "prompt is 'a {noun}'; it must hold '{token} {noun}'"),
        ("evaluate.dreambooth.steps=0", "evaluate.dreambooth.steps is 0; allowed: whole numbers at least 1"),
    ],
)
def test_settings_that_cannot_be_tuned_are_refused_at_once(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe("miniature", (override,))
    assert message in str(error.value)
