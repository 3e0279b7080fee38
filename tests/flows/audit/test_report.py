"""The audit's page: the facts of the store, everything in it escaped, and problems that cannot be overlooked."""

import json
from html.parser import HTMLParser
from pathlib import Path

import audit_answers as known
from forged_stages import change_samples, changed_record, reseal_from

from data.audit.parts import store_folder
from data.shards import Sample
from flows.audit.report import write_report

MARKUP = '<script>alert("x")</script><img src=x onerror=alert(1)>'


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page_and_json_say_what_the_records_say(workspace: Path) -> None:
    page, data, problems = write_report(workspace, None, deep=False)
    assert problems == 0 and page.parent == store_folder(workspace) / "report"
    facts, used = json.loads(data.read_bytes()), known.uses(workspace)
    assert facts["verification"]["holds"] and facts["behind"]["uses"]["as_target"] == used.target.total()
    text = page.read_text()
    for word in (facts["behind"]["checkpoint"]["checkpoint_sha256"], "CC0-1.0", "miniature-dino", "All links hold"):
        assert word in text
    assert "src=" not in text.replace("img-src", "") and "://" not in text


def test_markup_in_a_record_stays_text(workspace: Path) -> None:
    def forged(sample: Sample) -> Sample:
        return changed_record(sample, asset={**sample.record["asset"], "licence": MARKUP})

    def licence(sample: Sample) -> Sample:
        return changed_record(sample, licence=MARKUP, caption=MARKUP)

    change_samples(workspace, "assets", licence)
    change_samples(workspace, "shard", forged)
    reseal_from(workspace, "assets", "shard")
    page, _, problems = write_report(workspace, None, deep=True)
    assert problems
    seen = Tags()
    seen.feed(page.read_text())
    assert "script" not in seen.tags and "img" not in seen.tags
    assert any(MARKUP in text for text in seen.text)


def test_problems_are_on_the_page(workspace: Path, tmp_path: Path) -> None:
    (workspace / "artifacts" / "shard" / "stray.txt").write_text("")
    page, data, problems = write_report(workspace, tmp_path / "out", deep=False)
    assert problems == 1 and not json.loads(data.read_bytes())["verification"]["holds"]
    assert "1 problems" in page.read_text() and "stray.txt" in page.read_text()
