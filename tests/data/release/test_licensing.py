"""The output licence: what one input forbids all of it forbids, and licences merge only where they allow it."""

from dataclasses import asdict
from itertools import combinations

import pytest

from data.release.licensing import MIXED, Input, OutputLicence, asset_inputs, base_model, conclude, maker, merged

FLUX, LLAMA = "LicenseRef-FLUX.1-dev-NC", "LicenseRef-Llama-3"
APACHE = maker("generator", "miniature@1", "Apache-2.0")
FLUX_MADE = maker("generator", "flux@1", FLUX)


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["CC0-1.0"], "CC0-1.0"),
        (["PDDL-1.0", "CC0-1.0"], "CC0-1.0"),
        (["CC0-1.0", "CC-BY-3.0"], "CC-BY-3.0"),
        (["CC-BY-3.0", "CC-BY-4.0"], "CC-BY-4.0"),
        (["CC-BY-4.0", "CC-BY-NC-3.0"], "CC-BY-NC-4.0"),
        (["CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0"], "CC-BY-SA-4.0"),
        (["CC-BY-SA-3.0", "CC-BY-SA-4.0"], "CC-BY-SA-4.0"),
        (["CC-BY-NC-4.0", "CC-BY-NC-SA-3.0"], "CC-BY-NC-SA-4.0"),
        (["CC-BY-NC-SA-4.0", "CC-BY-SA-4.0"], MIXED),
        (["CC-BY-NC-4.0", "CC-BY-SA-4.0"], MIXED),
        (["CC-BY-4.0", "CC-BY-ND-4.0"], MIXED),
        (["CC-BY-ND-4.0"], "CC-BY-ND-4.0"),
        (["CC-BY-4.0", "MIT"], MIXED),
        (["CC-BY-4.0", "LicenseRef-user"], MIXED),
        (["CC0-1.0", "LicenseRef-user"], "LicenseRef-user"),
    ],
)
def test_licences_of_assets_become_one_where_they_allow_it(licences: list[str], expected: str) -> None:
    assert merged(licences) == merged(licences[::-1]) == expected


CHART = {
    ("BY", "BY"): "BY",
    ("BY", "BY-NC"): "BY-NC",
    ("BY", "BY-SA"): "BY-SA",
    ("BY", "BY-NC-SA"): "BY-NC-SA",
    ("BY-NC", "BY-NC"): "BY-NC",
    ("BY-NC", "BY-SA"): None,
    ("BY-NC", "BY-NC-SA"): "BY-NC-SA",
    ("BY-SA", "BY-SA"): "BY-SA",
    ("BY-SA", "BY-NC-SA"): None,
    ("BY-NC-SA", "BY-NC-SA"): "BY-NC-SA",
}
"""Creative Commons' chart of which licences may be combined in one work (wiki.creativecommons.org)."""


@pytest.mark.parametrize(("pair", "result"), CHART.items())
def test_pairs_merge_as_in_the_chart_of_creative_commons(pair: tuple[str, str], result: str | None) -> None:
    assert merged([f"CC-{kind}-4.0" for kind in pair]) == (f"CC-{result}-4.0" if result else MIXED)


