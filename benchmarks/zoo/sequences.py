"""Networks over time: speech and tagging."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .registry import zoo


@zoo("speech", (1, 20, 40))
class Speech(nn.Module):
    """1-D convolutions with batch norm over feature frames, a GRU, a classifier per frame."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(20, 32, 5, stride=2, padding=2)
        self.bn1 = nn.BatchNorm1d(32)
        self.conv2 = nn.Conv1d(32, 32, 3, padding=1, groups=32)
        self.bn2 = nn.BatchNorm1d(32)
        self.gru = nn.GRU(32, 16, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1)
        self.fc = nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.hardtanh(self.bn2(self.conv2(x)), 0, 20)
        out, _ = self.gru(x.transpose(1, 2).contiguous())
        return F.log_softmax(self.fc(out), dim=-1)


@zoo("lstm_tagger", (1, 12), integers={0: 30})
class LSTMTagger(nn.Module):
    """Word numbers to embeddings, an LSTM, scores per word."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(30, 16)
        self.lstm = nn.LSTM(16, 12, batch_first=True)
        self.hidden2tag = nn.Linear(12, 6)

    def forward(self, sentence: Tensor) -> Tensor:
        embeds = self.word_embeddings(sentence)
        lstm_out, (hidden, _) = self.lstm(embeds)
        tag_space = self.hidden2tag(lstm_out + torch.tanh(hidden[-1]).unsqueeze(1))
        return F.log_softmax(tag_space, dim=2)
