"""Scores without images: of the row `ours-1` the checkpoint's own quality, give or take what depends on the object."""

from pathlib import Path
from typing import Any

from data.ids import seed_for
from data.shards import ShardIndex, ShardWriter, read_all
from data.stage import ShardSpec, StageContext, chunk
from fake_tasks import make_samples
from models.evaluation.files import as_parquet
from models.evaluation.record import EvaluatedImage, EvaluationRecord
from models.header import FILE_NAME, read_metadata


def plan(ctx: StageContext) -> list[ShardSpec]:
    return chunk(ctx.index("prompts").keys, ctx.recipe.evaluate.shard_size)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    file = ctx.checkpoint.path if ctx.checkpoint else ctx.output_dir("train") / FILE_NAME
    quality = float(read_metadata(file)["quality"])
    records = {key: _record(ctx, key, quality).model_dump(mode="json") for key in spec.keys}
    make_samples(ctx, spec, out, records)


def _record(ctx: StageContext, key: str, quality: float) -> EvaluationRecord:
    def image(row: str, seed: int) -> EvaluatedImage:
        luck = seed_for(seed, "luck", f"{key}/{row}/{quality}") / 2**32 % 1 * 0.02
        score = min((quality if row == "ours-1" else 0.3) + luck, 1.0)
        return EvaluatedImage(
            name=f"{row}.p0.s{seed}", row=row, prompt=0, kind="background", seed=seed, noise_seed=seed, references=1,
            identity=score, text=score, geometric=score, saturation=0.5, clipped=0.0, object_found=True,
        )  # fmt: skip

    images = [image(row, seed) for row in ("base", "ours-1") for seed in ctx.recipe.evaluate.seeds]
    return EvaluationRecord(
        object_id=key, category="mug", caption="a mug", references=1, prompts=[], images=images, checkpoint={}
    )


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    records = [EvaluationRecord.model_validate(sample.record) for sample in read_all(out_dir, index)]
    scores = [{"object": record.object_id, **image.model_dump()} for record in records for image in record.images]
    (out_dir / "images.parquet").write_bytes(as_parquet(scores, {}))
    return {"images": len(scores)}
