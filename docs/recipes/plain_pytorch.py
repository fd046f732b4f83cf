"""A plain PyTorch loop: attack, penalty, constraint and evaluation without Lightning."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from lightning_advreg.attacks import PGD, AutoAttack
from lightning_advreg.constraints import MaxNorm
from lightning_advreg.evaluation import evaluate_robustness
from lightning_advreg.penalties import L1

EPS = 0.15


def main(epochs=5, max_samples=100):
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16  # gray values to [0, 1]
    y = torch.tensor(labels)
    x_train, y_train, x_test, y_test = x[:1400], y[:1400], x[1400:], y[1400:]

    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 3 * 3, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    attack = PGD(eps=EPS, step_size=0.05, steps=5)
    soft, hard = L1(1e-5), MaxNorm(0.65)

    for epoch in range(epochs):
        model.train()
        for rows in torch.randperm(len(x_train)).split(64):
            # leaves model, gradients and BatchNorm statistics as it found them
            x_adv = attack(model, x_train[rows], y_train[rows])
            loss = F.cross_entropy(model(x_adv), y_train[rows]) + soft(model)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hard.project_(model)
        print(f"epoch {epoch}: loss {loss.item():.3f}")

    model.eval()
    attacks = {"pgd20": PGD(eps=EPS, step_size=0.03, steps=20), "autoattack": AutoAttack(eps=EPS, version="fast")}
    report = evaluate_robustness(model, x_test[:max_samples], y_test[:max_samples], attacks, seed=0)
    for row in report.rows():
        print(row)
    return model, report


if __name__ == "__main__":
    main()
