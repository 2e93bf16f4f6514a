# ruff: noqa: E501
"""Public component libraries as data: what to install, and of each its components with what they do not say of themselves.

A component is `module:Class` -> (kind, what `mapsto.example` is told). Where a module is named for optimizers, all of it are judged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

try:
    from e3nn.o3 import Irreps

    IRREPS: Any = Irreps("4x0e + 1x1o")
except ImportError:
    IRREPS = None

from mapsto.formulas.optimizers import lion

Stated = dict[str, Any]
Inputs = Callable[[int, torch.Generator], tuple[Any, ...]]

PACKAGES = (
    "adan-pytorch", "dadaptation", "e3nn", "einops", "einx", "entmax", "frozendict", "hyper-connections", "kornia", "kornia-rs",
    "lion-pytorch", "local-attention", "loguru", "madgrad", "monai", "opt-einsum", "opt-einsum-fx", "prodigyopt", "pytorch-metric-learning",
    "pytorch-msssim", "pytorch-optimizer", "pytorch-ranger", "rotary-embedding-torch", "schedulefree", "torch-einops-utils",
    "torch-geometric", "torch-optimi", "torch-optimizer", "vector-quantize-pytorch", "x-transformers", "xxhash",
)  # fmt: skip
"""What is installed with `pip install --no-deps`, so that none of them replaces PyTorch."""


def normal(*shape: int) -> Inputs:
    """One float tensor [size, *shape]."""
    return lambda size, generator: (torch.randn(size, *shape, generator=generator),)


def both(*shape: int) -> Inputs:
    """Prediction and target alike, within 0 and 1."""
    return lambda size, generator: tuple(torch.rand(size, *shape, generator=generator) for _ in range(2))


def scores(classes: int, *shape: int) -> Inputs:
    """Scores [size, classes, *shape] and class indices [size, *shape]."""

    def made(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.randn(size, classes, *shape, generator=generator), torch.randint(
            classes, (size, *shape), generator=generator
        )

    return made


def channels(classes: int, *shape: int) -> Inputs:
    """Scores [size, classes, *shape] and class indices as one channel, [size, 1, *shape]."""

    def made(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        found, target = scores(classes, *shape)(size, generator)
        return found, target.unsqueeze(1).to(found.dtype)

    return made


def embedded(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Embeddings [size, 8] and labels."""
    return torch.randn(size, 8, generator=generator), torch.arange(size) % 3


