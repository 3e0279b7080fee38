"""The first DINO's embedding is the class token of its ViT, which comes without pooler."""

import numpy as np
import tiny_models
import torch
from transformers import ViTModel

from configs.schema import ModelRef
from models import registry


def test_dino_embeds_by_the_class_token(tmp_path):
    torch.set_num_threads(1)
    folder = tiny_models.dino_folder(tmp_path / "dino")
    ref: ModelRef = tiny_models.ref_of(folder, "dino")
    scorer = registry.load_with(registry.LOADERS, ref, "cpu", "float32")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    model = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    values = torch.tensor((image / 255 - 0.5) / 0.5, dtype=torch.float32).permute(2, 0, 1)[None]
    with torch.no_grad():
        token = model(pixel_values=values).last_hidden_state[0, 0].numpy()
    np.testing.assert_allclose(scorer.embed([image], None)[0], token / np.linalg.norm(token), atol=1e-5)
