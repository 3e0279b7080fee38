"""Models are found, verified against their pin, and loaded once; every refusal names the model and the fix."""

import hashlib
import json
import os
import shlex

import numpy as np
import pytest
import tiny_models
import torch

from configs.schema import ModelRef
from models import customizer, registry
from models.registry import ModelError


@pytest.fixture(scope="module")
def quality(tmp_path_factory):
    torch.set_num_threads(1)
    return tiny_models.quality_folder(tmp_path_factory.mktemp("models") / "quality")


def copy_of(folder, target):
    target.mkdir(parents=True)
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_folder_digest_is_of_sorted_names_and_contents(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.txt").write_bytes(b"one")
    (tmp_path / "a.txt").write_bytes(b"two")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "lock").write_bytes(b"not part of the model")
    listed = [["a.txt", hashlib.sha256(b"two").hexdigest()], ["b/x.txt", hashlib.sha256(b"one").hexdigest()]]
    text = json.dumps(listed, separators=(",", ":"))
    assert registry.folder_files(tmp_path) == listed
    assert registry.folder_digest(tmp_path) == hashlib.sha256(text.encode()).hexdigest()


def test_folder_digest_sees_a_change_within_one_process(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    before = registry.folder_digest(tmp_path)
    path.write_bytes(b"two")
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1000))
    assert registry.folder_digest(tmp_path) != before


def test_a_pinned_folder_is_loaded_once_and_shared(quality):
    ref = tiny_models.ref_of(quality, "quality_head")
    assert registry.locate(ref) == quality
    assert registry.load(ref, "cpu", "float32") is registry.load(ref, "cpu", "float32")
    assert registry.load_with(registry.LOADERS, ref, "cpu", "float32") is not registry.load(ref, "cpu", "float32")


def test_a_changed_file_is_refused(quality, tmp_path):
    folder = copy_of(quality, tmp_path / "quality")
    ref = tiny_models.ref_of(folder, "quality_head")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=f"model tiny-quality: .* the pin is {ref.revision}.*revision"):
        registry.load(ref, "cpu", "float32")


def test_a_missing_folder_is_named_with_the_fix(tmp_path, monkeypatch):
    monkeypatch.setenv(registry.WEIGHTS_VARIABLE, str(tmp_path))
    ref = ModelRef(name="mini", architecture="clip", source="miniature:clip", revision="0" * 64, licence="Apache-2.0")
    with pytest.raises(ModelError, match=r"model mini: no folder .*clip; .*syncd miniature train"):
        registry.locate(ref)
    elsewhere = ref.model_copy(update={"source": f"folder:{tmp_path}/none"})
    with pytest.raises(ModelError, match=r"model mini: no folder .*none; put the model there"):
        registry.locate(elsewhere)


def test_an_unset_revision_says_how_to_make_the_weights(quality, monkeypatch):
    monkeypatch.setenv(registry.WEIGHTS_VARIABLE, str(quality.parent))
    ref = ModelRef(name="mini", architecture="clip", source="miniature:quality", revision="unset", licence="Apache-2.0")
    with pytest.raises(ModelError, match=r"syncd miniature train.*python -m models.registry pin"):
        registry.locate(ref)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "disk:/x"}, "allowed: miniature:FOLDER, hub:OWNER/NAME, folder:PATH"),
        ({"architecture": "vgg"}, "architecture 'vgg'; known: blip_vqa, causal_lm, clip"),
        ({"source": "hub:owner/name", "revision": "main"}, "'main' of owner/name is not a pin"),
    ],
)
def test_an_unusable_entry_says_what_is_allowed(quality, change, message):
    ref = tiny_models.ref_of(quality, "quality_head").model_copy(update=change)
    with pytest.raises(ModelError, match=message):
        registry.load(ref, "cpu", "float32")


def test_a_folder_of_another_architecture_is_refused(quality):
    ref = tiny_models.ref_of(quality, "dinov2")
    with pytest.raises(ModelError, match="cannot be loaded as dinov2"):
        registry.load(ref, "cpu", "float32")


