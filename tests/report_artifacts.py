"""A small finished run on disk, from the real writers where they are cheap, for the tests of the report."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from generated_sets import image_scores, score_record

from configs.load import load_recipe
from configs.schema import Recipe
from data.ids import canonical_json, sample_id_of, set_id_of
from data.images import encode_png
from data.provenance import make_statement, statement_path, write_statement
from data.records import AssetRecord, GeneratedRecord, PromptRecord, SampleRecord
from data.shards import Receipt, ShardWriter
from data.stage import StageContext
from flows.publishing import publish
from models.evaluation.files import guidance_csv
from models.evaluation.record import EvaluatedImage, EvaluationRecord
from models.evaluation.tables import aggregate, differences
from models.prompts.coverage import coverage
from tasks import select, shard

INPUTS = {
    "assets": (),
    "prompts": ("assets",),
    "render": ("assets",),
    "generate": ("render", "prompts"),
    "score": ("generate",),
    "select": ("score",),
    "shard": ("assets", "generate", "score", "select"),
    "train": ("shard",),
    "evaluate": ("train", "render", "prompts"),
}
MODELS = {"generate": ("generator",), "score": ("clip", "quality", "identity"), "train": ("customizer",)}
ALL = tuple(INPUTS)
OBJECTS = ("bowl", "cup", "dish", "jug", "mug", "pan", "urn", "vase")
"""With split seed 0 and a share of 0, all of them are training objects."""
DROPPED = ("cup", "pan", "vase")
HELD_OUT = ("kettle", "lamp")
EVALUATED = ("base", "ours-1", "ours-3", "plain-1", "plain-3", "ip_adapter", "no_mask-3")


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe("miniature", ("assets.eval_share=0.0", "select.min_quality=6", *overrides))


def report_context(workspace: Path, recipe: Recipe, inputs: tuple[str, ...] = ALL) -> StageContext:
    return StageContext(stage="report", recipe=recipe, workspace=workspace, signature="f" * 64, inputs=inputs)


def write_stage(workspace, recipe, stage, samples, summary=None, files=None, failed=(), module=None):
    """One finished stage: its shard, its files, its index and its statement. `module` is a stage to run for real."""
    ctx = StageContext(stage=stage, recipe=recipe, workspace=workspace, signature="0" * 64, inputs=INPUTS[stage])
    receipts: list[Receipt] = []
    specs = module.plan(ctx) if module else [None]
    for number, spec in enumerate(specs):
        with ShardWriter(ctx.work_dir, stage, ctx.signature, number) as out:
            if module:
                module.run_shard(ctx, spec, out)
            for key, record, members in samples:
                out.add(key, record, members)
            for key, reason, detail in failed:
                out.fail(key, reason, detail)
            receipts.append(out.finish())

    def finalize(ctx, index, out_dir):
        for name, data in (files or {}).items():
            (out_dir / name).write_bytes(data)
        return summary or {}

    failures = [failure for receipt in receipts for failure in receipt.failed]
    index = publish(module or SimpleNamespace(finalize=finalize), ctx, receipts, failures)
    roles = {f"models.{role}": getattr(recipe.models, role).model_dump(mode="json") for role in MODELS.get(stage, ())}
    run = {"invocationId": "run-1", "startedOn": "2026-11-21T12:00:00+00:00", "finishedOn": "2026-11-21T12:03:20+00:00"}
    parameters = {"configs/recipe.yaml": {"seed": recipe.seed, **roles}}
    statement = make_statement(workspace, index, parameters, INPUTS[stage], receipts, run)
    write_statement(statement_path(workspace, stage), statement, ctx.work_dir / "statement.json")


def picture(name: str, index: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, mask and depth of a disc, different for every name and index."""
    rng = np.random.default_rng([index, *name.encode()])
    rows, columns = np.mgrid[0:size, 0:size] / size
    centre = rng.uniform(0.35, 0.65, 2)
    distance = np.hypot(rows - centre[0], columns - centre[1])
    mask = distance < 0.25
    image = np.empty((size, size, 3), np.uint8)
    image[...] = rng.integers(120, 255, 3)
    image[mask] = np.random.default_rng(list(name.encode())).integers(0, 200, 3)
    return image, mask, (np.where(mask, 1 - distance * 2, 0) * 255).astype(np.uint8)