def paired(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Embeddings [2 (size + 1), 8] and labels of which each is there twice."""
    return torch.randn(2 * size + 2, 8, generator=generator), torch.arange(2 * size + 2) // 2


def graph(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features [size, 8] of nodes, and edges [2, 3 size] among them."""
    return torch.randn(size, 8, generator=generator), torch.randint(size, (2, 3 * size), generator=generator)


def layer(inputs: Inputs, *tags: str, **args: Any) -> tuple[str, Stated]:
    return "layer", {"inputs": inputs, "tags": tags, "args": args}


def loss(inputs: Inputs, *tags: str, **args: Any) -> tuple[str, Stated]:
    return "loss", {"inputs": inputs, "tags": tags, "args": args}


def own(**args: Any) -> tuple[str, Stated]:
    """A loss whose inputs the checker finds."""
    return "loss", {"args": args}


ROWS = "row_independent"
STRAIGHT = "surrogate_gradient"
IMAGES, VOLUMES = (3, 16, 16), (2, 8, 8, 8)
ACROSS = "across_records"

COMPONENTS: dict[str, dict[str, tuple[str, Stated]]] = {
    "entmax": {
        **{n: layer(normal(6), ROWS) for n in ("Sparsemax", "Entmax15", "SparsemaxBisect", "EntmaxBisect", "NormmaxBisect")},
        **{
            n: own(ignore_index=0)  # a negative one ignores nothing
            for n in ("SparsemaxLoss", "Entmax15Loss", "SparsemaxBisectLoss", "EntmaxBisectLoss", "NormmaxBisectLoss")
        },
    },
    "x_transformers": {
        **{n: layer(normal(5, 16), ROWS, "single_precision", dim=16, depth=1, heads=2) for n in ("Encoder", "Decoder")},
        "Attention": layer(normal(5, 16), ROWS, "single_precision", dim=16, heads=2, dim_head=8),
        **{f"x_transformers:{n}": layer(normal(5, 16), ROWS, dim=16) for n in ("FeedForward", "RMSNorm", "ScaleNorm")},
        "x_transformers:LayerNorm": layer(normal(5, 16), ROWS, dim=16),
        "x_transformers:GRUGating": layer(lambda n, g: (torch.randn(n, 5, 16, generator=g), torch.randn(n, 5, 16, generator=g)), ROWS, dim=16),
        "x_transformers:ReluSquared": layer(normal(5, 16), ROWS),
        "x_transformers:ShiftTokens": layer(normal(6, 16), ROWS, shifts=(1, 0), fn=nn.Identity()),
    },
    "vector_quantize_pytorch": {
        "FSQ": layer(normal(5, 3), ROWS, STRAIGHT, levels=[8, 5, 5]),
        "LFQ": layer(normal(5, 4), STRAIGHT, codebook_size=16, dim=4),
        "VectorQuantize": layer(normal(5, 8), STRAIGHT, "stateful", dim=8, codebook_size=16),
        "ResidualVQ": layer(normal(5, 8), STRAIGHT, "stateful", dim=8, num_quantizers=2, codebook_size=16),
        "ResidualFSQ": layer(normal(5, 4), ROWS, STRAIGHT, dim=4, levels=[5, 5, 3], num_quantizers=2),
        "RandomProjectionQuantizer": layer(normal(5, 8), ROWS, dim=8, codebook_size=16, codebook_dim=4),
        "SimVQ": layer(normal(5, 8), STRAIGHT, dim=8, codebook_size=16),
    },
    "rotary_embedding_torch": {"RotaryEmbedding": layer(lambda n, g: (torch.arange(n, dtype=torch.float32),), dim=8)},
    "local_attention": {
        "LocalMHA": layer(normal(8, 16), ROWS, dim=16, window_size=4, heads=2, dim_head=8),
        "LocalAttention": layer(lambda n, g: tuple(torch.randn(n, 8, 16, generator=g) for _ in range(3)), ROWS, window_size=4, dim=16),
        "DynamicPositionBias": layer(lambda n, g: (4, 6), dim=8, heads=2),
    },
    "e3nn.nn": {
        "Activation": layer(normal(4), ROWS, irreps_in="4x0e", acts=[torch.tanh]),
        "BatchNorm": layer(normal(7), irreps="4x0e + 1x1o"),
        "Dropout": layer(normal(7), irreps="4x0e + 1x1o", p=0.5),
        "FullyConnectedNet": layer(normal(4), ROWS, hs=[4, 8, 3], act=torch.tanh),
        "Gate": layer(normal(8), ROWS, irreps_scalars="4x0e", act_scalars=[torch.tanh], irreps_gates="1x0e", act_gates=[torch.sigmoid], irreps_gated="1x1o"),
        "NormActivation": layer(normal(7), ROWS, irreps_in=IRREPS, scalar_nonlinearity=torch.sigmoid, bias=True),
        "S2Activation": layer(normal(4), ROWS, irreps="1x0e + 1x1o", act=torch.tanh, res=8),
    },
    "e3nn.o3": {
        "Linear": layer(normal(7), ROWS, irreps_in="4x0e + 1x1o", irreps_out="2x0e + 1x1o"),
        "FullyConnectedTensorProduct": layer(
            lambda n, g: (torch.randn(n, 7, generator=g), torch.randn(n, 4, generator=g)),
            ROWS, irreps_in1="4x0e + 1x1o", irreps_in2="1x0e + 1x1o", irreps_out="2x0e + 1x1o",
        ),
        "Norm": layer(normal(7), ROWS, irreps_in="4x0e + 1x1o"),
    },
    "torch_geometric.nn": {
        **{n: layer(graph, in_channels=8, out_channels=6) for n in ("GCNConv", "SAGEConv", "GATConv", "GATv2Conv", "GraphConv", "TAGConv", "TransformerConv", "LEConv", "ClusterGCNConv", "ARMAConv", "MFConv", "FeaStConv", "SGConv", "ResGatedGraphConv")},
        "ChebConv": layer(graph, in_channels=8, out_channels=6, K=2),
        "GINConv": layer(graph, nn=nn.Linear(8, 6)),
        "GatedGraphConv": layer(graph, out_channels=8, num_layers=2),
        "MLP": layer(normal(8), channel_list=[8, 12, 4], norm=None),
        "Linear": layer(normal(8), ROWS, in_channels=8, out_channels=6),
        **{n: layer(normal(8), in_channels=8) for n in ("BatchNorm", "LayerNorm", "GraphNorm", "MeanSubtraction")[:3]},
        "InstanceNorm": ("layer", {"inputs": normal(8), "args": {"in_channels": 8}, "dynamic": (2, 3, 7)}),  # of one node there is no deviation
        "PairNorm": layer(normal(8)),
        "MessageNorm": layer(lambda n, g: (torch.randn(n, 8, generator=g), torch.randn(n, 8, generator=g)), ROWS),
    },
    "monai.losses": {
        **{n: loss(channels(3, 8, 8), to_onehot_y=True, softmax=True) for n in ("DiceLoss", "DiceCELoss", "DiceFocalLoss", "GeneralizedDiceLoss", "GeneralizedDiceFocalLoss", "TverskyLoss")},
        "FocalLoss": loss(channels(3, 8, 8), to_onehot_y=True),
        "MCCLoss": loss(channels(3, 8, 8), ACROSS, to_onehot_y=True, softmax=True),
        "ContrastiveLoss": loss(both(8), ACROSS),
        "BarlowTwinsLoss": loss(both(8), ACROSS),
        "LocalNormalizedCrossCorrelationLoss": loss(both(1, 8, 8), spatial_dims=2),
        "GlobalMutualInformationLoss": loss(both(1, 8, 8)),
        "SSIMLoss": loss(both(1, 16, 16), spatial_dims=2),
        "NACLLoss": loss(scores(3, 8, 8), classes=3, dim=2),
    },
    "monai.networks.blocks": {
         "ADN": layer(normal(*IMAGES), in_channels=3, act="RELU", norm=("GROUP", {"num_groups": 1, "num_channels": 3}), norm_dim=2),
        "Convolution": layer(normal(*IMAGES), spatial_dims=2, in_channels=3, out_channels=4),
        "ResidualUnit": layer(normal(*IMAGES), spatial_dims=2, in_channels=3, out_channels=4),
        "MLPBlock": layer(normal(5, 16), ROWS, hidden_size=16, mlp_dim=32),
        "SABlock": layer(normal(5, 16), ROWS, hidden_size=16, num_heads=2),
        "ChannelSELayer": layer(normal(4, 8, 8), ROWS, spatial_dims=2, in_channels=4),
        "ResidualSELayer": layer(normal(4, 8, 8), ROWS, spatial_dims=2, in_channels=4),
        "UpSample": layer(normal(*IMAGES), ROWS, spatial_dims=2, in_channels=3, out_channels=3, scale_factor=2),
        "SubpixelUpsample": layer(normal(*IMAGES), ROWS, spatial_dims=2, in_channels=3),
        "MaxAvgPool": layer(normal(*IMAGES), ROWS, spatial_dims=2, kernel_size=2),
        "Swish": layer(normal(8), ROWS), "Mish": layer(normal(8), ROWS), "MemoryEfficientSwish": layer(normal(8), ROWS),
    },
    "kornia.losses": {
        **{n: loss(both(4)) for n in ("CauchyLoss", "CharbonnierLoss", "GemanMcclureLoss", "WelschLoss")},
        "DiceLoss": loss(scores(3, 8, 8)), "TverskyLoss": loss(scores(3, 8, 8), alpha=0.5, beta=0.5),
        "FocalLoss": loss(scores(3, 8, 8), alpha=0.5), "LovaszSoftmaxLoss": loss(scores(3, 8, 8)),
        "BinaryFocalLossWithLogits": loss(lambda n, g: (torch.randn(n, 1, 8, 8, generator=g), torch.randint(2, (n, 1, 8, 8), generator=g).float()), alpha=0.25),
        "PSNRLoss": loss(both(3, 8, 8), ACROSS, max_val=1.0),
        "SSIMLoss": loss(both(3, 16, 16), window_size=5),
        "MS_SSIMLoss": loss(both(3, 40, 40)),
    },
    "kornia.filters": {
        "GaussianBlur2d": layer(normal(*IMAGES), ROWS, kernel_size=(3, 3), sigma=(1.5, 1.5)),
        "BoxBlur": layer(normal(*IMAGES), ROWS, kernel_size=(3, 3)), "Laplacian": layer(normal(*IMAGES), ROWS, kernel_size=3),
        "Sobel": layer(normal(*IMAGES), ROWS), "SpatialGradient": layer(normal(*IMAGES), ROWS), "MedianBlur": layer(normal(*IMAGES), ROWS, kernel_size=(3, 3)),
        "UnsharpMask": layer(normal(*IMAGES), ROWS, kernel_size=(3, 3), sigma=(1.5, 1.5)),
    },
    "kornia.color": {n: layer(lambda n, g: (torch.rand(n, 3, 8, 8, generator=g),), ROWS) for n in ("RgbToGrayscale", "RgbToYuv", "RgbToHsv", "RgbToLab", "RgbToXyz", "RgbToYcbcr", "RgbToLinearRgb", "Sepia")},
    "pytorch_metric_learning.losses": {
        **{n: loss(paired, ACROSS) for n in ("ContrastiveLoss", "TripletMarginLoss", "NTXentLoss", "SupConLoss", "MultiSimilarityLoss", "NCALoss", "AngularLoss", "LiftedStructureLoss", "GeneralizedLiftedStructureLoss", "SignalToNoiseRatioContrastiveLoss", "IntraPairVarianceLoss", "TupletMarginLoss", "MarginLoss", "FastAPLoss", "SmoothAPLoss", "NPairsLoss")},
        **{n: loss(embedded, num_classes=3, embedding_size=8) for n in ("ArcFaceLoss", "CosFaceLoss", "NormalizedSoftmaxLoss", "ProxyNCALoss", "SphereFaceLoss", "SubCenterArcFaceLoss", "SoftTripleLoss", "LargeMarginSoftmaxLoss")},
        "CircleLoss": loss(paired, ACROSS, STRAIGHT),  # the weights of its pairs are constants by design
        "ProxyAnchorLoss": loss(embedded, ACROSS, num_classes=3, embedding_size=8),
    },
    "pytorch_msssim": {"SSIM": loss(both(3, 16, 16), data_range=1.0), "MS_SSIM": loss(both(3, 170, 170), data_range=1.0)},
    "transformers.activations": {n: layer(normal(8), ROWS) for n in ("NewGELUActivation", "QuickGELUActivation", "FastGELUActivation", "LaplaceActivation", "ReLUSquaredActivation", "MishActivation", "AccurateGELUActivation")},
    "transformers.pytorch_utils": {"Conv1D": layer(normal(5, 8), ROWS, nf=6, nx=8)},
    "transformers.models.llama.modeling_llama": {"LlamaRMSNorm": layer(normal(5, 16), ROWS, hidden_size=16)},
    "transformers.models.t5.modeling_t5": {"T5LayerNorm": layer(normal(5, 16), ROWS, hidden_size=16)},
    "pytorch_optimizer": {"SoftF1Loss": loss(None, ACROSS), **{n: own() for n in ("BCEFocalLoss", "FocalLoss", "FocalCosineLoss", "DiceLoss", "JaccardLoss", "LDAMLoss", "TverskyLoss", "FocalTverskyLoss", "LovaszHingeLoss", "BinaryBiTemperedLogisticLoss", "BiTemperedLogisticLoss", "BCELoss")}},
}  # fmt: skip

OPTIMIZERS = (
    "pytorch_optimizer", "torch_optimizer", "lion_pytorch", "schedulefree", "madgrad", "dadaptation", "prodigyopt", "optimi",
    "adan_pytorch", "transformers.optimization",
)  # fmt: skip
LEFT_OUT = {
    "BaseOptimizer", "CPUOffloadOptimizer", "ScheduleFreeWrapper", "ScheduleFreeWrapperReference", "DistributedMuon", "Lookahead", "SAM", "GSAM",
    "WSAM", "BSAM", "LookSAM", "FriendlySAM", "OrthoGrad", "TRAC", "GaLore", "LOMO", "AdaLOMO", "OptimiOptimizer", "MirrorMADGRAD",
    "LayerWiseDummyOptimizer",
}  # fmt: skip
"""Bases, placeholders, wrappers of another optimizer, and those that take a model instead of parameters."""
FALSE_ALARMS: dict[tuple[str, str], str] = {
    **{
        (f"kornia.losses:{n}", "loss.reductions"): "what an ignored pixel weighs in a ratio of sums has no one answer"
        for n in ("DiceLoss", "TverskyLoss")
    },
    **{
        (f"vector_quantize_pytorch:{n}", "layer.state"): "nobody could settle whether the lost gradient is meant"
        for n in ("VectorQuantize", "ResidualVQ")
    },
    ("pytorch_metric_learning.losses:SmoothAPLoss", "loss.gradients"): "its sigmoid is flat where the differences look",
}
"""(component, law) -> why a red verdict that stands is no fault of the component, or not known to be one."""
GLOBAL = ("DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", "DAdaptLion", "DAdaptSGD", "Prodigy", "AdaGC", "Adai", "AdamS")
"""Rules with one estimate, norm or statistic for all parameters."""
STATED: dict[str, Stated] = {
    "lion_pytorch:Lion": {"formula": lion},
    "pytorch_optimizer:Lion": {"formula": lion},
    **{f"{m}:{n}": {"tags": ["across_parameters"]} for n in GLOBAL for m in ("pytorch_optimizer", "dadaptation", "prodigyopt")},
    **{f"pytorch_optimizer:{n}": {"tags": ["stochastic"]} for n in ("Kron", "Magma", "DASH")},
    **{f"pytorch_optimizer:{n}": {"args": {"momentum": 0.9}} for n in ("SGDP", "QHM", "SGDW")},
}
"""What is stated of optimizers."""
