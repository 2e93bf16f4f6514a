"""Observers with a planted bug, and their correct twins. Those that close over the program are given it by the example."""

from __future__ import annotations

import time

import torch

from mapsto.core.laws import Example

from . import Mutant


class Watches:
    """Looks at the outputs of the model on a batch of its own, as averages are put in place for it."""

    def __init__(self, program=None):
        self.program, self.seen = program, []

    def batch(self):
        generator = torch.Generator().manual_seed(0)
        return {"input": torch.randn(6, 8, generator=generator), "target": torch.arange(6) % 3}

    def __call__(self, event):
        if event.name == "log":
            with self.program.evaluating() as state:
                self.seen.append(float(state.model(self.batch()["input"]).sum()))


class Trains(Watches):
    def __call__(self, event):
        if event.name == "log":
            self.seen.append(float(self.program.loss(self.program.state, self.batch())[0]))  # moves running statistics


class NudgesRate(Watches):
    def __call__(self, event):
        if event.name == "evaluate":
            for group in self.program.optimizer.param_groups:
                group["weight_decay"] = 0.1


class ReadsRate(Watches):
    def __call__(self, event):
        if event.name == "evaluate":
            self.seen += [group["lr"] for group in self.program.optimizer.param_groups]


class Clamps(Watches):
    def __call__(self, event):
        if event.name == "epoch":
            for parameter in self.program.model.parameters():
                parameter.data.clamp_(-0.2, 0.2)


class CountsLarge(Watches):
    def __call__(self, event):
        if event.name == "epoch":
            self.seen += [int((w > 0.2).sum()) for w in event.run.weights().values()]


class LeavesEvaluation(Watches):
    def __call__(self, event):
        self.program.model.eval()
        with torch.no_grad():
            self.seen.append(float(self.program.model(self.batch()["input"]).sum()))


class LeavesEvaluationOnError(Watches):
    def __call__(self, event):
        self.program.model.eval()
        with torch.no_grad():
            self.seen.append(float(self.program.model(self.batch()["input"]).sum()))
        self.program.model.train()


class SwitchesGradientsOff(Watches):
    def __call__(self, event):
        torch.set_grad_enabled(False)
        self.seen.append(sum(float(w.sum()) for w in event.run.weights().values()))
        torch.set_grad_enabled(True)


class WithoutGradients(Watches):
    def __call__(self, event):
        with torch.no_grad():
            self.seen.append(sum(float(w.sum()) for w in event.run.weights().values()))


class KeepsGraphs(Watches):
    def __call__(self, event):
        weight = self.program.model.head.weight
        self.seen.append((weight * weight).sum())


class KeepsNumbers(Watches):
    def __call__(self, event):
        weight = self.program.model.head.weight
        self.seen.append((weight * weight).sum().item())


class KeepsWeights:
    def __init__(self):
        self.history = []

    def __call__(self, event):
        self.history.append(event.run.weights())


class KeepsLatest(KeepsWeights):
    def __call__(self, event):
        self.history = [event.run.weights()]


class Writes:
    """Counts events into a file of the run's folder."""

    def __init__(self):
        self.file, self.count = None, 0

    def __call__(self, event):
        if self.file is None:
            self.file = open(event.run.folder / "events.txt", "a")  # noqa: SIM115
        self.count += 1
        self.file.write(f"{event.name}\n")

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, data):
        self.count = data["count"]

    def close(self):
        if self.file is not None:
            self.file.close()
            self.file = None


class ClosesOnce(Writes):
    def close(self):
        self.file.close()
        self.file = None


class WritesOnce(Writes):
    """Opens its file when it is first called, and writes to a closed one in the second fit."""

    def close(self):
        if self.file is not None:
            self.file.close()


class CountsSteps:
    """The number of logs, which does not depend on how often a run began."""

    def __init__(self):
        self.logs = 0

    def __call__(self, event):
        self.logs += event.name == "log"

    def state_dict(self):
        return {"logs": self.logs}

    def load_state_dict(self, data):
        self.logs = data["logs"]


