"""Architectures of Hugging Face transformers, in small random configurations."""

from __future__ import annotations

import torch
import transformers as hf

from zoo.entry import Entry, keywords

_IDS = torch.randint(3, 64, (2, 16), generator=torch.Generator().manual_seed(0))
_IMAGE = torch.zeros(2, 3, 32, 32)
_V = {"vocab_size": 64}
_B = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SEQ2SEQ = {
    **_V,
    **_SPECIAL,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "decoder_start_token_id": 2,
}
_TEXT = keywords(input_ids=_IDS, labels=_IDS)
_PICTURE = keywords(pixel_values=_IMAGE)

_CLIP = {
    "text_config": {**_V, **_B, **_SPECIAL, "max_position_embeddings": 32},
    "vision_config": {**_B, "image_size": 32, "patch_size": 8},
    "projection_dim": 16,
}
_WAV2VEC2 = {
    **_V,
    **_B,
    "num_hidden_layers": 1,
    "conv_dim": (16, 16),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_length": 2,
    "layerdrop": 0.0,
}
_DETR = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 5,
}


def _detr() -> torch.nn.Module:
    backbone = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    return hf.DetrForObjectDetection(hf.DetrConfig(backbone_config=backbone, **_DETR))


_EINSUM = "multiplied by an einsum in a forward that cannot be traced, by a parameter that is no layer's"
_TABLE = "an embedding table that is multiplied like a weight, in a forward that cannot be traced"
_PERCEIVER = "multiplies what derives from parameters alone by activations, in a forward that cannot be traced"

TRANSFORMERS = [
    Entry("hf:bert", lambda: hf.BertForMaskedLM(hf.BertConfig(**_V, **_B)), _TEXT),
    Entry(
        "hf:distilbert",
        lambda: hf.DistilBertForMaskedLM(hf.DistilBertConfig(**_V, dim=32, n_layers=2, n_heads=2, hidden_dim=64)),
        _TEXT,
    ),
    Entry("hf:roberta", lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**_V, **_B)), _TEXT),
    Entry("hf:albert", lambda: hf.AlbertForMaskedLM(hf.AlbertConfig(**_V, **_B, embedding_size=16, **_SPECIAL)), _TEXT),
    Entry(
        "hf:deberta-v2",
        lambda: hf.DebertaV2ForMaskedLM(
            hf.DebertaV2Config(**_V, **_B, relative_attention=True, pos_att_type=["p2c", "c2p"])
        ),
        _TEXT,
        unseen={"rel_embeddings": _TABLE},
    ),
    Entry(
        "hf:xlnet",
        lambda: hf.XLNetLMHeadModel(hf.XLNetConfig(**_V, d_model=32, n_layer=2, n_head=2, d_inner=64)),
        _TEXT,
        unseen={"rel_attn": _EINSUM},
    ),
    Entry(
        "hf:gpt2",
        lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**_V, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)),
        _TEXT,
    ),
    Entry("hf:gpt-neox", lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**_V, **_B)), _TEXT),
    Entry("hf:llama", lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_V, **_B)), _TEXT),
    Entry("hf:mistral", lambda: hf.MistralForCausalLM(hf.MistralConfig(**_V, **_B, num_key_value_heads=1)), _TEXT),
    Entry("hf:bloom", lambda: hf.BloomForCausalLM(hf.BloomConfig(**_V, hidden_size=32, n_layer=2, n_head=2)), _TEXT),
    Entry(
        "hf:opt",
        lambda: hf.OPTForCausalLM(
            hf.OPTConfig(
                **_V,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                ffn_dim=64,
                word_embed_proj_dim=16,
                max_position_embeddings=32,
            )
        ),
        _TEXT,
    ),
    Entry(
        "hf:falcon",
        lambda: hf.FalconForCausalLM(
            hf.FalconConfig(
                **_V, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, bos_token_id=1, eos_token_id=2
            )
        ),
        _TEXT,
    ),
    Entry(
        "hf:mamba",
        lambda: hf.MambaForCausalLM(hf.MambaConfig(**_V, hidden_size=32, num_hidden_layers=1, state_size=4)),
        _TEXT,
    ),
    Entry(
        "hf:rwkv",
        lambda: hf.RwkvForCausalLM(
            hf.RwkvConfig(
                **_V, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, bos_token_id=1, eos_token_id=2
            )
        ),
        _TEXT,
    ),
    Entry(
        "hf:t5",
        lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(**_V, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, decoder_start_token_id=0)
        ),
        _TEXT,
    ),
    Entry(
        "hf:bart",
        lambda: hf.BartForConditionalGeneration(
            hf.BartConfig(**_SEQ2SEQ, max_position_embeddings=32, forced_eos_token_id=2)
        ),
        _TEXT,
    ),
    Entry(
        "hf:whisper",
        lambda: hf.WhisperForConditionalGeneration(
            hf.WhisperConfig(**_SEQ2SEQ, num_mel_bins=8, max_source_positions=20)
        ),
        keywords(input_features=torch.zeros(2, 8, 40), labels=_IDS),
    ),
    Entry("hf:vit", lambda: hf.ViTForImageClassification(hf.ViTConfig(**_B, image_size=32, patch_size=8)), _PICTURE),
    Entry(
        "hf:swin",
        lambda: hf.SwinForImageClassification(
            hf.SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
        ),
        _PICTURE,
    ),
    Entry(
        "hf:convnextv2",
        lambda: hf.ConvNextV2ForImageClassification(
            hf.ConvNextV2Config(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
        ),
        _PICTURE,
    ),
    Entry(
        "hf:clip",
        lambda: hf.CLIPModel(hf.CLIPConfig(**_CLIP)),
        keywords(input_ids=_IDS, pixel_values=_IMAGE, return_loss=True),
    ),
    Entry(
        "hf:segformer",
        lambda: hf.SegformerForSemanticSegmentation(
            hf.SegformerConfig(
                num_encoder_blocks=2,
                depths=[1, 1],
                sr_ratios=[2, 1],
                hidden_sizes=[16, 32],
                patch_sizes=[7, 3],
                strides=[4, 2],
                num_attention_heads=[1, 2],
                mlp_ratios=[2, 2],
                decoder_hidden_size=16,
            )
        ),
        _PICTURE,
        graphs=None,
    ),
    Entry(
        "hf:perceiver",
        lambda: hf.PerceiverForMaskedLM(
            hf.PerceiverConfig(
                **_V,
                num_latents=8,
                d_latents=32,
                d_model=32,
                num_blocks=1,
                num_self_attends_per_block=2,
                num_self_attention_heads=2,
                num_cross_attention_heads=2,
                max_position_embeddings=16,
                qk_channels=32,
                v_channels=32,
            )
        ),
        keywords(inputs=_IDS),
        unseen={"position_embeddings": _PERCEIVER},
    ),
    Entry(
        "hf:wav2vec2",
        lambda: hf.Wav2Vec2ForCTC(hf.Wav2Vec2Config(**_WAV2VEC2)),
        keywords(input_values=torch.zeros(2, 800)),
        real=True,
        graphs=None,
    ),
    Entry("hf:detr", _detr, _PICTURE, real=True, graphs=None),
]
