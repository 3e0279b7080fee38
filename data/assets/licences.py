"""Asset licences: many spellings in, one set of SPDX identifiers out, and the allow-list that a recipe names."""

import re
from collections.abc import Iterable

SPDX = (
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-NC-3.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-ND-4.0",
    "CC-BY-NC-SA-3.0",
    "CC-BY-NC-SA-4.0",
    "CC-BY-ND-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "MIT",
    "PDDL-1.0",
    "SCEA",
)
"""Identifiers of the SPDX licence list that assets are found under."""

UNKNOWN = "LicenseRef-unknown"
"""Stands for "nobody says": an allow-list that accepts such assets must name it."""

# The annotations of Objaverse 1.0 use these short names; its data card says all of them are version 4.0.
_OBJAVERSE = {
    "by": "CC-BY-4.0",
    "by-sa": "CC-BY-SA-4.0",
    "by-nd": "CC-BY-ND-4.0",
    "by-nc": "CC-BY-NC-4.0",
    "by-nc-sa": "CC-BY-NC-SA-4.0",
    "by-nc-nd": "CC-BY-NC-ND-4.0",
    "cc0": "CC0-1.0",
}
_BY_NAME = {name.lower(): name for name in SPDX} | _OBJAVERSE
_OWN_REFERENCE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")
_CC_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?creativecommons\.org/(licenses|publicdomain)/([a-z-]+)/([0-9.]+)(/.*)?"
)


class UnknownLicenceError(ValueError):
    """A licence name that is neither an SPDX identifier known here nor a short name of Objaverse."""


def normalise(name: str) -> str:
    """SPDX identifier of a licence given as SPDX id, Objaverse short name or Creative Commons address.

    Case, blanks and underscores do not matter (`cc by-sa 4.0`). `LicenseRef-...` names, which SPDX reserves for
    licences outside its list, are kept as they are. Raises UnknownLicenceError listing the known names.
    """
    text = name.strip()
    if _OWN_REFERENCE.fullmatch(text):
        return text
    address = _CC_ADDRESS.fullmatch(text.lower())
    if address:
        kind, terms, version = address.group(1, 2, 3)
        key = f"cc0-{version}" if kind == "publicdomain" and terms == "zero" else f"cc-{terms}-{version}"
    else:
        key = re.sub(r"[\s_]+", "-", text.lower())
    if key not in _BY_NAME:
        raise UnknownLicenceError(
            f"licence {name!r} is not known; known: {', '.join(SPDX)}, the short names "
            f"{', '.join(sorted(_OBJAVERSE))}, and LicenseRef-NAME for a licence of your own"
        )
    return _BY_NAME[key]


def allow_list(names: Iterable[str]) -> frozenset[str]:
    """The allow-list of a recipe as SPDX identifiers; UnknownLicenceError names an entry that is not known."""
    return frozenset(normalise(name) for name in names)
