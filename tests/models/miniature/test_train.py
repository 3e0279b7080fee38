"""The miniature's training: captions that hold, splits that hold, and a whole run in tiny steps that resumes."""

import json
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from diffusers import FluxControlPipeline
from transformers import AutoTokenizer

from data.ids import split_of
from models.flux.generator import FluxGenerator
from models.generator import GenerateSettings, SetRequest
from models.miniature import train
from models.miniature.dataset import EVAL_SHARE, SPLIT_SEED, Views, objects_of, render_views, unit_scene
from models.miniature.scenes import OTHER_OBJECTS, SCENES, full_caption
from models.miniature.tokenizers import LENGTH, build_tokenizer
from models.miniature.training import clip, flux, segmenter
from models.miniature.training.captions import BLURRED, draw_caption
from models.miniature.training.common import Cost, Draws, fit
from models.miniature.training.degrade import DEGRADATIONS
from models.miniature.world import CATEGORIES, RIGID, caption, export_glb, sample_specs
from models.scorers.clip import ClipScorer
from models.scorers.identity import IdentityScorer
from models.scorers.quality import QualityScorer
from models.scorers.segmenter import Segmenter

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def views() -> Views:
    """Random pictures of eight objects, two views each."""
    rng = np.random.default_rng(0)
    count = 16
    masks = np.zeros((count, 64, 64), bool)
    masks[:, 20:50, 16:40] = True
    return Views(
        ids=tuple(spec.id for spec in sample_specs(count // 2, 0)),
        images=rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8),
        masks=masks,
        depths=masks * np.uint8(200),
        objects=np.arange(count) // 2,
        scenes=np.arange(count) % len(SCENES),
        others=np.arange(count) % 3 - 1,
    )


@pytest.fixture(scope="module")
def trained(views: Views, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    out, work = tmp_path_factory.mktemp("weights"), tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.report, "STEPS", 2)
        train.finish(views, views, dict.fromkeys(train.STEPS, 2), out, work, seed=0)
    return out, work


def test_no_object_of_the_evaluation_split_is_trained_on():
    for split in ("train", "eval"):
        specs = objects_of(split, 60, seed=0)
        assert len(specs) > 40
        assert {split_of(spec.id, EVAL_SHARE, SPLIT_SEED) for spec in specs} == {split}


def test_captions_are_true_and_within_the_vocabulary_and_the_length():
    tokenizer = build_tokenizer(start=True)
    rng = Random(0)
    for spec in sample_specs(60, 0, categories=CATEGORIES):
        text = draw_caption(spec, rng.randrange(len(SCENES)), rng.choice([None, *OTHER_OBJECTS]), rng)
        ids = tokenizer(f"{text}, {BLURRED}").input_ids
        assert tokenizer.unk_token_id not in ids and len(ids) <= LENGTH
        assert spec.category in text
        colours = set(text.split(" next to ")[0].split()) & {"red", "green", "blue", "yellow", "pink"}
        assert colours <= {spec.primary, spec.secondary}


def test_captions_leave_colours_open_often_enough_and_name_them_often_enough():
    rng, spec = Random(1), sample_specs(1, 0)[0]
    texts = [draw_caption(spec, 0, None, rng) for _ in range(400)]
    counts = Counter(spec.primary in text.split() for text in texts)
    assert 0.3 < counts[True] / 400 < 0.75


def test_the_longest_prompt_of_the_world_fits():
    tokenizer = build_tokenizer(start=True)
    longest = max(
        len(tokenizer(full_caption(caption(spec, "full"), scene, other)).input_ids)
        for spec in sample_specs(60, 0, categories=CATEGORIES)
        for scene in SCENES
        for other in OTHER_OBJECTS
    )
    assert longest <= LENGTH


def test_tokenizer_survives_saving(tmp_path: Path):
    build_tokenizer(start=True).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.model_max_length == LENGTH
    ids = loaded("A red zzz, mug").input_ids
    assert loaded.convert_ids_to_tokens(ids) == ["<start>", "a", "red", "<unk>", ",", "mug", "<end>"]


def test_training_scene_is_the_loaded_glb():
    from data.meshes import load_mesh

    spec = sample_specs(3, 2)[1]
    ours, loaded = unit_scene(spec), load_mesh(export_glb(spec), "glb")
    np.testing.assert_allclose(ours.bounds, loaded.bounds, atol=1e-5)
    faces = sorted(len(mesh.faces) for mesh in ours.geometry.values())
    assert faces == sorted(len(mesh.faces) for mesh in loaded.geometry.values())


def test_views_are_rendered_once_and_equal_again(tmp_path: Path):
    specs = [spec for spec in objects_of("train", 60, 0) if spec.category in RIGID][:2]
    views = render_views(specs, 2, 0, tmp_path / "a", workers=1)
    again = render_views(specs, 2, 0, tmp_path / "b", workers=1)
    assert len(views) == 4 and views.objects.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(views.images, again.images)
    assert (views.masks.mean(axis=(1, 2)) > 0.04).all()
    assert ((views.depths > 0) <= views.masks).all()
    assert all(views.scenes[0::2] != views.scenes[1::2])
    stamp = (tmp_path / "a" / "00000.npz").stat().st_mtime_ns
    render_views(specs, 2, 0, tmp_path / "a", workers=1)
    assert (tmp_path / "a" / "00000.npz").stat().st_mtime_ns == stamp
    others = objects_of("train", 40, 1)[:2]
    assert render_views(others, 2, 0, tmp_path / "a", workers=1).ids == tuple(spec.id for spec in others)


def test_a_resumed_training_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("models.miniature.training.common.CHECKPOINT_SECONDS", -1.0)

    def run(folder: Path, stop_at: int | None = None) -> torch.Tensor:
        torch.manual_seed(0)
        net = torch.nn.Linear(2, 1)

        def loss_of(draws: Draws) -> torch.Tensor:
            if draws.step == stop_at:
                raise KeyboardInterrupt
            rows = torch.from_numpy(draws.rows(10, 4)).float()[:, None].expand(-1, 2)
            noise = torch.randn(rows.shape, generator=draws.noise) + torch.rand(rows.shape)
            return (net(rows + noise) - draws.words.random() - draws.numbers.random()).square().mean()

        fit("x", net, 6, 0.1, 4, loss_of, folder, seed=0)
        return net.weight.detach()

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=3)
    assert torch.equal(run(tmp_path / "cut"), whole)


