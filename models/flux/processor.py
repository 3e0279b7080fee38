"""The attention processor that turns an unmodified FLUX transformer into a generator of consistent sets."""

from diffusers.models.transformers.transformer_flux import FluxAttention
from torch import Tensor

from models.flux.attention import Rotary, apply_rope, attend, project_out, project_qkv
from models.flux.object_attention import ObjectAttention
from models.flux.sharing import SharedKeys, shared_attention
from models.flux.warping import Warp


class SharedAttnProcessor:
    """For double- and single-stream modules alike; stateless.

    What is shared and warped arrives with each call of the transformer, as `joint_attention_kwargs`: `shared` (masked
    shared attention) and `warp` (of the features that enter q, k, v of the image tokens). With neither it computes what
    diffusers' own processor does. `observed` takes note of what image tokens attend to in their text.
    """

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: Rotary | None = None,
        shared: SharedKeys | None = None,
        warp: Warp | None = None,
        observed: ObjectAttention | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if warp is not None:
            hidden_states = warp(hidden_states)
        query, key, value = project_qkv(attn, hidden_states, encoder_hidden_states)
        own = image_rotary_emb if shared is None or shared.own is None else shared.own
        query, own_key = apply_rope(query, own), apply_rope(key, own)
        if observed is not None:
            observed.add(query, own_key)
        out = attend(query, own_key, value) if shared is None else shared_attention(query, own_key, key, value, shared)
        return project_out(attn, out, None if encoder_hidden_states is None else encoder_hidden_states.shape[1])
