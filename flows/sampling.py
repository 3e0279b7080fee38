"""`syncd sample`: the workspace's checkpoint and sampling settings, unless others are named."""

from pathlib import Path

from configs.load import ConfigError, load_resolved
from flows.graph import RECIPE_FILE
from flows.worker import resolve_device

SETTINGS = {
    "steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "guidance": "guidance",
}
"""Fields of the recipe's evaluate section, and the arguments of tasks.sample.sample that they set."""


def sample_to_file(
    references: list[Path], prompt: str, output: Path, seed: int, checkpoint: Path | None, workspace: Path, device: str
) -> list[Path]:
    """Make one picture; ConfigError for a missing or unreadable file."""
    missing = [str(path) for path in references if not path.exists()]
    if missing:
        raise ConfigError(f"no such reference: {', '.join(missing)}")
    source = checkpoint or workspace / "artifacts" / "train"
    if not source.exists():
        raise ConfigError(f"{source}: no checkpoint; train one with syncd run --until train, or name one: --checkpoint")
    active = workspace / RECIPE_FILE
    recipe = load_resolved(active) if active.exists() else None
    settings = {argument: getattr(recipe.evaluate, field) for field, argument in SETTINGS.items()} if recipe else {}
    segmenter = recipe.models.segmenter if recipe else None
    from tasks.sample import sample

    try:
        return sample(
            references,
            prompt,
            source,
            output,
            seed=seed,
            device=resolve_device(device),
            segmenter=segmenter,
            **settings,
        )
    except (ValueError, OSError) as error:
        raise ConfigError(f"sample: {error}") from error
