import pytest
import yaml

from configs.load import CONFIGS
from data.assets.licences import SPDX
from data.release.terms import FREE, UNKNOWN_TERMS, address_of, output_terms_of, terms_of


@pytest.mark.parametrize(
    ("licence", "attribution", "share_alike", "commercial", "derivatives"),
    [
        ("CC0-1.0", False, False, True, True),
        ("PDDL-1.0", False, False, True, True),
        ("CC-BY-4.0", True, False, True, True),
        ("CC-BY-SA-3.0", True, True, True, True),
        ("CC-BY-NC-4.0", True, False, False, True),
        ("CC-BY-NC-SA-4.0", True, True, False, True),
        ("CC-BY-ND-4.0", True, False, True, False),
        ("CC-BY-NC-ND-4.0", True, False, False, False),
        ("MIT", True, False, True, True),
        ("Apache-2.0", True, False, True, True),
        ("LicenseRef-FLUX.1-dev-NC", True, True, False, True),
    ],
)
def test_terms_are_those_of_the_licence(
    licence: str, attribution: bool, share_alike: bool, commercial: bool, derivatives: bool
) -> None:
    found = terms_of(licence)
    asked = (found.attribution, found.share_alike, found.commercial, found.derivatives)
    assert asked == (attribution, share_alike, commercial, derivatives)


@pytest.mark.parametrize("licence", ["LicenseRef-unknown", "LicenseRef-user", "SCEA", "CC-BY-5.0"])
def test_nothing_is_made_up_of_a_licence_that_nobody_here_knows(licence: str) -> None:
    assert terms_of(licence) == output_terms_of(licence) == UNKNOWN_TERMS


def test_a_licence_of_software_asks_nothing_of_what_the_model_makes() -> None:
    assert output_terms_of("Apache-2.0") == FREE != terms_of("Apache-2.0")


def test_a_non_commercial_model_makes_non_commercial_images_unless_its_text_says_otherwise() -> None:
    assert output_terms_of("CC-BY-NC-4.0").commercial is False
    flux = output_terms_of("LicenseRef-FLUX.1-dev-NC")
    assert flux.commercial is False and any("competitive" in text for text in flux.conditions)


def test_the_terms_of_every_registered_model_are_known() -> None:
    registry = yaml.safe_load((CONFIGS / "models.yaml").read_text(encoding="utf-8"))
    for licence in {entry["licence"] for entry in registry.values()}:
        assert terms_of(licence) != UNKNOWN_TERMS, licence


def test_every_spdx_licence_has_an_address() -> None:
    assert all(str(address_of(name)).startswith("https://") for name in SPDX)
    assert address_of("CC-BY-NC-SA-3.0") == "https://creativecommons.org/licenses/by-nc-sa/3.0/"
    assert address_of("CC0-1.0") == "https://creativecommons.org/publicdomain/zero/1.0/"
    assert address_of("MIT") == "https://spdx.org/licenses/MIT.html"
    assert address_of("LicenseRef-user") is None
