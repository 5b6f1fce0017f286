"""A training script as there are many: it knows nothing of resilient, writes a checkpoint after every epoch, and can
resume from one.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 128)
        self.second = nn.Linear(128, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(functional.relu(self.first(images)))


def synthetic_digits(count: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(10, 64, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    return TensorDataset(prototypes[labels] + torch.randn(count, 64, generator=generator), labels)


def train(
    args: argparse.Namespace, model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, epoch: int
) -> None:
    model.train()
    for index, (images, labels) in enumerate(loader):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if index % args.log_interval == 0:
            done = 100.0 * index / len(loader)
            print(f"Train Epoch: {epoch} [{index}/{len(loader)} ({done:.0f}%)]\tLoss: {loss.item():.6f}")


def test(model: nn.Module, loader: DataLoader) -> None:
    model.eval()
    loss = correct = count = 0
    with torch.no_grad():
        for images, labels in loader:
            output = model(images)
            loss += functional.cross_entropy(output, labels, reduction="sum").item()
            correct += (output.argmax(1) == labels).sum().item()
            count += len(labels)
    print(f"\nTest set: Average loss: {loss / count:.6f}, Accuracy: {correct}/{count}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Digits that never were")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--samples", type=int, default=6400)
    parser.add_argument("--log-interval", type=int, default=10)
    parser.add_argument("--out", default="out")
    parser.add_argument("--resume", help="a checkpoint to go on from")
    args = parser.parse_args()

    torch.manual_seed(1)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    first = 1
    if args.resume:
        checkpoint = torch.load(args.resume)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        first = checkpoint["epoch"] + 1
        print(f"resumed from {args.resume}")

    data = synthetic_digits(args.samples)
    for epoch in range(first, args.epochs + 1):
        torch.manual_seed(epoch)
        train(args, model, DataLoader(data, batch_size=32, shuffle=True), optimizer, epoch)
        test(model, DataLoader(data, batch_size=256))
        Path(args.out).mkdir(parents=True, exist_ok=True)
        state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, Path(args.out) / f"ckpt_{epoch}.pt")


if __name__ == "__main__":
    main()