def test_fit_stops_at_a_loss_that_is_not_finite(tmp_path: Path):
    net = torch.nn.Linear(1, 1)
    with pytest.raises(FloatingPointError, match="step 0"):
        fit("x", net, 2, 0.1, 1, lambda _: net(torch.ones(1, 1)).sum() * float("nan"), tmp_path, seed=0)


def test_an_epoch_covers_every_item_once_and_the_next_in_another_order():
    epochs = [np.concatenate([Draws(0, step).rows(10, 5) for step in pair]) for pair in ((0, 1), (2, 3))]
    assert sorted(epochs[0].tolist()) == sorted(epochs[1].tolist()) == list(range(10))
    assert epochs[0].tolist() != epochs[1].tolist()
    with pytest.raises(ValueError, match="3 items"):
        Draws(0, 0).rows(3, 4)


def test_a_work_folder_of_another_training_is_refused(tmp_path: Path):
    def work() -> tuple[torch.nn.Module, Cost]:
        return torch.nn.Linear(1, 1), Cost(1, 1, 0.0, 0.0)

    made, _ = train._once(tmp_path, "net", {"seed": 0}, torch.nn.Linear(1, 1), work)
    again, _ = train._once(tmp_path, "net", {"seed": 0}, torch.nn.Linear(1, 1), work)
    assert torch.equal(made.weight, again.weight)
    with pytest.raises(ValueError, match=r"'seed': 0.*'seed': 1"):
        train._once(tmp_path, "net", {"seed": 1}, torch.nn.Linear(1, 1), work)


def test_views_trained_together_see_what_sampling_shows():
    objects = torch.zeros(400, 64, dtype=torch.bool)
    objects[:, 27] = True
    sigma = torch.tensor([0.95, 0.4]).repeat_interleave(4).repeat(50)
    visible = flux._visible(objects, sigma, 4, torch.Generator().manual_seed(0)).sum(dim=1)
    first, later = visible[sigma > 0.9], visible[sigma < 0.9]
    assert set(first.tolist()) == {0, 64}
    assert set(later.tolist()) == {0, 9, 64}
    assert 0.6 < (visible > 0).float().mean() < 0.9
    assert 0.05 < (later == 64).float().mean() < 0.3
    whole = (later == 64).unflatten(0, (-1, 4)).any(dim=1)
    assert not ((later == 9).unflatten(0, (-1, 4)).any(dim=1) & whole).any()


def test_a_creature_takes_another_pose_in_every_view(tmp_path: Path):
    spec = sample_specs(1, 0, categories=("monkey",))[0]
    views = render_views([spec], 3, 0, tmp_path, workers=1)
    assert len(views) == 3 and len(set(views.scenes.tolist())) == 3
    poses = [unit_scene(spec, pose).bounds for pose in range(3)]
    assert not np.allclose(poses[0], poses[1])


def test_same_captions_share_the_contrastive_target():
    logits = torch.tensor([[5.0, 5.0, -5.0], [5.0, 5.0, -5.0], [-5.0, -5.0, 5.0]])
    same = clip.same_caption(["a", "a", "b"])
    assert same.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    # Two rows whose mass is halved between two right answers, one row that is certain.
    assert clip.soft_cross_entropy(logits, same).item() == pytest.approx(2 * np.log(2) / 3, abs=1e-3)


def test_every_degradation_grows_with_its_severity():
    image = sample_image()
    for name, degrade in DEGRADATIONS.items():
        errors = [
            np.abs(degrade(image, severity, np.random.default_rng(0)).astype(float) - image).mean()
            for severity in (0.1, 1.0)
        ]
        assert errors[0] < errors[1], name