def generated_set(name: str, size: int, prompt: str, depth: bool = True):
    set_id = set_id_of(name, 0)
    samples, files = [], {}
    for index in range(3):
        image, mask, condition = picture(name, index, size)
        files[f"{index}.png"], files[f"{index}.mask.png"] = encode_png(image), encode_png(mask)
        if depth:
            files[f"{index}.depth.png"] = encode_png(condition)
        samples.append(
            SampleRecord(
                sample_id=sample_id_of(set_id, index),
                index=index,
                prompt=prompt.format(name=name, index=index),
                prompt_kind="scene",
                prompt_sent=prompt.format(name=name, index=index),
                seed=1000 + index,
            )
        )
    record = GeneratedRecord(
        set_id=set_id,
        object_id=name,
        split="train",
        category=name,
        caption=f"a {name}",
        licence="CC0-1.0",
        mesh_sha256="0" * 64,
        model="tiny-flux@1",
        settings={},
        correspondence_share={},
        samples=samples,
    )
    return set_id, record, files


def scored_set(name: str, dropped: bool):
    rng = np.random.default_rng(list(name.encode()))
    quality = [4.5, 5.2, 7.1] if dropped else rng.uniform(6.2, 8, 3).round(3).tolist()
    images = [image_scores(value) for value in quality]
    pairs = [[1.0 if row == column else 0.8 for column in range(3)] for row in range(3)]
    return (
        set_id_of(name, 0),
        score_record(set_id_of(name, 0), images, pairs),
        {},
    )


def asset(name: str):
    record = AssetRecord(
        object_id=name,
        split="train",
        category=name,
        caption=f"a {name}",
        licence="CC0-1.0",
        source="miniature",
        uri=f"miniature:{name}",
        source_sha256="1" * 64,
        source_format="glb",
        outcome="generated",
        mesh_sha256="0" * 64,
    )
    return name, record, {"glb": b"glb"}


def prompts_of(name: str, prompt: str):
    record = PromptRecord(
        object_id=name, split="train", category=name, caption=f"a {name}", writer="grammar",
        prompts=[{"text": prompt.format(name=name, index=0), "kind": "scene"}],
    )  # fmt: skip
    return name, record, {}


def lines(rows) -> bytes:
    return b"".join(canonical_json(row) + b"\n" for row in rows)


def write_run(
    workspace: Path,
    recipe: Recipe,
    objects: tuple[str, ...] = OBJECTS,
    dropped: tuple[str, ...] = DROPPED,
    size: int = 16,
    prompt: str = "a {name} on the beach, take {index}",
    depth: bool = True,
    failed: dict[str, list[tuple[str, str, str]]] | None = None,
    rejected: list[dict[str, str]] | None = None,
    held_out: tuple[str, ...] = HELD_OUT,
    until: str = "evaluate",
) -> None:
    """Every stage up to `until`. `failed` names (key, reason, detail) by stage."""
    failed = failed or {}
    sets = [generated_set(name, size, prompt, depth) for name in objects]
    stages = ALL[: ALL.index(until) + 1]

    def write(stage, samples=(), summary=None, files=None, module=None):
        if stage in stages:
            write_stage(workspace, recipe, stage, samples, summary, files, failed.get(stage, ()), module)

    write(
        "assets",
        [asset(name) for name in objects],
        {"objects": len(objects), "held_out": 0, "held_out_objects": [], "rejected": {}},
        {"rejected.jsonl": lines(rejected or [])},
    )
    prompts = [prompts_of(name, prompt) for name in objects]
    covered = canonical_json(coverage(record for _, record, _ in prompts))
    write("prompts", prompts, {"objects": len(objects), "rejected": 0}, {"coverage.json": covered})
    write("render", [(key, {"set_id": key}, {}) for key, _, _ in sets], {"sets": len(sets), "held_out_sets": []})
    write("generate", sets, {"sets": len(sets), "images": 3 * len(sets), "mean_correspondence_share": 0.21})
    models = {"clip": "tiny-clip@1", "identity": "tiny-dino@2", "quality": "tiny-quality@3"}
    write("score", [scored_set(name, name in dropped) for name in objects], {"sets": len(sets), "models": models})
    write("select", module=select)
    if set(objects) - set(dropped):
        write("shard", module=shard)
    if (workspace / "artifacts" / "shard" / "index.json").exists():
        write("train", *training(workspace, steps=40))
        write("evaluate", *evaluation(size, prompt, held_out))


