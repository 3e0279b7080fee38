"""Why a mesh cannot be used."""


class MeshError(Exception):
    """A mesh that cannot be rendered.

    `reason` is a code to group by: file_type (not one of FILE_TYPES), corrupt (cut short or malformed),
    external_files (refers to files beside it), unsupported (needs a glTF feature that is not read), bad_texture
    (an image that does not decode), empty (no geometry in the scene), no_faces (points or lines only), not_finite
    (NaN or infinite vertices), degenerate (no extent, or no face with an area), too_large (too many faces, nodes or
    bytes); from data.sandbox also too_slow, too_much_memory, crashed (the reader itself failed).
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
