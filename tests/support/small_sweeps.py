"""A family of trainings that take some hundredths of a second, for searches."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ecograph.sweeps import Range


def make_model(width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))


def make_loaders(batch_size: int = 32) -> tuple[DataLoader, DataLoader]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=generator)
    y = (x @ torch.randn(8, 3, generator=generator)).argmax(1)
    train, val = TensorDataset(x[:192], y[:192]), TensorDataset(x[192:], y[192:])
    return DataLoader(train, batch_size, shuffle=True), DataLoader(val, 64)


SPACE = {"lr": Range(1e-3, 0.3, log=True), "batch_size": [16, 64], "epochs": [3, 6]}
