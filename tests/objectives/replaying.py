"""The algorithm that FreeAT is compared with, and what its tests train."""

import torch
from torch import nn

from lightning_advreg.attacks import FGSM

EPS, RATE, REPLAYS = 0.2, 0.5, 3
ATTACK = FGSM(eps=EPS)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))


def images(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 6, 6, generator=generator)
    # pixels on the box's boundary, where the perturbation is cut
    x[:, :, 0] = x[:, :, 0].round()
    return x, torch.randint(5, (count,), generator=generator)


def batches(sizes, seed=1):
    x, y = images(sum(sizes), seed)
    return list(zip(x.double().split(sizes), y.split(sizes), strict=True))


def literal(net, data, rates, *, eps=EPS, replays=REPLAYS, smoothing=0.0, momentum=0.0):
    """Algorithm 1 of the paper in the box, with SGD written out; gives losses and the perturbation."""
    delta, losses = None, []
    velocity = [torch.zeros_like(p) for p in net.parameters()]
    for (x, y), rate in zip(data, rates, strict=True):
        if delta is None:
            delta = torch.zeros_like(x)
        n = len(x)
        for _ in range(replays):
            x_adv = (x + delta[:n]).clamp(0, 1).requires_grad_()
            log_p = torch.log_softmax(net(x_adv), 1)
            target = torch.full_like(log_p, smoothing / log_p.shape[1])
            for i in range(n):
                target[i, y[i]] += 1 - smoothing
            loss = -(target * log_p).sum() / n
            *weight_grads, image_grad = torch.autograd.grad(loss, [*net.parameters(), x_adv])
            with torch.no_grad():
                for p, grad, v in zip(net.parameters(), weight_grads, velocity, strict=True):
                    v.mul_(momentum).add_(grad)
                    p.sub_(rate * v)
                delta[:n] = (delta[:n] + eps * image_grad.sign()).clamp(-eps, eps)
            losses.append(loss.detach())
    return losses, delta


def train(net, objective, data, attack=ATTACK):
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=RATE), []
    for x, y in data:
        for _ in range(objective.replays):
            optimizer.zero_grad()
            loss = objective(net, x, y, attack).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return losses


def settled(objective):
    """The perturbation, with the move that waits for the next step."""
    return objective.state_dict()["_extra_state"]
