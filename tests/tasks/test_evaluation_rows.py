"""Every row is the model that its description says, by the parts of the model put together by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import stage_runs
import tiny_models
import tiny_unet
import torch
from evaluation_runs import build_workspace, evaluated, prompts_of, rendered
from generated_sets import random_set
from tiny_dataset import write_dataset

from configs.evaluation import Guidance
from configs.load import load_recipe
from configs.schema import Recipe
from configs.training import NoisedReferences
from data.records import Prompt, PromptRecord
from data.stage import StageContext
from models.customizer import CustomizeRequest
from models.guidance import normalised_dual_guidance
from models.latents import decode
from models.unet.customizer import UNetCustomizer
from models.unet.sampling import schedule
from tasks import train
from tasks.evaluation import making
from tasks.evaluation.rows import guidance_of, models_of, pairs_of, rows_of
from tasks.evaluation.scoring import Shot
from tasks.evaluation.subjects import Subject

torch.set_num_threads(1)
SIDE = 16
KINDS = ("base", "copy", "ours", "plain", "ip_adapter", "ip_adapter_guided", "no_attention", "no_mask", "no_image")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    whole = load_recipe("miniature-unet", ("train.steps=4", "train.batch=2", "train.lora_rank=2"))
    more = {
        "train": whole.train.model_copy(update={"learning_rate": 0.3, "dtype": "float32"}),
        "models": whole.models.model_copy(
            update={"customizer": tiny_unet.unet_ref(tmp_path_factory.mktemp("models") / "unet")}
        ),
        "evaluate": whole.evaluate.model_copy(
            update={
                "rows": KINDS,
                "references": (2,),
                "steps": 2,
                "seeds": (0,),
                "base_text_scale": 3.0,
                "batch_images": 2,
            }
        ),
    }
    return whole.model_copy(update=more)


@pytest.fixture(scope="module")
def ctx(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    workspace = tmp_path_factory.mktemp("trained")
    write_dataset(workspace, [random_set(f"mug-{n}", n, size=SIDE) for n in range(2)], recipe)
    stage_runs.run_stage(train, stage_runs.context("train", recipe, workspace, ("shard",)))
    return stage_runs.context("evaluate", recipe, workspace, ("train", "render", "prompts"))


@pytest.fixture(scope="module")
def shots() -> list[Shot]:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[2:9, 3:12] = True
    prompts = [Prompt(text="a red mug on the beach", kind="background"), Prompt(text="a blue mug", kind="property")]
    record = PromptRecord(
        object_id="mug", split="eval", category="mug", caption="a mug", writer="grammar", prompts=prompts
    )
    subject = Subject(record, tuple(tiny_unet.picture(seed) for seed in (1, 2)), (mask, mask), "mug")
    return [Shot(subject, place, 0, 7 + place) for place in range(len(prompts))]


@pytest.fixture(scope="module")
def made(ctx: StageContext, shots: list[Shot]) -> dict[str, list[np.ndarray]]:
    return {row.name: making.make_row(ctx, row, shots)[0] for row in rows_of(ctx.recipe.evaluate)}


@torch.no_grad()
def by_hand(
    model: UNetCustomizer, shot: Shot, guidance: Guidance, count: int, attention: bool, image: str
) -> np.ndarray:
    """One image of `count` references. image: "reference", one of them beside the unconditional one; "off"."""
    subject = shot.subject
    drawn = torch.Generator().manual_seed(shot.noise_seed)
    scheduler = schedule(model.schedule, 2)
    x = torch.randn(1, 4, SIDE // 2, SIDE // 2, generator=drawn) * scheduler.init_noise_sigma
    text, blank = model.encode_prompts([subject.prompts[shot.prompt].text]), model.encode_prompts([""])
    own = model.image_features(subject.references[:count], subject.masks[:count])
    pick = int(torch.randint(count, (), generator=drawn))
    zero = torch.zeros(1, tiny_unet.QUERIES, 12)
    clip = [model.encode_appearance([subject.references[pick]]), model.encode_no_appearance()[None]]
    tokens, nothing = (zero, zero) if image == "off" else (model.resampler(own) for own in clip)
    for step, timestep in enumerate(scheduler.timesteps):
        noisy, times = scheduler.scale_model_input(x, timestep), torch.tensor([int(timestep)])
        noises = [[torch.randn(4, SIDE // 2, SIDE // 2, generator=drawn) for _ in range(count)]]
        seen = model.read([[model.reference(one) for one in own]], noises, times) if attention else None
        u = model.predict(noisy, times, blank, nothing, None)
        r, f = (model.predict(noisy, times, own, tokens, seen) for own in (blank, text))
        s_i = guidance.image_scale + guidance.image_scale_rise * step
        v = (
            normalised_dual_guidance(u, r, f, s_i, guidance.text_scale)
            if guidance.form == "normalised"
            else u + guidance.text_scale * (f - u)
        )
        x = scheduler.step(v, timestep, x, return_dict=False)[0]
    return decode(model.vae, x)[0]


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one.astype(int) - other).max() <= 1)


def test_every_row_is_another_one(made: dict[str, list[np.ndarray]]) -> None:
    names = list(made)
    assert names == [
        *("base", "copy", "ours-2", "plain-2", "ip_adapter", "ip_adapter_guided"),
        *("no_attention-2", "no_mask-2", "no_image-2"),
    ]
    for place, name in enumerate(names):
        assert not any(alike(made[name][0], made[other][0]) for other in names[:place]), name


def test_ip_adapter_is_the_base_model_under_classifier_free_guidance(
    ctx: StageContext, shots: list[Shot], made: dict[str, list[np.ndarray]]
) -> None:
    """From a base model that was never trained; u has the IP-Adapter's unconditional image."""
    folder = Path(ctx.recipe.models.customizer.source.removeprefix("folder:"))
    base = UNetCustomizer.from_pretrained(folder, "cpu", torch.float32)
    text_only = Guidance(form="plain", text_scale=ctx.recipe.evaluate.base_text_scale)
    for place, shot in enumerate(shots):
        assert alike(made["ip_adapter"][place], by_hand(base, shot, text_only, 1, False, "reference"))
        recipes = ctx.recipe.evaluate.guidance
        assert alike(made["ip_adapter_guided"][place], by_hand(base, shot, recipes, 1, False, "reference"))