def sample_image() -> np.ndarray:
    rows, columns = np.mgrid[:64, :64]
    return np.stack([rows * 4, columns * 4, (rows // 8 + columns // 8) % 2 * 255], axis=-1).astype(np.uint8)


def test_every_folder_loads_with_its_standard_loader(trained: tuple[Path, Path], views: Views):
    out, _ = trained
    images, masks = list(views.images[:2]), list(views.masks[:2])
    embedded = ClipScorer.from_pretrained(out / "clip", "cpu", torch.float32).embed_images(images)
    assert embedded.shape == (2, clip.PROJECTION)
    assert IdentityScorer.from_pretrained(out / "dino", "cpu", torch.float32).embed(images, masks).shape[0] == 2
    assert QualityScorer.from_pretrained(out / "quality", "cpu", torch.float32).scores(embedded).shape == (2,)
    assert Segmenter.from_pretrained(out / "segmenter", "cpu", torch.float32).masks(images)[0].shape == (64, 64)
    generator = FluxGenerator.from_pretrained(out / "flux")
    assert generator.takes_depth
    settings = GenerateSettings(64, 64, steps=2, msa=False, warp="none")
    image = generator.generate(SetRequest(prompts=("a red mug",), seeds=(1,)), settings).images
    assert image.shape == (1, 64, 64, 3)
    pipeline = FluxControlPipeline.from_pretrained(out / "flux", torch_dtype=torch.float32)
    assert pipeline.tokenizer_2.model_max_length == LENGTH
    assert pipeline.scheduler.config.shift == flux.TIME_SHIFT


def test_processors_give_the_pixels_that_training_used(trained: tuple[Path, Path], views: Views):
    out, _ = trained
    scorer = ClipScorer.from_pretrained(out / "clip", "cpu", torch.float32)
    ours = clip.embed_images(scorer.model, views.images[:3]).numpy()
    np.testing.assert_allclose(scorer.embed_images(list(views.images[:3])), ours, atol=1e-5)
    net = Segmenter.from_pretrained(out / "segmenter", "cpu", torch.float32)
    np.testing.assert_array_equal(
        np.stack(net.masks(list(views.images[:3]))), segmenter.segment(net.model, views.images[:3])
    )


def test_results_name_every_net_and_a_second_run_trains_nothing(
    trained: tuple[Path, Path], views: Views, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, work = trained
    record = json.loads((out / "results.json").read_text())
    assert set(record["costs"]) == set(train.STEPS)
    text = (out / "RESULTS.md").read_text()
    assert all(f"| {name} |" in text for name in train.STEPS)

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    for module in (train.vae, train.clip, train.dino, train.segmenter, train.quality, train.flux, train.unet):
        monkeypatch.setattr(module, "train", refuse)
    monkeypatch.setattr(train.report, "STEPS", 2)
    steps = dict.fromkeys(train.STEPS, 2)
    train.finish(views, views, steps, tmp_path, work, seed=0)
    for path in sorted(out.rglob("*.safetensors")):
        assert (tmp_path / path.relative_to(out)).read_bytes() == path.read_bytes(), path.name


def test_an_autoencoder_can_be_kept(
    trained: tuple[Path, Path], views: Views, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, _ = trained
    monkeypatch.setattr(train.report, "STEPS", 2)
    monkeypatch.setattr(train.vae, "train", None)
    kept = train.Kept(out, ("vae",))
    train.finish(views, views, dict.fromkeys(train.STEPS, 2), tmp_path / "out", tmp_path / "work", 1, kept)
    weights = "flux/vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (out / weights).read_bytes()
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["kept"] == ["vae"]
    assert record["costs"]["vae"] == json.loads((out / "results.json").read_text())["costs"]["vae"]
    assert "not trained in this run: vae" in (tmp_path / "out" / "RESULTS.md").read_text()


def test_a_net_can_be_added_to_weights_that_stay_as_they_are(
    trained: tuple[Path, Path], views: Views, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, _ = trained
    monkeypatch.setattr(train.report, "STEPS", 2)
    others = ("vae", "flux", "dino", "clip", "segmenter", "quality")
    for module in (train.vae, train.flux, train.dino, train.clip, train.segmenter, train.quality):
        monkeypatch.setattr(module, "train", None)
    steps = dict.fromkeys(train.STEPS, 3)
    train.finish(views, views, steps, tmp_path / "out", tmp_path / "work", 1, train.Kept(out, others))
    for path in sorted(out.rglob("*.safetensors")):
        again = (tmp_path / "out" / path.relative_to(out)).read_bytes()
        changed = path.relative_to(out).as_posix() in (
            "unet/unet/diffusion_pytorch_model.safetensors",
            "unet/text_encoder/model.safetensors",
            "unet/ip_adapter/ip-adapter-plus.safetensors",
        )
        assert (again != path.read_bytes()) == changed, path.name


def test_a_net_is_not_kept_without_the_one_it_was_made_for(tmp_path: Path):
    with pytest.raises(ValueError, match="quality is kept, and clip"):
        train.Kept(tmp_path, ("quality",))
    with pytest.raises(ValueError, match="'vea' cannot be kept"):
        train.Kept(tmp_path, ("vea",))
