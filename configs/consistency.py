"""What the parts of a recipe demand of each other, and those of a runtime."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import Recipe, Runtime


UNET_ROWS = {
    "ip_adapter": "it has no IP-Adapter",
    "ip_adapter_guided": "it has no IP-Adapter",
    "no_attention": "its references enter through attention alone",
    "no_mask": "no keys of its references are hidden",
    "no_image": "it takes no global image",
    "custom_diffusion": "its text has no cross-attention of its own to train",
}
"""Rows of U-Nets alone, and why another model has none."""
PARTS = {"no_attention": ("attention", "image"), "no_mask": ("attention", "mask"), "no_image": ("attention", "image")}
"""Rows that switch a part off, and the keys of train.noised that must be true for that to mean anything."""

ONE_REFERENCE = ("dreambench_plus",)
"""Benchmarks whose objects have a single reference each."""


def check(recipe: "Recipe") -> None:
    """ValueError naming the keys that contradict each other."""
    wanted = recipe.prompts.scenes + recipe.prompts.other_object + recipe.prompts.style
    needed = recipe.render.views_per_set * recipe.render.max_sets
    if wanted < needed:
        raise ValueError(
            f"prompts.scenes + prompts.other_object + prompts.style is {wanted}; render.views_per_set x "
            f"render.max_sets is {needed}, and every image of an object needs a prompt of its own"
        )
    if recipe.select.min_images > recipe.render.views_per_set:
        raise ValueError(
            f"select.min_images is {recipe.select.min_images}; allowed: at most render.views_per_set, "
            f"{recipe.render.views_per_set}, since no set has more images"
        )
    if recipe.render.views_per_set > recipe.render.candidate_views:
        raise ValueError(
            f"render.views_per_set is {recipe.render.views_per_set}; allowed: at most render.candidate_views, "
            f"{recipe.render.candidate_views}"
        )
    unlisted = sorted(set(recipe.select.licences or ()) - set(recipe.assets.licences))
    if unlisted:
        raise ValueError(
            f"select.licences names {', '.join(unlisted)}; allowed: entries of assets.licences as they are written "
            f"there, {', '.join(recipe.assets.licences)}, since no other asset is taken in the first place"
        )
    if recipe.prompts.writer != "grammar":
        _check_writer(recipe)
    if recipe.assets.in_words:
        _check_in_words(recipe)
    unet, noised = recipe.models.customizer.architecture == "unet", recipe.train.references == "noised"
    if unet != noised:
        raise ValueError(
            f"train.references is {recipe.train.references}; with models.customizer {recipe.models.customizer.name} it "
            f"must be {'noised' if unet else 'separate or joint'}"
        )
    _check_evaluation(recipe)
    if unet and recipe.train.parallel == "fsdp":
        raise ValueError("train.parallel is fsdp; a U-Net fits on every GPU and allows ddp")
    if recipe.assets.eval_share > 0 and recipe.models.segmenter is None:
        raise ValueError(
            f"assets.eval_share is {recipe.assets.eval_share:g} and models.segmenter is not set; evaluation needs "
            "one to find held-out objects in generated images; name one, or set assets.eval_share to 0"
        )


def _check_evaluation(recipe: "Recipe") -> None:
    section, models = recipe.evaluate, recipe.models
    if models.segmenter is not None and (models.segmenter.architecture == "sam") != (models.detector is not None):
        raise ValueError(
            f"models.segmenter has the architecture {models.segmenter.architecture} and models.detector is "
            f"{'not set' if models.detector is None else models.detector.name}; SAM needs a detector, and only SAM "
            "takes one"
        )
    if section.benchmark != "held_out":
        _check_benchmark(recipe)
    views = recipe.render.views_per_set * recipe.render.max_sets
    wanted = max(*section.references, section.identity_references)
    if section.benchmark == "held_out" and recipe.assets.eval_share > 0 and wanted > views:
        raise ValueError(
            f"evaluate.references and evaluate.identity_references ask for {wanted} views of an object, and "
            f"render.views_per_set x render.max_sets is {views}; raise render.max_sets, or ask for fewer"
        )
    _check_rows(recipe)
    if "dino" in section.metrics and models.dino is None:
        raise ValueError("evaluate.metrics names dino, and models.dino is not set; name the model there")
    if section.text_metric == "tifa" and models.vqa is None:
        raise ValueError("evaluate.text_metric is tifa, and models.vqa is not set; name the model there")
    if section.text_metric == "tifa" and section.questions is None and models.writer is None:
        raise ValueError(
            "evaluate.text_metric is tifa, and nothing asks its questions; set evaluate.questions to a file, or "
            "name a language model as models.writer"
        )


def _check_rows(recipe: "Recipe") -> None:
    section, customizer, noised = recipe.evaluate, recipe.models.customizer, recipe.train.noised
    for row in section.rows:
        if row in UNET_ROWS and customizer.architecture != "unet":
            raise ValueError(
                f"evaluate.rows names {row}, which is for U-Nets; models.customizer {customizer.name} is of the "
                f"architecture {customizer.architecture}, and {UNET_ROWS[row]}: take the row out"
            )
        untrained = [part for part in PARTS.get(row, ()) if noised is not None and not getattr(noised, part)]
        if untrained:
            raise ValueError(
                f"evaluate.rows names {row}, and train.noised.{untrained[0]} is false: the row would be the model as "
                "it was trained, or one that sees no reference; take it out"
            )
    if "ip_adapter" in section.rows and section.base_text_scale < 1:
        raise ValueError(
            f"evaluate.base_text_scale is {section.base_text_scale:g}; with the row ip_adapter, whose classifier-free "
            "guidance has that scale, allowed: at least 1"
        )


def _check_benchmark(recipe: "Recipe") -> None:
    section = recipe.evaluate
    if section.benchmark_folder is None:
        raise ValueError(
            f"evaluate.benchmark is {section.benchmark}, and evaluate.benchmark_folder is not set; download the "
            "benchmark and name its folder there"
        )
    if recipe.models.segmenter is None:
        raise ValueError(
            f"evaluate.benchmark is {section.benchmark}, and models.segmenter is not set; name one (SAM with "
            "models.detector) to find the objects in images"
        )
    if section.benchmark in ONE_REFERENCE and max(section.references) > 1:
        raise ValueError(
            f"evaluate.references is {list(section.references)}, and every object of {section.benchmark} has one "
            "reference: set evaluate.references: [1]"
        )
    if section.text_metric == "clip_facts":
        raise ValueError(
            f"evaluate.text_metric is clip_facts, and prompts of {section.benchmark} carry no facts; allowed: "
            "tifa, clip_score"
        )


def _check_in_words(recipe: "Recipe") -> None:
    if recipe.assets.source == "subjects" and recipe.prompts.writer == "grammar":
        raise ValueError(
            "prompts.writer is grammar, which does not know what the subjects look like; allowed: transformers, openai"
        )
    needed = {
        "assets.eval_share": (recipe.assets.eval_share, 0.0, "nothing renders references of an object without mesh"),
        "generate.depth": (recipe.generate.depth, False, "there is no mesh to render"),
        "generate.warp": (recipe.generate.warp, "none", "there are no views to find correspondences in"),
        "generate.msa_first_step": (recipe.generate.msa_first_step, "full", "its masks come from the first step"),
    }
    if recipe.generate.mask_words == "appearance" and not recipe.generate.appearance:
        raise ValueError(
            "generate.mask_words is appearance and generate.appearance is false; the model is not told the words "
            "that the mask should come from"
        )
    for key, (value, allowed, why) in needed.items():
        if value != allowed:
            raise ValueError(
                f"{key} is {str(value).lower()}; with objects that are described in words it must be "
                f"{str(allowed).lower()}, since {why}"
            )


def _check_writer(recipe: "Recipe") -> None:
    kind, model = recipe.prompts.writer, recipe.models.writer
    if model is None:
        raise ValueError(f"prompts.writer is {kind}, and models.writer is not set; name the language model there")
    if (kind == "openai") != model.source.startswith("server:"):
        wanted = "server:NAME" if kind == "openai" else "hub:OWNER/NAME or folder:PATH"
        raise ValueError(
            f"models.writer has the source {model.source!r}; with prompts.writer {kind} it must be {wanted}"
        )


def check_runtime(runtime: "Runtime") -> None:
    """ValueError naming the keys that contradict each other."""
    if runtime.max_tasks_per_worker and runtime.runner != "process":
        raise ValueError(
            f"max_tasks_per_worker is {runtime.max_tasks_per_worker} and runner is {runtime.runner}; only the process "
            "runner renews its workers: set it to 0 (Dask has dask worker --lifetime 1h --lifetime-restart)"
        )
    if runtime.cluster is None:
        return
    if runtime.runner not in ("dask", "ray"):
        raise ValueError(
            f"cluster is {runtime.cluster!r} and runner is {runtime.runner}, which works on this machine; allowed with "
            "a cluster: dask, ray"
        )
    if runtime.runner == "ray" and "://" in runtime.cluster:
        raise ValueError(
            f"cluster is {runtime.cluster!r}; a Ray client loses its work when the connection drops for 30 s: run on a "
            "machine of the cluster, with cluster: auto or HOST:6379"
        )
    if runtime.prefect_api_url is None:
        raise ValueError(
            f"cluster is {runtime.cluster!r} and prefect_api_url is not set; workers report to a Prefect server that "
            "they can reach: prefect server start --host 0.0.0.0, then prefect_api_url: http://THIS_HOST:4200/api"
        )
