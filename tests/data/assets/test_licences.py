import pytest

from data.assets.licences import SPDX, UNKNOWN, UnknownLicenceError, allow_list, normalise


@pytest.mark.parametrize(
    ("given", "spdx"),
    [
        ("by", "CC-BY-4.0"),
        ("by-sa", "CC-BY-SA-4.0"),
        ("by-nc", "CC-BY-NC-4.0"),
        ("by-nc-sa", "CC-BY-NC-SA-4.0"),
        ("by-nd", "CC-BY-ND-4.0"),
        ("by-nc-nd", "CC-BY-NC-ND-4.0"),
        ("cc0", "CC0-1.0"),
        ("cc-by-4.0", "CC-BY-4.0"),
        (" CC BY-SA 4.0 ", "CC-BY-SA-4.0"),
        ("CC_BY_3.0", "CC-BY-3.0"),
        ("https://creativecommons.org/licenses/by-nc/4.0/", "CC-BY-NC-4.0"),
        ("creativecommons.org/publicdomain/zero/1.0/legalcode", "CC0-1.0"),
        ("mit", "MIT"),
        ("LicenseRef-Acme.Internal-2", "LicenseRef-Acme.Internal-2"),
        (UNKNOWN, UNKNOWN),
    ],
)
def test_every_spelling_becomes_its_spdx_identifier(given: str, spdx: str) -> None:
    assert normalise(given) == spdx


def test_spdx_identifiers_are_fixed_points() -> None:
    assert [normalise(name) for name in SPDX] == list(SPDX)


@pytest.mark.parametrize(
    "given", ["", "cc-by", "CC-BY-5.0", "editorial", "free", "https://example.org/licenses/by/4.0/"]
)
def test_unknown_name_is_an_error_that_lists_the_known_ones(given: str) -> None:
    with pytest.raises(UnknownLicenceError, match=r"CC-BY-SA-4\.0") as caught:
        normalise(given)
    assert repr(given) in str(caught.value) and "by-nc-sa" in str(caught.value)


def test_allow_list_refuses_a_misspelt_entry() -> None:
    assert allow_list(["by", "CC0-1.0", "cc-by-4.0"]) == {"CC-BY-4.0", "CC0-1.0"}
    with pytest.raises(UnknownLicenceError, match="'CC-BY-4'"):
        allow_list(["CC0-1.0", "CC-BY-4"])
