"""What licences ask for, as far as this project knows their texts: of a work, and of what a model under them makes.

A summary of stated terms for cards and checks. It is no legal advice, and where a text can be read in two ways the
stricter reading is taken. Read were, for the models: FLUX.1 [dev] Non-Commercial License, which covers FLUX.1 Depth
[dev] too (github.com/black-forest-labs/flux, model_licenses/LICENSE-FLUX1-dev, commit 805da857), and Meta Llama 3
Community License (github.com/meta-llama/llama3, LICENSE, commit 2a6e3d76). Later versions may say otherwise.
"""

from dataclasses import dataclass
from functools import lru_cache

from data.assets.licences import SPDX


@dataclass(frozen=True)
class Terms:
    """Each answer is true, false, or None where nobody here knows."""

    attribution: bool | None
    """Credit or a notice must be kept."""
    share_alike: bool | None
    """What is made from it must stay under the same licence."""
    commercial: bool | None
    """Commercial use is allowed."""
    derivatives: bool | None
    """Works made from it may be shared."""
    conditions: tuple[str, ...] = ()
    """What else is asked, with the section that asks it."""

    @property
    def ask_nothing(self) -> bool:
        return self == FREE


FREE = Terms(attribution=False, share_alike=False, commercial=True, derivatives=True)
NOTICE = Terms(attribution=True, share_alike=False, commercial=True, derivatives=True)
UNKNOWN_TERMS = Terms(attribution=None, share_alike=None, commercial=None, derivatives=None)
PUBLIC_DOMAIN = ("CC0-1.0", "PDDL-1.0")
SOFTWARE = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT")
FLUX_DEV, LLAMA_3, OPEN_RAIL = "LicenseRef-FLUX.1-dev-NC", "LicenseRef-Llama-3", "LicenseRef-OpenRAIL"

_ADDRESSES = {
    FLUX_DEV: "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
    LLAMA_3: "https://github.com/meta-llama/llama3/blob/main/LICENSE",
}

_MODELS = {
    FLUX_DEV: Terms(
        attribution=True,
        share_alike=True,
        commercial=False,
        derivatives=True,
        conditions=(
            "a modified model stays under the FLUX.1 [dev] Non-Commercial License, and a copy of that text goes with "
            "it (sections 2(a), 3(a))",
            'this notice goes with it, beside a statement that the model was modified (section 3(b), (c)): "The '
            "FLUX.1 [dev] Model is licensed by Black Forest Labs. Inc. under the FLUX.1 [dev] Non-Commercial License. "
            "Copyright Black Forest Labs. Inc. IN NO EVENT SHALL BLACK FOREST LABS, INC. BE LIABLE FOR ANY CLAIM, "
            "DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR "
            'IN CONNECTION WITH USE OF THIS MODEL."',
        ),
    ),
    LLAMA_3: Terms(
        attribution=True,
        share_alike=True,
        commercial=True,
        derivatives=True,
        conditions=(
            'a copy of the agreement and "Built with Meta Llama 3" go with it (section 1.b.i)',
            "another licence is needed by who had more than 700 million monthly users in March 2024 (section 2)",
        ),
    ),
    OPEN_RAIL: Terms(
        attribution=True,
        share_alike=False,
        commercial=None,
        derivatives=True,
        conditions=("the restrictions on use of its attachment are passed on with every modified model",),
    ),
}
"""Of a model's weights, and so of a model that is trained from them."""

_OUTPUTS = {
    FLUX_DEV: Terms(
        attribution=False,
        share_alike=False,
        commercial=False,
        derivatives=True,
        conditions=(
            "outputs may not be used to train, fine-tune or distill a model that is competitive with FLUX.1 [dev] "
            "(section 2(d))",
            "section 2(d) allows outputs for commercial purposes, while section 4(a) forbids commercial and production "
            "use of data produced by the model; the stricter one is taken here",
            "no military use, surveillance or biometric processing (section 4(a))",
        ),
    ),
    LLAMA_3: Terms(
        attribution=False,
        share_alike=False,
        commercial=True,
        derivatives=True,
        conditions=(
            "its texts may not be used to improve another large language model (section 1.b.v)",
            'the name of an AI model that was trained with its help begins with "Llama 3" (section 1.b.i)',
        ),
    ),
    OPEN_RAIL: Terms(
        attribution=False,
        share_alike=False,
        commercial=None,
        derivatives=True,
        conditions=("the restrictions on use of its attachment hold for what the model makes",),
    ),
    **dict.fromkeys(SOFTWARE, FREE),
}
"""Of what a model under this licence makes. Licences of software say nothing of that."""


@lru_cache(maxsize=256)
def terms_of(licence: str) -> Terms:
    """Terms of a work (a mesh, a caption, weights) under an SPDX identifier; all unknown for one that is not known."""
    if licence in PUBLIC_DOMAIN:
        return FREE
    if licence in SOFTWARE:
        return NOTICE
    if licence.startswith("CC-BY") and licence in SPDX:
        parts = licence.split("-")
        return Terms(
            attribution=True,
            share_alike="SA" in parts,
            commercial="NC" not in parts,
            derivatives="ND" not in parts,
        )
    return _MODELS.get(licence, UNKNOWN_TERMS)


def output_terms_of(licence: str) -> Terms:
    """Terms of what a model under this licence makes; those of the model itself where nobody here knows better."""
    return _OUTPUTS.get(licence) or terms_of(licence)


def address_of(licence: str) -> str | None:
    """Where the text of a licence is; None for one of somebody's own."""
    if licence.startswith("CC") and licence in SPDX:
        *terms, version = licence.removeprefix("CC-").split("-")
        kind = "publicdomain/zero" if licence == "CC0-1.0" else f"licenses/{'-'.join(terms).lower()}"
        return f"https://creativecommons.org/{kind}/{version}/"
    return f"https://spdx.org/licenses/{licence}.html" if licence in SPDX else _ADDRESSES.get(licence)
