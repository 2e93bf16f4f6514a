"""What `mapsto new` writes for PyTorch: for each kind a working mapping and its test, as Python that is linted and type-checked
here. Another wing names a package of its own that is made like this one (`Framework.templates`).

`my_name` and `MyName` are replaced by what the user chose. A kind that stands in a slot of the spec has an example in YAML
(`SPEC` with some of its `LINES` replaced), any other kind one in Python (`example_KIND.py`).
"""

SPEC = """\
# Train it: mapsto train example.yaml
name: my_name
{model}
{task}
{optimizer}
{schedule}
{middleware}
{observers}
data:
  train:
{reader}
{source}
{transforms}
epochs: 40
log_every: 10
checkpoint: {{every: 20}}
"""
"""A spec that learns a logic gate from the four rows of its table."""

LINES = {
    "model": 'model: {use: "torch.nn:Linear", in_features: 2, out_features: 2}',
    "task": "task: classification",
    "optimizer": "optimizer: {use: adamw, lr: 0.05}",
    "schedule": "",
    "middleware": "",
    "observers": "",
    "reader": "    batch_size: 4\n    shuffle: true",
    "source": "    source: {use: arrays, input: [[0, 0], [0, 1], [1, 0], [1, 1]], target: [0, 1, 1, 1]}",
    "transforms": "    transforms: [{use: scale, factor: 1.0}]",
}

_NUMBERS = {
    "model": 'model: {use: "torch.nn:Linear", in_features: 2, out_features: 1}',
    "source": "    source: {use: arrays, input: [[0, 0], [0, 1], [1, 0], [1, 1]], target: [[0], [1], [1], [1]]}",
}

EXAMPLES = {
    "source": {
        "source": "    source: {use: my_name, records: 100, gap: 2.0}",
        "transforms": "",
    },
    "order": {"reader": "    batch_size: 4\n    order: {use: my_name, stride: 3}"},
    "transform": {"transforms": "    transforms: [{use: scale, factor: 1.0}, {use: my_name, scale: 0.05}]"},
    "reader": {
        "model": 'model: {use: "torch.nn:EmbeddingBag", num_embeddings: 4, embedding_dim: 2}',
        "reader": "    use: my_name\n    batch_size: 2\n    shuffle: true",
        "source": "    source: {use: arrays, input: [[0, 2], [0, 3], [1, 2], [1, 3]], target: [0, 1, 1, 1]}",
        "transforms": "",
    },
    "model": {"model": "model: {use: my_name, inputs: 2, outputs: 2, hidden: 16}"},
    "loss": {**_NUMBERS, "task": "task: {use: regression, loss: {use: my_name, scale: 0.5}}"},
    "metric": {"task": "task: {use: classification, metrics: [{use: my_name, sure: 0.6}]}"},
    "task": {"model": _NUMBERS["model"], "task": "task: {use: my_name, threshold: 0.5}"},
    "optimizer": {"optimizer": "optimizer: {use: my_name, lr: 0.01, beta: 0.9}"},
    "schedule": {"schedule": "schedule: {use: my_name, rise: 0.1, fall: 0.3}"},
    "middleware": {"middleware": "middleware: [{use: my_name, factor: 2.0}]"},
    "observer": {"observers": "observers: [{use: my_name, goal: 0.5, metric: train/loss}]"},
}
"""Kind -> the lines that differ in a spec that uses a mapping of this kind."""