def test_an_input_more_never_frees_anything() -> None:
    names = ("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "MIT", "LicenseRef-user")
    rank = {
        "commercial_use": ("yes", "unknown", "no"),
        "derivatives_allowed": ("yes", "unknown", "no"),
        "attribution_required": ("no", "unknown", "yes"),
        "share_alike": ("no", "unknown", "yes"),
    }
    for count in (1, 2, 3):
        for chosen in combinations(names, count):
            inputs = asset_inputs(dict.fromkeys(chosen, 1))
            before, after = conclude([*inputs, APACHE]), conclude([*inputs, FLUX_MADE])
            for more in names:
                wider = conclude([*asset_inputs(dict.fromkeys({*chosen, more}, 1)), APACHE])
                for question, order in rank.items():
                    answers = [order.index(getattr(item, question)) for item in (before, wider)]
                    assert answers == sorted(answers), (chosen, more, question)
            assert after.commercial_use == "no"


def test_each_answer_names_the_inputs_that_force_it() -> None:
    found = conclude([*asset_inputs({"CC0-1.0": 3, "CC-BY-4.0": 2, "CC-BY-SA-4.0": 1}), APACHE])
    assert found.expression == "CC-BY-SA-4.0" and not found.problems
    assert (found.commercial_use, found.attribution_required, found.share_alike) == ("yes", "yes", "yes")
    assert found.reasons == {
        "attribution_required": ["assets under CC-BY-4.0 (2)", "assets under CC-BY-SA-4.0 (1)"],
        "share_alike": ["assets under CC-BY-SA-4.0 (1)"],
    }


def test_a_generator_for_non_commercial_use_makes_the_dataset_so() -> None:
    found = conclude(
        [*asset_inputs({"CC0-1.0": 3, "CC-BY-4.0": 2}), FLUX_MADE, maker("writer of the prompts", "llama@1", LLAMA)]
    )
    assert found.expression == f"CC-BY-4.0 AND {FLUX} AND {LLAMA}"
    assert found.commercial_use == "no" and found.reasons["commercial_use"] == ["generator flux@1"]
    assert set(found.conditions) == {"generator flux@1", "writer of the prompts llama@1"}


def test_public_domain_and_a_software_licence_leave_the_dataset_free() -> None:
    found = conclude([*asset_inputs({"CC0-1.0": 3}), APACHE])
    assert asdict(found) == asdict(OutputLicence("CC0-1.0", "yes", "no", "no", "yes"))


def test_unknown_terms_of_one_input_are_unknown_of_the_whole_unless_another_forbids() -> None:
    found = conclude([*asset_inputs({"CC-BY-4.0": 1, "LicenseRef-user": 1}), APACHE])
    assert (found.expression, found.commercial_use) == (MIXED, "unknown")
    assert found.reasons["commercial_use"] == ["assets under LicenseRef-user (1)"]
    assert found.attribution_required == "yes"
    assert conclude([*asset_inputs({"LicenseRef-user": 1}), FLUX_MADE]).commercial_use == "no"


def test_what_does_not_fit_together_is_said() -> None:
    (mixed,) = conclude([*asset_inputs({"CC-BY-SA-4.0": 1, "CC-BY-NC-SA-4.0": 1}), APACHE]).problems
    assert "No single licence covers works made from assets under CC-BY-NC-SA-4.0, CC-BY-SA-4.0" in mixed
    (against,) = conclude([*asset_inputs({"CC-BY-SA-4.0": 1}), FLUX_MADE]).problems
    assert "no licence keeps both" in against and FLUX in against
    (underived,) = conclude([*asset_inputs({"CC-BY-ND-4.0": 2}), APACHE]).problems
    assert "assets under CC-BY-ND-4.0 (2) allow no sharing of what is made from them" in underived


def test_a_checkpoint_takes_on_the_terms_of_base_and_dataset() -> None:
    dataset = conclude([*asset_inputs({"CC-BY-4.0": 1}), FLUX_MADE])
    data = Input("dataset Tiny", dataset.expression, dataset.terms, "dataset")
    own = conclude([base_model("sdxl@1", "LicenseRef-OpenRAIL"), data])
    assert own.expression == f"LicenseRef-OpenRAIL AND CC-BY-4.0 AND {FLUX}"
    assert own.commercial_use == "no" and own.reasons["commercial_use"] == ["dataset Tiny"]
    assert own.conditions["dataset Tiny"][0].startswith("generator flux@1: outputs may not be used to train")
    free = conclude([*asset_inputs({"CC0-1.0": 1}), APACHE])
    free_data = Input("dataset Tiny", free.expression, free.terms, "dataset")
    assert conclude([base_model("miniature@1", "Apache-2.0"), free_data]).expression == "Apache-2.0"


def test_nothing_follows_from_no_inputs() -> None:
    with pytest.raises(ValueError, match="name the inputs"):
        conclude([])
