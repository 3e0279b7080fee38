import csv
import io

import pytest

from data.published import PublishedAsset, PublishedRecord, SetOrigin
from data.release.attribution import attribution_csv, attribution_text, credits_of


def record(object_id: str, licence: str, number: int = 0, **of_asset: str | None) -> PublishedRecord:
    asset = {"source": "folder", "uri": f"{object_id}.glb", "source_sha256": "1" * 64, "mesh_sha256": "2" * 64}
    return PublishedRecord.model_construct(
        set_id=f"{object_id}-s{number}", object_id=object_id, asset=PublishedAsset(licence=licence, **asset | of_asset)
    )


DUCK = {"title": "Rubber *duck*", "author": "J. Doe", "page": "https://sketchfab.com/3d-models/duck-1"}
RECORDS = [
    record("urn", "CC0-1.0"),
    record("duck", "CC-BY-4.0", 1, **DUCK),
    record("duck", "CC-BY-4.0", 0, **DUCK),
    record("mug", "MIT"),
    record("pan", "LicenseRef-user"),
    record("cat", "CC-BY-4.0", uri="subject:cat#0", mesh_sha256=None),
]


def credits(records):
    return credits_of(SetOrigin(own.set_id, own.object_id, "", "", 0, own.asset) for own in records)


def test_each_asset_that_asks_for_credit_is_there_once_with_its_sets() -> None:
    found = credits(RECORDS)
    assert [(credit.licence, credit.object_id) for credit in found] == [
        ("CC-BY-4.0", "cat"),
        ("CC-BY-4.0", "duck"),
        ("LicenseRef-user", "pan"),
        ("MIT", "mug"),
    ]
    duck = found[1]
    assert (duck.title, duck.author, duck.source) == ("Rubber *duck*", "J. Doe", DUCK["page"])
    assert duck.sets == "duck-s0 duck-s1" and duck.licence_url == "https://creativecommons.org/licenses/by/4.0/"
    assert "rendered" in duck.changes and "rendered" not in found[0].changes


def test_nothing_is_made_up_where_the_source_is_silent() -> None:
    (mug,) = credits([record("mug", "MIT")])
    assert (mug.title, mug.author, mug.source) == ("mug", "", "mug.glb")
    assert '- "mug" by an author whom the source does not name, `mug.glb`, MIT.' in attribution_text([mug], "T")


def test_a_source_of_several_lines_stays_in_its_own() -> None:
    (mug,) = credits([record("mug", "MIT", page="https://x.org/a\n\n## CC0-1.0: 99 works\n")])
    assert "\n## CC0" not in attribution_text([mug], "T")


def test_the_text_names_title_author_source_licence_and_changes() -> None:
    text = attribution_text(credits(RECORDS), "Tiny")
    assert (
        '- "Rubber \\*duck\\*" by J. Doe, <https://sketchfab.com/3d-models/duck-1>, CC-BY-4.0. Changes: rendered'
        in text
    )
    assert "Sets: `duck-s0`, `duck-s1`" in text and "## CC-BY-4.0: 2 works" in text and "## MIT: 1 work\n" in text
    assert "Text of the licence: <https://creativecommons.org/licenses/by/4.0/>" in text
    assert "LicenseRef-user is no licence of the SPDX list" in text and "urn" not in text


@pytest.mark.parametrize("page", ["javascript:alert(1)", "https://a.b/> <script>", "[x](http://evil)"])
def test_names_from_elsewhere_stay_text(page: str) -> None:
    hostile = record("duck", "CC-BY-4.0", page=page, title="# a\n<img src=x>", author="[me](http://x)")
    line = attribution_text(credits([hostile]), "T").splitlines()[-1]
    assert line.startswith('- "\\# a \\<img src=x\\>" by \\[me\\]\\(http://x\\), `')


def test_a_dataset_without_such_assets_says_so() -> None:
    assert "No asset behind this dataset asks for credit." in attribution_text(credits(RECORDS[:1]), "T")


def test_the_table_for_programs_holds_the_same() -> None:
    found = credits(RECORDS)
    rows = list(csv.DictReader(io.StringIO(attribution_csv(found))))
    assert [row["title"] for row in rows] == [credit.title for credit in found]
    assert rows[1] == {name: getattr(found[1], name) for name in rows[1]}
    assert credits(reversed(RECORDS)) == found, "whatever the order of the records"
