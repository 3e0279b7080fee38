"""Recipes and runtimes: every mistake is an error that names the key, the value and what is allowed."""

import json
import re
from pathlib import Path

import pytest
import yaml

from configs.errors import ConfigError
from configs.load import CONFIGS, RUNTIME_VARIABLE, dump_recipe, load_recipe, load_resolved, load_runtime

RECIPES = sorted(path.stem for path in (CONFIGS / "recipes").glob("*.yaml"))
RUNTIMES = sorted(path.stem for path in (CONFIGS / "runtime").glob("*.yaml"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_in_the_repository_resolves_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    assert load_resolved(path) == recipe
    assert load_recipe(str(path)) == recipe


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_in_the_repository_is_valid(name: str) -> None:
    assert load_runtime(name).workers >= 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("generate.num_images=1", ["generate.num_images is not a known key", "known here: ", "true_cfg_scale"]),
        ("colour.depth=1", ["colour is not a known key", "select"]),
        ("select.min_identity=3", ["select.min_identity is 3", "at least -1 and at most 1"]),
        ("assets.eval_share=-0.1", ["assets.eval_share is -0.1", "at least 0 and at most 1"]),
        ("generate.steps=many", ["generate.steps is 'many'", "whole numbers", "at least 2 and at most 200"]),
        ("render.resolution=100", ["render.resolution is 100", "multiples of 16"]),
        ("render.max_elevation_deg=0", ["render.max_elevation_deg is 0", "above 0"]),
        ("generate.warp=pixels", ["generate.warp is 'pixels'", "none, latents, features"]),
        ("select.min_quality=.nan", ["select.min_quality is nan"]),
        ("seed=-1", ["seed is -1", "at least 0"]),
        ("render.views_per_set=8", ["prompts.scenes + prompts.other_object", "needs a prompt of its own"]),
        ("assets.source=folder", ["assets.folder is not set"]),
        ("models.clip=big-clip", ["models.clip is 'big-clip'", "miniature-clip"]),
        ("train.pairs=web", ["train.pairs is web and train.pairs_share is 0", "need both"]),
        ("train.pairs_share=0.1", ["train.pairs is not set and train.pairs_share is 0.1", "need both"]),
        ("train.reference_crops=-1", ["train.reference_crops is -1", "at least 0"]),
        ("prompts.writer=openai", ["prompts.writer is openai", "models.writer is not set"]),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_range(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("miniature", (override,))
    for word in [*words, "miniature.yaml"]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("writer", "source", "wanted"),
    [("openai", "folder:/llm", "server:NAME"), ("transformers", "server:llm", "hub:OWNER/NAME or folder:PATH")],
)
def test_a_writer_and_where_its_model_is_must_fit(writer: str, source: str, wanted: str) -> None:
    model = f"{{name: llm, architecture: causal_lm, source: '{source}', revision: x, licence: Apache-2.0}}"
    with pytest.raises(ConfigError, match=rf"source '{source}'; with prompts.writer {writer} it must be {wanted}"):
        load_recipe("miniature", (f"prompts.writer={writer}", f"models.writer={model}"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("assets.eval_share=0.2", "assets.eval_share is 0.2; .* must be 0.0"),
        ("generate.depth=true", "generate.depth is true; .* must be false"),
        ("generate.warp=latents", "generate.warp is latents; .* must be none"),
        ("generate.msa_first_step=masked", "generate.msa_first_step is masked; .* must be full"),
    ],
)
def test_objects_in_words_exclude_what_needs_a_mesh(override: str, words: str) -> None:
    assert load_recipe("miniature-deformable").assets.in_words
    with pytest.raises(ConfigError, match=words):
        load_recipe("miniature-deformable", (override,))


@pytest.mark.parametrize(
    ("recipe", "override", "words"),
    [
        ("flux-deformable", "prompts.writer=grammar", "does not know what the subjects look like"),
        ("flux-rigid", "assets.eval_share=0.1", r"eval_share is 0\.1 and models\.segmenter is not set"),
    ],
)
def test_what_would_fail_after_days_is_refused_at_once(recipe: str, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe(recipe, (override,))


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("miniature", ("train.references=noised",), "lora_targets is attention_feedforward; a U-Net takes noised and"),
        ("miniature-unet", ("train.noised=null",), "train.references is noised and train.noised is not set; write"),
        ("miniature", ("train.noised={}",), "train.references is separate and train.noised is set; allowed with"),
        ("miniature-unet", ("models.customizer=miniature-flux",), "with models.customizer miniature-flux it must be s"),
        (
            "miniature-unet",
            ("train.noised={attention: false, image: false}",),
            "train.noised has attention and image false; references need one of them",
        ),
        (
            "miniature-unet",
            ("train.noised.attention=false", "evaluate.rows=[ours, no_mask]"),
            "evaluate.rows names no_mask, and train.noised.attention is false",
        ),
        (
            "miniature-unet",
            ("train.noised.image=false", "evaluate.rows=[no_attention]"),
            "evaluate.rows names no_attention, and train.noised.image is false",
        ),
        (
            "miniature-unet",
            ("evaluate.base_text_scale=0.5", "evaluate.rows=[ip_adapter]"),
            "evaluate.base_text_scale is 0.5; with the row ip_adapter",
        ),
        ("miniature", ("models.customizer=miniature-unet",), "with models.customizer miniature-unet it must be noised"),
    ],
)
def test_how_references_enter_must_fit_the_model(recipe: str, overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe(recipe, overrides)


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        (
            "miniature",
            ("train.processes=3",),
            "train.batch is 16 and train.processes is 3; the batch is all",
        ),
        ("miniature", ("train.parallel=fsdp",), "train.parallel is fsdp and train.processes is 1; one process has"),
        ("miniature-unet", ("train.parallel=fsdp", "train.processes=2"), "a U-Net fits on every GPU and allows ddp"),
        ("miniature", ("train.ema_decay=1",), "train.ema_decay is 1; allowed: numbers at least 0 and below 1"),
    ],
)
def test_processes_must_fit_the_batch_and_the_model(recipe: str, overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe(recipe, overrides)


def test_what_only_unets_have_is_written_for_them_alone() -> None:
    """So recipes, and with them stages, of other models keep their digests."""
    plain, unet = (
        load_recipe("miniature").model_dump(mode="json"),
        load_recipe("miniature-unet").model_dump(mode="json"),
    )
    assert "noised" not in plain["train"]
    assert unet["train"]["noised"] == {"mask": True, "mask_dilation": 3, "ip_adapter_scale": 0.6}
    off = load_recipe("miniature-unet", ("train.noised.attention=false",))
    assert off.model_dump(mode="json")["train"]["noised"] == {"attention": False, **unet["train"]["noised"]}


def test_what_is_published_is_of_what_is_taken() -> None:
    taken = "assets.licences=[CC0-1.0, CC-BY-4.0, CC-BY-SA-4.0]"
    assert load_recipe("miniature", (taken,)).published_licences == ("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0")
    assert load_recipe("miniature", (taken, "select.licences=[CC0-1.0]")).published_licences == ("CC0-1.0",)
    with pytest.raises(
        ConfigError, match=r"select\.licences names CC-BY-4\.0; allowed: .* assets\.licences .*CC0-1\.0"
    ):
        load_recipe("miniature", ("select.licences=[CC0-1.0, CC-BY-4.0]",))


@pytest.mark.parametrize("wrong", ["version: 1.0", "date: tomorrow", "author: me"])
def test_what_people_say_of_a_release_has_a_form(wrong: str) -> None:
    with pytest.raises(ConfigError, match=rf"shard\.release\.{wrong.partition(':')[0]}"):
        load_recipe("miniature", (f"shard.release={{{wrong}}}",))


def test_two_mistakes_are_both_named() -> None:
    with pytest.raises(ConfigError, match=r"seed is -1.*generate\.steps is 1"):
        load_recipe("miniature", ("seed=-1", "generate.steps=1"))


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'minature' is not known; known: .*miniature"):
        load_recipe("minature")


@pytest.mark.parametrize(
    ("text", "words"),
    [("- a\n- b\n", "must be a mapping"), ("a: [1\n", "not valid YAML"), ("extends: nowhere\n", "nowhere")],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_recipe(str(path))


def test_a_recipe_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: no such file"):
        load_recipe(str(tmp_path / "gone.yaml"))


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(f"extends: {second}\n")
    second.write_text(f"extends: {first}\n")
    with pytest.raises(ConfigError, match="circle"):
        load_recipe(str(first))


@pytest.mark.parametrize(
    ("override", "words"), [("generate.steps", "section.key=value"), ("name=[a", "not valid YAML")]
)
def test_an_override_that_cannot_be_read_is_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe("miniature", (override,))


def test_an_override_changes_one_value_and_keeps_its_neighbours() -> None:
    base, changed = load_recipe("miniature"), load_recipe("miniature", ("generate.steps=5",))
    assert changed.generate.steps == 5
    assert changed == base.model_copy(update={"generate": base.generate.model_copy(update={"steps": 5})})


def test_a_resolved_recipe_carries_whole_model_entries() -> None:
    registry = yaml.safe_load((CONFIGS / "models.yaml").read_text())
    clip = load_recipe("miniature").models.clip
    assert clip.model_dump() == {"name": clip.name, "fetch": None, **registry[clip.name]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"workers": 0}, ["workers is 0", "at least 1"]),
        ({"runner": "slurm"}, ["runner is 'slurm'", "thread, process"]),
        ({"gpus": 2}, ["gpus is not a known key", "device"]),
        ({"runner": "process", "cluster": "tcp://host:8786"}, ["cluster is 'tcp://host:8786'", "dask, ray"]),
        ({"runner": "dask", "cluster": "tcp://host:8786"}, ["prefect_api_url is not set", "prefect server start"]),
        ({"runner": "ray", "cluster": "ray://host:10001"}, ["ray://host:10001", "cluster: auto"]),
        ({"runner": "dask", "max_tasks_per_worker": 8}, ["max_tasks_per_worker is 8", "--lifetime"]),
    ],
)
def test_a_wrong_runtime_is_refused(tmp_path: Path, values: dict[str, object], words: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError) as caught:
        load_runtime(str(path))
    assert all(word in str(caught.value) for word in [*words, str(path)])


