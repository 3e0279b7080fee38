"""Replay: the generator that made the dataset makes the same images again, and no others."""

import io
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import audit_answers as known
import numpy as np
import pytest
from audited_workspace import RUNTIME, STAGES
from forged_stages import change_samples, replace, reseal_from
from PIL import Image

from configs.errors import ConfigError
from data.audit.parts import AuditError
from data.chain import verify_chain
from data.images import decode_png, encode_png
from data.release.marking import mark_png
from data.shards import Sample
from flows.audit import recorded
from flows.audit.replay import differs, replay
from flows.audit.verify import record_problems


def test_what_was_published_comes_out_again_to_the_byte(finished: Path) -> None:
    rows = replay(finished, 3, seed=1, runtime=RUNTIME)
    assert sum(row.drawn for row in rows) == 3
    assert not [row for row in rows if differs(row, tolerance=0)]
    published = known.records(finished, "shard")
    sets = {row.sample_id.rpartition("-")[0] for row in rows}
    assert {row.sample_id for row in rows} == {
        image["sample_id"] for key in sets for image in published[key]["samples"]
    }
    assert {row.sample_id for row in rows if row.drawn} == drawn(finished, 3, seed=1)


def drawn(workspace: Path, count: int, seed: int) -> set[str]:
    return set(random.Random(seed).sample(sorted(known.pictures(workspace)), count))


def test_an_image_that_was_forged_everywhere_is_found_by_replay_alone(workspace: Path) -> None:
    victim = next(iter(known.pictures(workspace)))
    key, _, index = victim.rpartition("-")

    def brighter(sample: Sample, finish: Callable[[bytes], bytes] = bytes) -> Sample:
        if sample.key != key:
            return sample
        pixels = decode_png(sample.files[f"{index}.png"]).copy()
        pixels[4, 5] = np.where(pixels[4, 5] < 128, pixels[4, 5] + 9, pixels[4, 5] - 9)
        return Sample(sample.key, sample.record, {**sample.files, f"{index}.png": finish(encode_png(pixels))})

    change_samples(workspace, "generate", brighter)
    change_samples(workspace, "shard", partial(brighter, finish=mark_png))
    reseal_from(workspace, "generate", "shard")
    assert verify_chain(workspace, STAGES[:-1]) == []
    assert list(record_problems(workspace, False, lambda line: None, [])) == []
    seed = next(seed for seed in range(1000) if victim in drawn(workspace, 1, seed))
    rows = replay(workspace, 1, seed, RUNTIME)
    (row,) = (row for row in rows if differs(row, tolerance=0))
    assert (row.sample_id, row.max_difference) == (victim, 9)
    assert row.differing == pytest.approx(1 / 64**2)
    assert differs(row, tolerance=8) and not differs(row, tolerance=9)


def test_tampered_tars_and_counts_that_are_not_there_are_errors(workspace: Path) -> None:
    with pytest.raises(AuditError, match=r"replay 500: the dataset holds \d+ images; ask for 1 to"):
        replay(workspace, 500, seed=0, runtime=RUNTIME)
    for tar in (workspace / "artifacts" / "shard").glob("*.tar"):
        data = bytearray(tar.read_bytes())
        data[-1] ^= 1
        replace(tar, bytes(data))
    with pytest.raises(AuditError, match="the file was changed after it was finished"):
        replay(workspace, 1, seed=0, runtime=RUNTIME)


def test_another_version_of_the_code_cannot_be_compared(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "versions.yaml").write_text("generate: 1\n")
    monkeypatch.setattr(recorded, "CONFIGS", tmp_path)
    with pytest.raises(ConfigError, match=r"generate was made by version \d+ of its code, here is version 1"):
        replay(finished, 1, seed=0, runtime=RUNTIME)


def test_an_image_saved_anew_differs_in_bytes_and_in_no_value() -> None:
    from flows.audit.replay import _difference

    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=0)
    assert _difference(encode_png(pixels), buffer.getvalue()) == (0, 0.0, None)
    assert _difference(encode_png(pixels), encode_png(pixels[:2]))[0] is None
    assert _difference(b"no picture", encode_png(pixels))[2].startswith("cannot be read")
