"""A loop by hand, as a training: `mapsto check examples/trainers/plain_torch.py:train`."""

import sys
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

import mapsto

sys.path.insert(0, str(Path(__file__).parent))
from tokens import IGNORED, RECORDS, Tagger, linear, loss_of, weights_of


@mapsto.training("plain_torch")
def train(
    data, *, seed, batch_size, steps, accumulate=1, clip=None, shuffle=True, dropout=True, until=None,
    save=None, resume=None, evaluate_every=None,
):  # fmt: skip
    torch.manual_seed(seed)
    model = Tagger(0.2 if dropout else 0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    parts = {"model": model, "optimizer": optimizer, "schedule": linear(optimizer, steps)}
    done, random = 0, None
    if resume:
        kept = torch.load(resume / "state.pt", weights_only=False)
        for name, part in parts.items():
            part.load_state_dict(kept[name])
        done, random = kept["done"], kept["random"]
    step, epoch = 0, 0
    while done < (until or steps):
        order = torch.Generator().manual_seed(1000 * seed + epoch)
        batches = list(DataLoader(data, batch_size, shuffle=shuffle, generator=order))
        if random is not None:
            torch.set_rng_state(random)  # after the loader, which draws a seed from the same stream
        for window in [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]:
            step += 1
            if step <= done:
                continue
            random, weight = None, sum((b["labels"] != IGNORED).sum() for b in window)
            optimizer.zero_grad()
            for batch in window:
                (loss_of(model, batch, "sum") / weight).backward()
            if clip:
                clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            parts["schedule"].step()
            done = step
            if evaluate_every and done % evaluate_every == 0:
                _mean_loss(model, data, batch_size)
            if done == (until or steps):
                break
        epoch += 1
    if save:
        kept = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**kept, "done": done, "random": torch.get_rng_state()}, save / "state.pt")
    return weights_of(model)


def _mean_loss(model, data, batch_size):
    model.eval()
    total, weight = 0.0, 0
    with torch.no_grad():
        for batch in DataLoader(data, batch_size, generator=torch.Generator()):
            total, weight = total + loss_of(model, batch, "sum").item(), weight + (batch["labels"] != IGNORED).sum().item()
    model.train()
    return total / weight


def evaluate(data, *, seed, batch_size):
    torch.manual_seed(seed)
    return {"loss": _mean_loss(Tagger(0.2), data, batch_size)}


mapsto.example(train, records=RECORDS, evaluate=evaluate)