def test_every_runtime_of_the_project_is_valid() -> None:
    names = sorted(path.stem for path in (CONFIGS / "runtime").glob("*.yaml"))
    assert {"dask", "ray"} <= {load_runtime(name).runner for name in names}


def test_an_unknown_runtime_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'lokal' is not known; known: .*local"):
        load_runtime("lokal")


def test_a_stage_process_takes_the_runtime_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNTIME_VARIABLE, json.dumps({"workers": 7}))
    assert load_runtime().workers == 7
    assert load_runtime("local").workers == 2


def test_the_active_recipe_of_a_fresh_checkout_is_the_demo() -> None:
    assert load_resolved(CONFIGS / "recipe.yaml") == load_recipe("demo"), "write it again with: syncd run --recipe demo"


def test_models_outside_the_licence_allow_list_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"models\.licences allows MIT, but not miniature-clip \(Apache-2\.0\)"):
        load_recipe("miniature", ("models.licences=[MIT]",))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("evaluate.benchmark=dreambooth",), "evaluate.benchmark_folder is not set; download the benchmark"),
        (
            ("evaluate.benchmark=dreambooth", "evaluate.benchmark_folder=x"),
            "evaluate.text_metric is clip_facts, and prompts of dreambooth carry no facts; allowed: tifa, clip_score",
        ),
        (
            ("evaluate.benchmark=dreambench_plus", "evaluate.benchmark_folder=x", "evaluate.text_metric=clip_score"),
            "evaluate.references is [1, 3], and every object of dreambench_plus has one reference: set "
            "evaluate.references: [1]",
        ),
        (("evaluate.text_metric=tifa",), "evaluate.text_metric is tifa, and models.vqa is not set"),
        (("evaluate.metrics=[dino]",), "evaluate.metrics names dino, and models.dino is not set"),
        (("evaluate.external={ours: x}",), "evaluate.external names a row ours, as the evaluation's own is called"),
        (("evaluate.external={no_mask: x}",), "evaluate.external names a row no_mask, as the evaluation's own is"),
        (("evaluate.rows=[ours, base, ours]",), "evaluate.rows names ours more than once; name it once"),
        (("evaluate.rows=[jedi]",), "evaluate.rows.0 is 'jedi'; allowed: base, copy, ours, plain, ip_adapter"),
        (("evaluate.rows=[]",), "evaluate.rows is []; allowed: lists with at least 1 entry"),
        (("evaluate.rows=[ours, ip_adapter]",), "architecture flux, and it has no IP-Adapter: take the row out"),
        (("evaluate.rows=[no_mask]",), "architecture flux, and no keys of its references are hidden: take the row"),
        (("models.detector=grounding-dino-base",), "SAM needs a detector, and only SAM takes one"),
        (("models.segmenter=sam-vit-huge",), "SAM needs a detector, and only SAM takes one"),
        (
            ("models.vqa=blip-vqa-base", "models.licences=[Apache-2.0, BSD-3-Clause]", "evaluate.text_metric=tifa"),
            "nothing asks its questions; set evaluate.questions to a file",
        ),
    ],
)
def test_an_evaluation_that_cannot_be_made_says_what_it_lacks(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_recipe("miniature", overrides)


def test_the_dreambooth_recipe_evaluates_the_model_of_flux_rigid_and_makes_no_other_stage_again() -> None:
    base, own = load_recipe("flux-rigid"), load_recipe("dreambooth")
    assert {name for name, _ in base if getattr(base, name) != getattr(own, name)} == {"models", "evaluate"}
    added = {role for role, ref in own.models.by_role.items() if ref != base.models.by_role.get(role)}
    assert added == {"dino", "segmenter", "detector", "vqa"}


@pytest.mark.parametrize("name", ["dreambooth", "dreambooth-3b", "dreambench_plus", "customconcept101"])
def test_recipes_of_benchmarks_make_several_images_of_a_prompt(name: str) -> None:
    section = load_recipe(name).evaluate
    assert section.seeds == (0, 1, 2, 3) and "diversity" in section.metrics


@pytest.mark.parametrize("name", ["dreambench_plus", "customconcept101"])
def test_recipes_of_the_other_benchmarks_are_that_of_dreambooth_with_other_objects(name: str) -> None:
    base, own = load_recipe("dreambooth"), load_recipe(name)
    assert {part for part, _ in base if getattr(base, part) != getattr(own, part)} == {"evaluate"}
    assert own.evaluate.benchmark == name
    changed = {key for key, _ in own.evaluate if getattr(base.evaluate, key) != getattr(own.evaluate, key)}
    assert changed - {"references"} == {"benchmark", "benchmark_folder"}


def test_the_recipe_of_table_5_4_evaluates_the_model_of_ours_3b_and_makes_no_other_stage_again() -> None:
    base, own = load_recipe("ours-3b"), load_recipe("dreambooth-3b")
    assert {name for name, _ in base if getattr(base, name) != getattr(own, name)} == {"models", "evaluate"}
    assert {"ip_adapter", "ip_adapter_guided", "no_attention"} <= set(own.evaluate.rows)
    assert own.evaluate.guidance == base.evaluate.guidance
    load_recipe("dreambooth-3b", ("train.noised.attention=false", "evaluate.rows=[ours]"))