def test_truncated_weights_are_refused(quality, tmp_path):
    folder = copy_of(quality, tmp_path / "quality")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ModelError, match="cannot be loaded as quality_head"):
        registry.load(tiny_models.ref_of(folder, "quality_head"), "cpu", "float32")


def hub_cache(root, repository, commit, folder):
    """What `hf download` leaves in the cache."""
    place = root / f"models--{repository.replace('/', '--')}"
    copy_of(folder, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    return place


def test_a_hub_model_comes_from_the_local_cache_at_its_commit(quality, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub_cache(tmp_path, "owner/head", "a" * 40, quality)
    ref = ModelRef(name="head", architecture="quality_head", source="hub:owner/head", revision="a" * 40, licence="MIT")
    assert registry.load(ref, "cpu", "float32").scores(np.zeros((1, tiny_models.EMBEDDING), np.float32)).shape == (1,)
    other = ref.model_copy(update={"revision": "b" * 40})
    with pytest.raises(ModelError, match=r"hf download owner/head --revision bbbb.*offline: false") as caught:
        registry.locate(other)
    command = str(caught.value).split("fetch it with: ")[1].split("; ")[0]
    words = shlex.split(command)[2:]
    assert words[:3] == ["owner/head", "--revision", "b" * 40]
    assert words[3:] == [word for pattern in registry.UNREAD for word in ("--exclude", pattern)]


def test_a_download_that_was_broken_off_is_told_from_none(quality, tmp_path, monkeypatch):
    from huggingface_hub.errors import IncompleteSnapshotError

    def broken_off(*_: object, **__: object) -> None:
        raise IncompleteSnapshotError(
            "The cached snapshot is incomplete: 2 file(s) are missing (a.safetensors, b.json). Re-run",
            snapshot_path=tmp_path,
        )

    monkeypatch.setattr("huggingface_hub.snapshot_download", broken_off)
    ref = ModelRef(name="head", architecture="quality_head", source="hub:owner/head", revision="a" * 40, licence="MIT")
    with pytest.raises(ModelError, match=r"as a whole: 2 file\(s\) are missing \(a.safetensors, b.json\); fetch"):
        registry.locate(ref)


def test_pin_rewrites_revisions_of_miniature_models_and_nothing_else(quality, tmp_path, monkeypatch):
    monkeypatch.setenv(registry.WEIGHTS_VARIABLE, str(quality.parent))
    entries = tmp_path / "models.yaml"
    before = (
        "# Every model.\n"
        "mini-quality:  # the head\n"
        "  architecture: quality_head\n"
        "  source: miniature:quality\n"
        "  # which bytes\n"
        "  revision: unset  # kept comment\n"
        "  licence: Apache-2.0\n"
        "real:\n"
        "  architecture: clip\n"
        "  source: hub:owner/clip\n"
        f"  revision: {'c' * 40}\n"
        "  licence: MIT\n"
    )
    entries.write_text(before)
    digest = registry.folder_digest(quality)
    assert registry.pin_miniature(entries) == {"mini-quality": digest}
    expected = before.replace("unset", digest)
    assert entries.read_text() == expected
    assert registry.pin_miniature(entries) == {"mini-quality": digest}
    assert entries.read_text() == expected


def test_pin_leaves_what_was_never_made_unset_and_refuses_what_is_gone(quality, tmp_path, monkeypatch):
    monkeypatch.setenv(registry.WEIGHTS_VARIABLE, str(quality.parent))
    entries = tmp_path / "models.yaml"
    text = "later:\n  architecture: unet\n  source: miniature:later\n  revision: unset\n  licence: MIT\n"
    entries.write_text(text)
    assert registry.pin_miniature(entries) == {"later": "unset"} and entries.read_text() == text
    entries.write_text(text.replace("unset", "0" * 64))
    with pytest.raises(registry.ModelError, match=r"model later: no folder .*later; make it with"):
        registry.pin_miniature(entries)


def test_every_registered_architecture_of_models_yaml_has_a_loader():
    import yaml

    from configs.load import CONFIGS

    entries = yaml.safe_load((CONFIGS / "models.yaml").read_text())
    for name, entry in entries.items():
        assert entry["architecture"] in registry.LOADERS.keys() | customizer.LOADERS.keys(), name