def training(workspace: Path, steps: int):
    index = workspace / "artifacts" / "shard" / "index.json"
    rows = [
        {"step": step, "loss": 1 / (1 + step / 9), "gradient_norm": 0.5, "step_size": 0.001} for step in range(steps)
    ]
    summary = {
        "steps": steps,
        "loss_last_tenth": rows[-1]["loss"],
        "samples_seen": 16 * steps,
        "sets_seen": 5,
        "dataset_sha256": hashlib.sha256(index.read_bytes()).hexdigest(),
        "base_model": "miniature-flux@unset",
    }
    return [("customizer", {"step": steps}, {"metrics.jsonl": lines(rows)})], summary, {"metrics.jsonl": lines(rows)}


def evaluation(size: int, prompt: str, objects: tuple[str, ...] = HELD_OUT):
    """Samples, summary and files of an evaluation with two prompts and two seeds per object."""
    samples = [evaluated_object(name, size, prompt) for name in objects]
    scores = [{"object": key, **image.model_dump(mode="json")} for key, record, _ in samples for image in record.images]
    table = aggregate(scores, EVALUATED)
    gaps = differences(scores, [("ours-1", "base"), ("ours-3", "ours-1")])
    metrics = {"rows": table, "differences": gaps, "backbones": {"identity": f"tiny-dino@{'a' * 64}"}}
    metrics |= {
        "order": EVALUATED,
        "subjects": "held-out objects",
        "models": {row: f"tiny-flux@{'b' * 64}" for row in EVALUATED},
    }
    norms = guidance_csv(image for _, record, _ in samples for image in record.images)
    files = {"metrics.json": canonical_json(metrics), "guidance.csv": norms.encode()}
    return samples, {"objects": len(objects), "images": len(scores)}, files


def evaluated_object(name: str, size: int, prompt: str):
    files = {f"ref.{place}.png": encode_png(picture(name, place, size)[0]) for place in range(3)}
    images = []
    for place, kind in enumerate(("background", "property")):
        for seed in (0, 1):
            for number, row in enumerate(EVALUATED):
                image = EvaluatedImage(
                    name=f"{row}.p{place}.s{seed}",
                    row=row,
                    prompt=place,
                    kind=kind,
                    seed=seed,
                    noise_seed=7,
                    references={"base": 0, "ip_adapter": 1}.get(row) or int(row.partition("-")[2] or 0),
                    identity=round(min(0.4 + 0.1 * number, 0.9) + 0.01 * seed, 4),
                    text=0.5,
                    geometric=0.5,
                    saturation=0.3,
                    clipped=0.1,
                    object_found=number > 0,
                    guidance_norms=[] if row == "base" else [(1 - at / 8, 9 - at + number, 5 + at) for at in range(8)],
                )
                images.append(image)
                files[f"{image.name}.png"] = encode_png(picture(name, 10 * place + number, size)[0])
    record = EvaluationRecord(
        object_id=name,
        category=name,
        caption=f"a {name}",
        references=3,
        prompts=[
            {"text": prompt.format(name=name, index=place), "kind": kind}
            for place, kind in enumerate(("background", "property"))
        ],
        images=images,
        checkpoint={},
    )
    return name, record, files
