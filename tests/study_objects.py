"""Made-up evaluated objects for the human study, their pictures of one colour each."""

import numpy as np

from data.images import encode_png
from models.evaluation.record import EvaluatedImage, EvaluationRecord
from models.evaluation.study import Evaluated

ROWS = ("ours-3", "base")


def flat(value: int) -> bytes:
    image = np.full((16, 16, 3), value, dtype=np.uint8)
    image[::2] = 255 - value
    return encode_png(image)


def evaluated(
    name: str, category: str, first: int, rows: tuple[str, ...] = ROWS, seeds: tuple[int, ...] = (0, 1), text: str = ""
) -> Evaluated:
    """Two prompts; no two pictures of an object are equal."""
    files = {f"ref.{place}.png": flat(first + place) for place in range(3)}
    images = []
    for prompt in (0, 1):
        for seed in seeds:
            for row in rows:
                image = EvaluatedImage(
                    name=f"{row}.p{prompt}.s{seed}",
                    row=row,
                    prompt=prompt,
                    kind="background",
                    seed=seed,
                    noise_seed=1,
                    references=3,
                    identity=0.5,
                    text=0.5,
                    geometric=0.5,
                    saturation=0.5,
                    clipped=0.5,
                    object_found=True,
                )
                files[f"{image.name}.png"] = flat(first + 3 + len(images))
                images.append(image)
    record = EvaluationRecord(
        object_id=name,
        category=category,
        caption=f"a {category}",
        references=3,
        prompts=[{"text": f"{text}{name} {place}", "kind": "background"} for place in (0, 1)],
        images=images,
        checkpoint={},
    )
    return Evaluated(record, files)
