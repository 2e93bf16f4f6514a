"""The loop of Accelerate's quick tour, as a training: `mapsto check examples/trainers/accelerate_loop.py:train`."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

import mapsto

sys.path.insert(0, str(Path(__file__).parent))
from tokens import RECORDS, Tagger, linear, loss_of, weights_of


@mapsto.training("accelerate_loop")
def train(
    data, *, seed, batch_size, steps, accumulate=1, clip=None, shuffle=True, dropout=True, until=None,
    save=None, resume=None, evaluate_every=None,
):  # fmt: skip
    set_seed(seed)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model = Tagger(0.2 if dropout else 0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader, others = DataLoader(data, batch_size, shuffle=shuffle), DataLoader(data, batch_size)
    model, optimizer, loader, others, schedule = accelerator.prepare(model, optimizer, loader, others, linear(optimizer, steps))
    done, skip, epoch = 0, 0, 0
    if resume:
        accelerator.load_state(str(resume))
        done = int((resume / "done").read_text())
        per_epoch = -(-len(loader) // accumulate)
        epoch, skip = done // per_epoch, done % per_epoch * accumulate
    while done < (until or steps):
        loader.set_epoch(epoch)
        for batch in accelerator.skip_first_batches(loader, skip) if skip else loader:
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, batch))
                if clip and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                done += 1
                if evaluate_every and done % evaluate_every == 0:
                    _mean_loss(accelerator, model, others)
                if done == (until or steps):
                    break
        skip, epoch = 0, epoch + 1
    if save:
        accelerator.save_state(str(save))
        (save / "done").write_text(str(done))
    return weights_of(accelerator.unwrap_model(model))


def _mean_loss(accelerator, model, loader):
    model.eval()
    losses = []
    with torch.no_grad():
        for batch in loader:
            losses.append(accelerator.gather_for_metrics(loss_of(model, batch).repeat(len(batch["labels"]))))
    model.train()
    return torch.cat(losses).mean().item()


def evaluate(data, *, seed, batch_size):
    set_seed(seed)
    accelerator = Accelerator(cpu=True)
    model, loader = accelerator.prepare(Tagger(0.2), DataLoader(data, batch_size))
    return {"loss": _mean_loss(accelerator, model, loader)}


mapsto.example(train, records=RECORDS, evaluate=evaluate)
