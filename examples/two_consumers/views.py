"""Two kinds of clients: some have pictures of digits, others only how much ink is in each row and column of a picture."""

import lightning.pytorch as lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from flame_run.data import ArrayDataModule


class View(Dataset):
    """What a kind of client has of a picture: itself, (1, 28, 28), the 56 sums of its rows and columns, or both; and the label."""

    def __init__(self, pictures, kinds):
        self.pictures, self.kinds = pictures, kinds
        self.targets = pictures.targets

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        picture, label = self.pictures[index]
        sums = torch.cat([picture[0].mean(dim=0), picture[0].mean(dim=1)])
        views = {"image": picture, "table": sums * 4}
        return {**{kind: views[kind] for kind in self.kinds}, "label": label}


class ViewData(lightning.LightningDataModule):
    """Pictures as clients of these kinds have them."""

    def __init__(self, path, kinds, batch_size):
        super().__init__()
        self.pictures, self.kinds, self.batch_size = ArrayDataModule(path), kinds, batch_size

    def train_dataloader(self):
        return DataLoader(View(self.pictures.dataset("train"), self.kinds), self.batch_size, shuffle=True)

    def test_dataloader(self):
        return DataLoader(View(self.pictures.dataset("test"), self.kinds), 500)


class Recogniser(lightning.LightningModule):
    """An encoder for each kind of data, and one head for all of them: (N, 32) features to (N, 10) logits."""

    def __init__(self, kinds, learning_rate):
        super().__init__()
        self.kinds, self.learning_rate = kinds, learning_rate
        if "image" in kinds:
            convolutions = nn.Sequential(nn.Conv2d(1, 8, 5), nn.MaxPool2d(4), nn.ReLU(), nn.Flatten())
            self.image = nn.Sequential(convolutions, nn.Linear(288, 32), nn.ReLU())
        if "table" in kinds:
            self.table = nn.Sequential(nn.Linear(56, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, batch, kind):
        return self.head(getattr(self, kind)(batch[kind]))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch, self.kinds[0]), batch["label"])

    def test_step(self, batch, batch_idx):
        logits = {kind: self(batch, kind) for kind in self.kinds}
        right = {kind: (each.argmax(dim=1) == batch["label"]).float().mean() for kind, each in logits.items()}
        self.log_dict({f"accuracy_{kind}": value for kind, value in right.items()})
        self.log("accuracy", sum(right.values()) / len(right))
        self.log("loss", sum(nn.functional.cross_entropy(each, batch["label"]) for each in logits.values()) / len(logits))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)
