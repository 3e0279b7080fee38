"""Class images of prior preservation: what the base model makes of the class noun alone."""

import numpy as np
import torch
from safetensors.torch import load_file

from data.ids import digest_of, seed_for
from models.customizer import CustomizeRequest
from models.tuning.run import Run


def class_images(run: Run, prompt: str, count: int) -> list[np.ndarray]:
    """`count` uint8 (H, W, 3) images of `prompt`, made once for all objects of the class and kept.

    Image n has a seed of the run's, the prompt's and n's own. An interrupted making starts anew.
    """
    if not count:
        return []
    origin = run.origin | {"prompt": prompt, "count": count}
    file = run.cache / f"class-{digest_of(origin)[:32]}.safetensors"
    if not file.exists():
        requests = [
            CustomizeRequest(prompt, seed_for(run.seed, "tuning/class", f"{prompt}-{number}"))
            for number in range(count)
        ]
        made: list[np.ndarray] = []
        with run.customizer.without_adapter():
            for start in range(0, count, run.batch_images):
                made += run.customizer.generate_many(requests[start : start + run.batch_images], run.sampling)
        run.keep(file, {"images": torch.from_numpy(np.stack(made))})
    return list(load_file(file)["images"].numpy())
