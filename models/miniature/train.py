"""Train the miniature: render the world, train every net, write the weights and what they cost and reached.

Every finished net is kept in the work folder and not trained again; a killed run goes on from its checkpoints.
"""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import nn

from models.miniature.dataset import Views, objects_of, render_views
from models.miniature.training import clip, dino, flux, quality, report, segmenter, unet, vae
from models.miniature.training.common import Cost, write_json

log = logging.getLogger(__name__)

TRAIN_POOL, TRAIN_OBJECTS = 16_000, 12_400
EVAL_OBJECTS = 1_000
VIEWS_PER_OBJECT = 4
STEPS = {
    "vae": 2_600,
    "flux": 9_000,
    "dino": 1_200,
    "clip": 2_000,
    "segmenter": 900,
    "quality": 600,
    "unet": 6_000,
    "ip_adapter": 2_000,
}
"""Optimizer steps of each net at `steps_scale` 1."""


KEEPABLE = {
    "vae": (),
    "flux": ("vae",),
    "dino": (),
    "clip": (),
    "segmenter": (),
    "quality": ("clip",),
    "unet": ("vae", "clip"),
}
"""Nets that can be taken from earlier weights, with those that each was made for; `unet` comes with its IP-Adapter."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """Nets that are taken from the weights in `folder`. Raises ValueError for a choice that does not fit together."""

    folder: Path
    nets: tuple[str, ...]

    def __post_init__(self) -> None:
        for net in self.nets:
            if net not in KEEPABLE:
                raise ValueError(f"{net!r} cannot be kept; allowed: {', '.join(KEEPABLE)}")
            missing = [name for name in KEEPABLE[net] if name not in self.nets]
            if missing:
                raise ValueError(f"{net} is kept, and {missing[0]}, which it was made for, is not; keep that as well")

    def __contains__(self, net: str) -> bool:
        return net in self.nets

    def copy(self, net: str, out_dir: Path) -> None:
        """Put the folder of `net` into `out_dir`, unless it is there already."""
        if self.folder.resolve() != out_dir.resolve():
            shutil.copytree(self.folder / net, out_dir / net, dirs_exist_ok=True)


def train_all(
    out_dir: Path,
    work_dir: Path,
    seed: int,
    steps_scale: float = 1.0,
    workers: int = 2,
    kept: Kept | None = None,
) -> dict[str, dict[str, float]]:
    """Write flux/, unet/, clip/, dino/, segmenter/, quality/, results.json and RESULTS.md into `out_dir`.

    Returns the results.

    `steps_scale` scales steps and objects. Raises ValueError for a scale that is not positive, and for a `work_dir`
    whose nets were trained otherwise.
    """
    if not steps_scale > 0:
        raise ValueError(f"steps_scale is {steps_scale}; it must be above 0")
    work_dir.mkdir(parents=True, exist_ok=True)
    steps = {name: max(2, round(count * steps_scale)) for name, count in STEPS.items()}
    objects = {
        "train": objects_of("train", TRAIN_POOL, seed)[: max(120, round(TRAIN_OBJECTS * min(1.0, steps_scale)))],
        "eval": objects_of("eval", max(40, round(EVAL_OBJECTS * min(1.0, steps_scale))), seed + 1),
    }
    views = {
        split: render_views(specs, VIEWS_PER_OBJECT, seed + (split == "eval"), work_dir / "views" / split, workers)
        for split, specs in objects.items()
    }
    return finish(views["train"], views["eval"], steps, out_dir, work_dir, seed, kept)


def finish(
    views: Views,
    held_out: Views,
    steps: Mapping[str, int],
    out_dir: Path,
    work_dir: Path,
    seed: int,
    kept: Kept | None = None,
) -> dict[str, dict[str, float]]:
    """Train what is neither kept nor finished in `work_dir`, then save and evaluate all of it."""
    work_dir.mkdir(parents=True, exist_ok=True)
    kept = kept or Kept(out_dir, ())
    costs: dict[str, Cost] = {}

    def once(name: str, empty: nn.Module, work: Callable[[], tuple[nn.Module, Cost]]) -> nn.Module:
        stamp = {"seed": seed, "steps": steps[name], "objects": len(views.ids)}
        net, costs[name] = _once(work_dir, name, stamp, empty, work)
        return net

    if "vae" in kept:
        autoencoder = vae.load(kept.folder / "flux" / "vae")
    else:
        autoencoder = once("vae", vae.build(), lambda: vae.train(views, steps["vae"], seed, work_dir))
    if "flux" in kept:
        kept.copy("flux", out_dir)
    else:
        # A kept autoencoder has the statistics of another world.
        vae.set_latent_statistics(autoencoder, views)
        nets = once("flux", flux.build(), lambda: _train_flux(views, autoencoder, steps["flux"], seed, work_dir))
        flux.save(autoencoder, nets, out_dir / "flux")
    if "dino" in kept:
        kept.copy("dino", out_dir)
        dino_net = dino.load(out_dir / "dino")
    else:
        dino_net = once("dino", dino.build(), lambda: dino.train(views, steps["dino"], seed, work_dir))
        dino.save(dino_net, out_dir / "dino")
    if "clip" in kept:
        kept.copy("clip", out_dir)
        clip_net = clip.load(out_dir / "clip")
    else:
        clip_net = once(
            "clip",
            clip.build(),
            lambda: clip.train(
                views, (dino.crops(views, True), dino.depth_crops(views)), dino_net, steps["clip"], seed, work_dir
            ),
        )
        clip.save(clip_net, out_dir / "clip")
    if "segmenter" in kept:
        kept.copy("segmenter", out_dir)
    else:
        net = once("segmenter", segmenter.build(), lambda: segmenter.train(views, steps["segmenter"], seed, work_dir))
        segmenter.save(net, out_dir / "segmenter")
    if "quality" in kept:
        kept.copy("quality", out_dir)
    else:
        head = once(
            "quality",
            quality.build(clip.PROJECTION),
            lambda: quality.train(clip_net, views, steps["quality"], seed, work_dir),
        )
        quality.save(head, out_dir / "quality")
    if "unet" in kept:
        kept.copy("unet", out_dir)
    else:

        def batches() -> unet.Batches:
            latents = _latents(views, autoencoder, seed, work_dir)
            return unet.Batches(views, latents.images, len(latents.depths))

        base = once("unet", unet.build(), lambda: unet.train(batches(), steps["unet"], seed, work_dir))
        adapter = once(
            "ip_adapter",
            unet.build_adapter(),
            lambda: unet.train_adapter(batches(), base, clip_net, steps["ip_adapter"], seed, work_dir),
        )
        unet.save(autoencoder, base, adapter, clip_net, out_dir / "unet")
    before = report.costs_of(kept.folder) if kept.nets else {}
    every = {name: costs[name] if name in costs else before[name] for name in steps}
    return report.write(out_dir, work_dir, held_out, every, seed, kept.nets)


def _train_flux(
    views: Views, autoencoder: AutoencoderKL, steps: int, seed: int, work_dir: Path
) -> tuple[nn.Module, Cost]:
    return flux.train(views, _latents(views, autoencoder, seed, work_dir), steps, seed, work_dir)


def _latents(views: Views, autoencoder: AutoencoderKL, seed: int, work_dir: Path) -> flux.Latents:
    encoded = work_dir / "latents.safetensors"
    if not encoded.exists():
        made = dataclasses.asdict(flux.encode_views(autoencoder, views, seed))
        save_file({name: torch.as_tensor(value).contiguous() for name, value in made.items()}, encoded)
    tensors = load_file(encoded)
    return flux.Latents(**tensors | {"degraded": tensors["degraded"].numpy()})


def _once(
    work_dir: Path, name: str, stamp: Mapping[str, int], empty: nn.Module, work: Callable[[], tuple[nn.Module, Cost]]
) -> tuple[nn.Module, Cost]:
    """The net and its cost: as finished before, or by doing the work now.

    `stamp` is what the net is made from. ValueError if what is in `work_dir` was made from something else.
    """
    weights, cost_file, stamp_file = (work_dir / f"{name}{end}" for end in (".done.pt", ".cost.json", ".stamp.json"))
    if stamp_file.exists() and (begun := json.loads(stamp_file.read_text(encoding="utf-8"))) != stamp:
        raise ValueError(f"{work_dir}: {name} was trained from {begun}, now asked for {stamp}; take another --work")
    if weights.exists() and cost_file.exists():
        empty.load_state_dict(torch.load(weights, weights_only=True))
        return empty.eval(), Cost(**json.loads(cost_file.read_text(encoding="utf-8")))
    write_json(stamp_file, stamp)
    log.info("training %s", name)
    net, cost = work()
    torch.save(net.state_dict(), weights)
    write_json(cost_file, dataclasses.asdict(cost))
    log.info("%s: %s", name, cost)
    return net, cost