class StartsAfresh(CountsSteps):
    def load_state_dict(self, data):
        pass


class Measures(CountsSteps):
    """How many logs, and what a clock told at the last one: another number in each run."""

    def __init__(self):
        super().__init__()
        self.clock = 0

    def __call__(self, event):
        super().__call__(event)
        self.clock = time.perf_counter_ns()

    def state_dict(self):
        return {"logs": self.logs, "clock": self.clock}


class MeasuresAfresh(Measures):
    def load_state_dict(self, data):
        pass


class KeepsEvents:
    """Every event that it saw, those of each session: a run that was interrupted has more of them than one that was not."""

    def __init__(self):
        self.posts = []

    def __call__(self, event):
        self.posts.append({"event": event.name, "step": event.step, **event.metrics})

    def state_dict(self):
        return {"posts": self.posts}

    def load_state_dict(self, data):
        self.posts = data["posts"]


class KeepsLatestEvents(KeepsEvents):
    def load_state_dict(self, data):
        self.posts = data["posts"][-1:]


GIVEN = Example(more={"with_program": lambda program: {"program": program}})

MUTANTS = [
    Mutant(
        law="observer.trajectory",
        name="it runs the model in training mode",
        bug=Trains,
        twin=Watches,
        models="fastai#3512",
        example=GIVEN,
    ),
    Mutant(
        law="observer.trajectory",
        name="it sets an option of the optimizer",
        bug=NudgesRate,
        twin=ReadsRate,
        models="callbacks that tune",
        example=GIVEN,
    ),
    Mutant(
        law="observer.trajectory",
        name="it clamps the weights",
        bug=Clamps,
        twin=CountsLarge,
        models="Megatron-Bridge#5255",
        example=GIVEN,
    ),
    Mutant(
        law="observer.restores",
        name="evaluation mode stays",
        bug=LeavesEvaluation,
        twin=Watches,
        models="pytorch-pfn-extras#688",
        example=GIVEN,
    ),
    Mutant(
        law="observer.restores",
        name="evaluation mode stays after an error",
        bug=LeavesEvaluationOnError,
        twin=Watches,
        models="schnetpack#785",
        example=GIVEN,
    ),
    Mutant(
        law="observer.restores",
        name="gradients stay off after an error",
        bug=SwitchesGradientsOff,
        twin=WithoutGradients,
        models="set_grad_enabled(False)",
        example=GIVEN,
    ),
    Mutant(
        law="observer.memory",
        name="it keeps a tensor with its graph",
        bug=KeepsGraphs,
        twin=KeepsNumbers,
        models="pytorch-pfn-extras#49",
        example=GIVEN,
    ),
    Mutant(
        law="observer.memory",
        name="it keeps the weights of each event",
        bug=KeepsWeights,
        twin=KeepsLatest,
        models="a history of weights",
    ),
    Mutant(
        law="observer.lifecycle",
        name="it can be closed once",
        bug=ClosesOnce,
        twin=KeepsEvents,
        models="writers that are closed twice",
    ),
    Mutant(
        law="observer.lifecycle",
        name="it serves one fit",
        bug=WritesOnce,
        twin=CountsSteps,
        models="a closed file in the second fit",
    ),
    Mutant(
        law="observer.lifecycle",
        name="its count starts afresh",
        bug=StartsAfresh,
        twin=CountsSteps,
        models="pytorch-lightning#17543",
    ),
    Mutant(
        law="observer.lifecycle",
        name="its count starts afresh beside a clock",
        bug=MeasuresAfresh,
        twin=Measures,
        models="pytorch-lightning#17543",
    ),
    Mutant(
        law="observer.lifecycle",
        name="events that it kept are lost at a resume",
        bug=KeepsLatestEvents,
        twin=KeepsEvents,
        models="a history that is cut at a resume",
    ),
]
