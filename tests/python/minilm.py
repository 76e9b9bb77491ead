"""all-MiniLM-L6-v2 as modules that AIMET sees one by one, with its published weights, and text as its token ids."""

from __future__ import annotations

import json
import re
import zipfile

import torch
from torch import nn

HEADS, WIDTH, LAYERS = 12, 384, 6


class Layer(nn.Module):
    """One encoder layer of BERT. The 1/sqrt(size) of the scores is in the weights of the queries."""

    def __init__(self):
        super().__init__()
        from aimet_torch.nn.modules.custom import Add, MatMul

        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.scores, self.softmax, self.mix, self.out = MatMul(), nn.Softmax(-1), MatMul(), nn.Linear(WIDTH, WIDTH)
        self.add1, self.norm1 = Add(), nn.LayerNorm(WIDTH, 1e-12)
        self.up, self.act, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        self.add2, self.norm2 = Add(), nn.LayerNorm(WIDTH, 1e-12)

    def forward(self, x):
        b, n, w = x.shape
        q, k, v = (f(x).view(b, n, HEADS, w // HEADS).transpose(1, 2) for f in (self.q, self.k, self.v))
        a = self.softmax(self.scores(q, k.transpose(-1, -2)))
        x = self.norm1(self.add1(x, self.out(self.mix(a, v).transpose(1, 2).reshape(b, n, w))))
        return self.norm2(self.add2(x, self.down(self.act(self.up(x)))))


class MiniLM(nn.Module):
    """Token ids [B, 64], no padding -> hidden states [B, 64, 384]."""

    def __init__(self, words: int, length: int = 64):
        super().__init__()
        from aimet_torch.nn.modules.custom import Add

        self.words, self.add, self.norm = nn.Embedding(words, WIDTH), Add(), nn.LayerNorm(WIDTH, 1e-12)
        self.places = nn.Parameter(torch.zeros(1, length, WIDTH))  # position and segment, which no padding leaves constant
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, ids):
        x = self.norm(self.add(self.words(ids), self.places))
        for layer in self.layers:
            x = layer(x)
        return x


def _archive(folder):
    return zipfile.ZipFile(next(folder.rglob("model.zip")))


def load(folder, length: int = 64) -> MiniLM:
    """The model with the weights in ``folder``, where the package has been unpacked."""
    import safetensors.torch

    w = safetensors.torch.load(_archive(folder).read("model.safetensors"))
    model = MiniLM(w["embeddings.word_embeddings.weight"].shape[0], length)
    places = w["embeddings.position_embeddings.weight"][:length] + w["embeddings.token_type_embeddings.weight"][0]
    state = {"places": places[None], "words.weight": w["embeddings.word_embeddings.weight"]}
    state |= {f"norm.{k}": w[f"embeddings.LayerNorm.{k}"] for k in ("weight", "bias")}
    theirs = {
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "out": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for i in range(LAYERS):
        for mine, name in theirs.items():
            for k in ("weight", "bias"):
                t = w[f"encoder.layer.{i}.{name}.{k}"]
                state[f"layers.{i}.{mine}.{k}"] = t * (WIDTH // HEADS) ** -0.5 if mine == "q" else t
    model.load_state_dict(state)
    return model.eval()


def tokens(folder, text: str, length: int = 64) -> torch.Tensor:
    """``text`` as rows of ``length`` ids, each between [CLS] and [SEP]: lower case, words split greedily into the longest known pieces."""
    vocabulary = json.loads(_archive(folder).read("tokenizer.json"))["model"]["vocab"]
    ids = []
    for word in re.findall(r"[a-z]+|[0-9]+|[^\sa-z0-9]", text.lower()):
        start, pieces = 0, []
        while start < len(word):
            end = next((e for e in range(len(word), start, -1) if ("##" if start else "") + word[start:e] in vocabulary), None)
            if end is None:
                pieces = [vocabulary["[UNK]"]]
                break
            pieces.append(vocabulary[("##" if start else "") + word[start:end]])
            start = end
        ids += pieces
    inner = length - 2
    rows = [ids[k : k + inner] for k in range(0, len(ids) - inner + 1, inner)]
    return torch.tensor([[vocabulary["[CLS]"], *row, vocabulary["[SEP]"]] for row in rows])