def test_parts_that_are_switched_off_are_off_and_the_rest_is_the_checkpoint(
    ctx: StageContext, shots: list[Shot], made: dict[str, list[np.ndarray]]
) -> None:
    model, record = making.restored(ctx)
    guidance = ctx.recipe.evaluate.guidance
    assert model.references == record.noised == ctx.recipe.train.noised, "rows leave the form as they found it"
    for name, attention, image in (
        ("ours-2", True, "reference"),
        ("no_attention-2", False, "reference"),
        ("no_image-2", True, "off"),
    ):
        assert alike(made[name][0], by_hand(model, shots[0], guidance, 2, attention, image)), name
    model.references = record.noised.model_copy(update={"mask": False})
    try:
        assert alike(made["no_mask-2"][0], by_hand(model, shots[0], guidance, 2, True, "reference"))
    finally:
        model.references = record.noised


def test_base_is_the_text_to_image_model_without_ip_adapter(
    ctx: StageContext, shots: list[Shot], made: dict[str, list[np.ndarray]]
) -> None:
    folder = Path(ctx.recipe.models.customizer.source.removeprefix("folder:"))
    base = UNetCustomizer.from_pretrained(folder, "cpu", torch.float32)
    drawn = torch.Generator().manual_seed(shots[0].noise_seed)
    scheduler = schedule(base.schedule, 2)
    x = torch.randn(1, 4, SIDE // 2, SIDE // 2, generator=drawn) * scheduler.init_noise_sigma
    texts = [base.encode_prompts([prompt]) for prompt in ("", shots[0].subject.prompts[0].text)]
    for timestep in scheduler.timesteps:
        noisy, times = scheduler.scale_model_input(x, timestep), torch.tensor([int(timestep)])
        with torch.no_grad():
            zero = torch.zeros(1, tiny_unet.QUERIES, 12)
            r, f = (base.velocity(noisy, times, text, zero) for text in texts)
        x = scheduler.step(r + 3.0 * (f - r), timestep, x, return_dict=False)[0]
    assert alike(made["base"][0], decode(base.vae, x)[0])


def test_a_row_that_fails_leaves_the_model_as_it_was(ctx: StageContext, shots: list[Shot]) -> None:
    model, record = making.restored(ctx)
    before = model.adapter_state()
    (row,) = (row for row in rows_of(ctx.recipe.evaluate) if row.kind == "ip_adapter")
    with pytest.raises(ZeroDivisionError), making.in_row(model, row):
        assert model.references != record.noised
        assert any(not torch.equal(own, before[name]) for name, own in model.adapter_state().items())
        raise ZeroDivisionError
    assert model.references == record.noised
    assert all(torch.equal(own, before[name]) for name, own in model.adapter_state().items())


def test_rows_name_what_made_them_and_are_paired_with_what_they_are_compared_to(recipe: Recipe) -> None:
    section = recipe.evaluate.model_copy(update={"references": (3, 1), "external": {"theirs": "x"}})
    models = models_of(recipe.model_copy(update={"evaluate": section}))
    base = f"tiny-unet@{recipe.models.customizer.revision}"
    assert models["base"] == base and models["copy"] == "none" and models["theirs"] == "made elsewhere"
    assert models["ip_adapter"] == models["ip_adapter_guided"] == f"{base} with its own IP-Adapter"
    assert models["ours-3"] == models["plain-1"] == f"LoRA and image projections on {base}"
    assert models["no_mask-1"] == f"LoRA and image projections on {base}, mask switched off"
    pairs = pairs_of(rows_of(section), ["theirs"])
    assert {other for own, other in pairs if own == "ours-1"} == {
        *("base", "plain-1", "ip_adapter", "ip_adapter_guided", "no_attention-1", "no_mask-1", "no_image-1")
    }
    assert [pair for pair in pairs if pair[0] != "ours-1"][-3:] == [
        ("ours-3", "ours-1"),
        ("ip_adapter_guided", "ip_adapter"),
        ("ours-3", "theirs"),
    ]
    assert len(pairs) == len(set(pairs))
    alone = rows_of(section.model_copy(update={"rows": ("base", "ip_adapter")}))
    assert pairs_of(alone, ["theirs"]) == [], "nothing of ours to compare with"


def test_s_i_of_the_recipe_is_for_the_rows_under_its_guidance(recipe: Recipe) -> None:
    section = recipe.evaluate.model_copy(update={"property_image_scale": 0.5})
    found = {row.name: guidance_of(section, row, "property") for row in rows_of(section)}
    assert (found["ip_adapter"].form, found["ip_adapter"].image_scale, found["ip_adapter"].text_scale) == (
        "plain",
        2,
        3,
    )
    assert found["ip_adapter_guided"] == found["ours-2"] == found["no_image-2"]
    assert found["ours-2"].image_scale == 0.5


def test_the_stage_publishes_the_rows_of_a_u_net(recipe: Recipe, ctx: StageContext, tmp_path: Path) -> None:
    refs = {
        "clip": tiny_models.ref_of(tiny_models.clip_folder(tmp_path / "clip"), "clip"),
        "identity": tiny_models.ref_of(tiny_models.identity_folder(tmp_path / "dino"), "dinov2"),
        "segmenter": tiny_models.ref_of(tiny_models.segmenter_folder(tmp_path / "segmenter"), "segformer"),
    }
    chosen = recipe.model_copy(update={"models": recipe.models.model_copy(update=refs)})
    workspace = build_workspace(tmp_path / "run", chosen, ctx.workspace, [rendered("mug-a", 1)], [prompts_of("mug-a")])
    records, _, index = evaluated(workspace, chosen)
    names = [row.name for row in rows_of(recipe.evaluate)]
    assert list(dict.fromkeys(image.row for image in records["mug-a"].images)) == names
    by_row = {image.row: image for image in records["mug-a"].images}
    assert (by_row["ip_adapter"].references, by_row["no_attention-2"].references) == (1, 2)
    guided = {name for name, image in by_row.items() if image.guidance_norms}
    assert guided == set(names) - {"base", "copy"}
    metrics = json.loads((workspace / "artifacts" / "evaluate" / "metrics.json").read_text())
    assert metrics["order"] == names
    assert {"ours-2 - no_mask-2", "ip_adapter_guided - ip_adapter"} <= set(metrics["differences"]["all"])
    table = (workspace / "artifacts" / "evaluate" / "table.md").read_text()
    assert "- no_image-2: LoRA and image projections on tiny-unet@" in table
    assert index.summary["images"] == 2 * len(names) * len(recipe.evaluate.seeds)


@pytest.mark.parametrize("off", ["attention", "image"])
def test_a_variant_is_trained_and_restored_without_its_part(recipe: Recipe, tmp_path: Path, off: str) -> None:
    """Thesis Table 5.4 trains each variant: its checkpoint says so, and samples so."""
    form = NoisedReferences(mask_dilation=3, **{off: False})
    rows = {"rows": ("ours",)}
    variant = recipe.model_copy(
        update={
            "train": recipe.train.model_copy(update={"noised": form, "steps": 2}),
            "evaluate": recipe.evaluate.model_copy(update=rows),
        }
    )
    write_dataset(tmp_path, [random_set(f"mug-{n}", n, size=SIDE) for n in range(2)], variant)
    stage_runs.run_stage(train, stage_runs.context("train", variant, tmp_path, ("shard",)))
    model, record = making.restored(stage_runs.context("evaluate", variant, tmp_path, ("train",)))
    assert model.references == record.noised == form
    assert model.needs_masks == (off == "image")
    request = CustomizeRequest("a mug", 0, (tiny_unet.picture(1),), (np.ones((SIDE, SIDE), bool),))
    features = model.image_features(request.references, request.masks)
    assert bool(model.image_tokens(features).any()) == (off == "attention")
    seen = model.read([[model.reference(features[0])]], [[torch.zeros(4, 8, 8)]], torch.tensor([300]))
    assert (seen is None) == (off == "attention")
