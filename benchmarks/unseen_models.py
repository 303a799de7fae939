"""Real models that the cost model was not made on: chosen before any was measured, and none like those of the others.

What a roofline, its calibration and its corrections look like was decided while the models of `real_models.py` were
measured. These tell how well that carries over to a model that a user brings: channel shuffles, groups of 32, cheap
ghost features, mixers of pooling, attention over reduced keys, encoders and decoders, a recurrent network.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from real import Real, images, timm, tokens, torchvision, transformers
from torch import Tensor, nn


class LanguageModel(nn.Module):
    """The usual LSTM over words: ``(N, T)`` numbers of words to ``(N, T, vocabulary)``."""

    def __init__(self, vocabulary: int = 8192, width: int = 256) -> None:
        """Makes two layers."""
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, words: Tensor) -> Tensor:
        """Returns a score for every word that may come next."""
        scores: Tensor = self.head(self.lstm(self.embedding(words))[0])
        return scores


def _t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=8192, d_model=512, d_kv=64, d_ff=2048, num_layers=3, num_heads=8, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def _opt() -> nn.Module:
    config = transformers.OPTConfig(
        vocab_size=8192, hidden_size=512, ffn_dim=2048, num_hidden_layers=4, num_attention_heads=8,
        word_embed_proj_dim=512,
    )  # fmt: skip
    return transformers.OPTForCausalLM(config)


def _distilbert() -> nn.Module:
    return transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(vocab_size=8192, n_layers=4))


def _words(batch: int) -> dict[str, Any]:
    return {"words": torch.randint(8192, (batch, 64))}


UNSEEN: dict[str, Real] = {
    "alexnet": Real(torchvision.models.alexnet, images(96)),
    "squeezenet": Real(torchvision.models.squeezenet1_1, images(96)),
    "shufflenet": Real(torchvision.models.shufflenet_v2_x1_0, images(96)),
    "resnext50": Real(torchvision.models.resnext50_32x4d, images(96)),
    "ghostnet": Real(partial(timm.create_model, "ghostnet_100"), images(96)),
    "mobilevit": Real(partial(timm.create_model, "mobilevit_xs"), images(128)),
    "pvt": Real(partial(timm.create_model, "pvt_v2_b0"), images(96)),
    "poolformer": Real(partial(timm.create_model, "poolformer_s12"), images(96)),
    "edgenext": Real(partial(timm.create_model, "edgenext_x_small"), images(128)),
    "t5": Real(_t5, tokens(8192, 64, labels=True)),
    "opt": Real(_opt, tokens(8192, 64, labels=True)),
    "distilbert": Real(_distilbert, tokens(8192, 64, labels=True)),
    "lstm": Real(LanguageModel, _words),
}
