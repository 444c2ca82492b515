"""Every adapter method that PEFT has, each configured for small linear layers.

    METHODS["hra"].config(["up", "down"], r=4)     -> peft.HRAConfig
    METHODS["hra"].wrap(model, ["up", "down"])     -> PeftModel, data-driven starts included

A method is one of PEFT's types, or an option of one that changes the mathematics. All that the installed PEFT has is
in METHODS or in EXCLUDED, with the reason; tests hold both against it, and each quotation against PEFT's own text.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata, util
from typing import Any

import torch
from torch import nn

from .peft import _peft, start_eva

ARXIV, OPEN_REVIEW = "https://arxiv.org/abs/", "https://openreview.net/forum?id="


@dataclass(frozen=True)
class Quote:
    """What the source says of a deviation from the contract.

    Args:
        words: as they stand in the file.
        file: under PEFT's src/peft, or the address of the authors' own code.
    """

    words: str
    file: str

    @property
    def link(self) -> str:
        if self.file.startswith("https://"):
            return self.file
        return f"https://github.com/huggingface/peft/blob/v{metadata.version('peft')}/src/peft/{self.file}"


@dataclass(frozen=True)
class Method:
    """One of PEFT's methods, ready for linear layers whose widths are multiples of 8.

    Args:
        kind: the name of PEFT's configuration class.
        paper: where it was published.
        fields: (r, targets) -> the configuration's fields beside the targets.
        ranked: whether r is among them.
        start: (model, config, batches, upcast) -> PeftModel, for a start that needs data.
        ready: what a PeftModel of this method needs before it takes x as its one argument.
        needs: packages that PEFT does not bring.
        layer: the kind of layer it adapts: "linear" or "norm".
        three: whether it takes inputs of (batch, tokens, d) alone.
        widens: whether model.double() takes it to float64 after its start, which may refuse that.
        biased: whether the layer must have a bias.
        lr: the rate that it is trained at.
        idle: fields of the configuration that do something only beside others that are not set here: why.
        unfit: checks of the contract that do not apply: why.
        by_design: {check of the contract: what PEFT says about deviating there}.
    """

    name: str
    kind: str
    paper: str
    fields: Callable[[int, list[str]], dict[str, Any]]
    ranked: bool = True
    start: Callable[[nn.Module, Any, list, bool], nn.Module] | None = None
    ready: Callable[[nn.Module], None] = lambda wrapped: None
    needs: tuple[str, ...] = ()
    layer: str = "linear"
    three: bool = False
    widens: bool = True
    lr: float = 5e-3
    biased: bool = False
    idle: dict[str, str] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    by_design: dict[str, Quote] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        return [package for package in self.needs if util.find_spec(package) is None]

    @property
    def source(self) -> str:
        """PEFT's implementation."""
        return Quote("", f"tuners/{_class(self.kind).__module__.split('.')[2]}").link.replace("/blob/", "/tree/")

    def config(self, targets: Iterable[str], r: int = 4, **changes):
        """PEFT's configuration, of rank r if it has a rank; `changes` are fields to set otherwise."""
        targets = list(targets)
        return _class(self.kind)(**{"target_modules": targets, **self.fields(r, targets), **changes})

    def wrap(
        self,
        model: nn.Module,
        targets: Iterable[str],
        r: int = 4,
        batches: list | None = None,
        *,
        changes: dict[str, Any] | None = None,
        upcast: bool = True,
    ) -> nn.Module:
        """PEFT's model with this method on these layers. `model` is changed in place, as PEFT does.

        Args:
            batches: what `model` takes as its one argument; for a start that comes from data.
            changes: fields of the configuration to set otherwise.
            upcast: PEFT's autocast_adapter_dtype: the adapter of a bf16 or fp16 base in float32.

        Raises:
            ImportError: PEFT, or what this method needs beside it, is not installed.
            ValueError: the start needs data and there is none; or PEFT's own refusals.
        """
        if self.missing:
            raise ImportError(f"PEFT's {self.name} needs the package {' and '.join(self.missing)}")
        config = self.config(targets, r, **(changes or {}))
        if self.start is None:
            wrapped = _peft().get_peft_model(model, config, autocast_adapter_dtype=upcast)
        elif batches:
            wrapped = self.start(model, config, batches, upcast)
        else:
            raise ValueError(f"PEFT's {self.name} starts from data: give batches that the model takes")
        self.ready(wrapped)
        return wrapped

    def load(self, model: nn.Module, folder) -> nn.Module:
        """The adapter that `save_pretrained` wrote, on another copy of the model."""
        wrapped = _peft().PeftModel.from_pretrained(model, folder, is_trainable=True)
        self.ready(wrapped)
        return wrapped


def methods() -> dict[str, Method]:
    """Those that can run with what is installed."""
    return {name: method for name, method in METHODS.items() if not method.missing}


def _class(name: str):
    """From peft, or from where its LoRA keeps the configurations that it does not export."""
    peft = _peft()
    from peft.tuners.lora import config

    return getattr(peft, name, None) or getattr(config, name)


# ---- starts, and what forward needs ---------------------------------------------------------------


def _start_eva(model, config, batches, upcast):
    wrapped = _peft().get_peft_model(model, config, autocast_adapter_dtype=upcast)
    start_eva(wrapped, batches)
    return wrapped


def _start_corda(model, config, batches, upcast):
    from peft.tuners.lora.corda import preprocess_corda

    # Its hook takes rows, or sequences one at a time.
    rows = [batch.flatten(0, -2) if batch.dim() == 3 else batch for batch in batches]
    preprocess_corda(model, config, run_model=lambda: [model(batch) for batch in rows])
    return _peft().get_peft_model(model, config, autocast_adapter_dtype=upcast)


def _start_lora_ga(model, config, batches, upcast):
    from peft.tuners.lora.loraga import preprocess_loraga

    def step():  # any loss: its gradient gives the directions
        for batch in batches:
            model(batch).square().mean().backward()

    preprocess_loraga(model, config, step)
    return _peft().get_peft_model(model, config, autocast_adapter_dtype=upcast)


def _task_zero(wrapped):
    """Poly asks for a task per sample; PEFT hands it down only from its sequence-to-sequence class."""
    from peft.tuners.poly.layer import Linear

    def add(module, args, kwargs):
        return args, {"task_ids": torch.zeros(len(args[0]), dtype=torch.long, device=args[0].device), **kwargs}

    for module in wrapped.modules():
        if isinstance(module, Linear):
            module.register_forward_pre_hook(add, with_kwargs=True)


# ---- fields ---------------------------------------------------------------------------------------


def _lora(**more):
    """alpha = 2 r, so that a forgotten alpha / r shows. A nested configuration is (class, its fields)."""

    def fields(r, targets):
        made = {key: _class(v[0])(**v[1]) if isinstance(v, tuple) else v for key, v in more.items()}
        return {"r": r, "lora_alpha": 2 * r, **made}

    return fields


def _ranked(**more):
    return lambda r, targets: {"r": r, **more}


def _alpha(**more):
    return lambda r, targets: {"r": r, "alpha": 2 * r, **more}


def _plain(**fields):
    return {"fields": lambda r, targets: dict(fields), "ranked": False}


def _bd(r, targets):
    from peft import BdLoraConfig

    return {"r": r, "lora_alpha": 2 * r, "use_bdlora": BdLoraConfig(target_modules_bd_b=list(targets), nblocks=2)}


# ---- what PEFT says of its own deviations -----------------------------------------------------------

_ODD = Quote("It is best to set 'r' to an even number", "tuners/hra/config.py")
_LILY = Quote(
    "expert_probabilities = router_probability.mean(dim=(0, 1))",
    "https://github.com/yibozhong/lily/blob/db6ed3c8f8e2efb967c82d57a356146ceec99a67/"
    "commonsense-reasoning/peft/src/peft/tuners/lily.py",
)
_DEFT = {"init_scale": "acts where init_weights is False"}
_ADALORA = dict.fromkeys(
    ("beta1", "beta2", "deltaT", "target_r", "tfinal", "tinit", "total_step"),
    "acts in update_and_allocate, between the steps",
)
_ASA = dict.fromkeys(
    (
        "use_asa", "asa_importance_beta", "asa_schedule_exponent", "asa_target_subspaces", "asa_uncertainty_beta",
        "final_warmup", "init_warmup", "mask_interval",
    ),
    "acts in a callback, between the steps",
)  # fmt: skip
_PROJECTED = Quote("self.weight.copy_(self._project_batch(self.weight, eps=self.eps))", "tuners/oft/layer.py")
_OFT = {"r": "is the other way to say oft_block_size"}
_RESIDUAL = Quote(
    "post-training conversion of modified base weights PiSSA/CorDA/OLoRA/LoRA-GA", "tuners/lora/config.py"
)
_KASA = Quote("Disabling or unloading the adapter does not restore the original weight", "tuners/lora/config.py")

# ---- the methods ------------------------------------------------------------------------------------

_ALL = [
    # LoRA, and what its options make of it
    Method("lora", "LoraConfig", ARXIV + "2106.09685", _lora()),
    Method("rslora", "LoraConfig", ARXIV + "2312.03732", _lora(use_rslora=True)),
    Method("lora_bias", "LoraConfig", ARXIV + "2106.09685", _lora(lora_bias=True), biased=True),
    Method(
        "lora_orthogonal",
        "LoraConfig",
        "https://datta0.github.io/posts/rethink-lora-init/",
        _lora(init_lora_weights="orthogonal"),
    ),
    Method("dora", "LoraConfig", ARXIV + "2402.09353", _lora(use_dora=True)),
    Method(
        "pissa",
        "LoraConfig",
        ARXIV + "2404.02948",
        _lora(init_lora_weights="pissa"),
        by_design={"restores": _RESIDUAL},
    ),
    Method(
        "pissa_niter_4",
        "LoraConfig",
        ARXIV + "2404.02948",
        _lora(init_lora_weights="pissa_niter_4"),
        by_design={"restores": _RESIDUAL},
    ),
    Method(
        "olora",
        "LoraConfig",
        ARXIV + "2406.01775",
        _lora(init_lora_weights="olora"),
        by_design={
            "restores": _RESIDUAL,
            "quantised": Quote("base_layer.weight = weight_tensor", "tuners/lora/layer.py"),
        },
    ),
    Method("mica", "LoraConfig", ARXIV + "2604.01694", _lora(init_lora_weights="mica")),
    Method(
        "eva",
        "LoraConfig",
        ARXIV + "2410.07170",
        _lora(init_lora_weights="eva", eva_config=("EvaConfig", {"rho": 1.0})),
        start=_start_eva,
    ),
    Method(
        "corda",
        "LoraConfig",
        ARXIV + "2406.05223",
        _lora(init_lora_weights="corda", corda_config=("CordaConfig", {})),
        start=_start_corda,
        by_design={"restores": _RESIDUAL},
    ),
    Method(
        "lora_ga",
        "LoraConfig",
        ARXIV + "2407.05000",
        _lora(init_lora_weights="lora_ga", lora_ga_config=("LoraGAConfig", {})),
        start=_start_lora_ga,
        by_design={"restores": _RESIDUAL},
    ),
    Method(
        "kasa",
        "LoraConfig",
        ARXIV + "2412.06071",
        _lora(kasa_config=("KasaConfig", {})),
        by_design={
            "identity": Quote("The base-weight truncation is destructive", "tuners/lora/config.py"),
            "restores": _KASA,
        },
    ),
    Method("velora", "LoraConfig", ARXIV + "2405.17991", _lora(velora_config=("VeloraConfig", {"num_groups": 8}))),
    Method(
        "monteclora",
        "LoraConfig",
        ARXIV + "2411.04358",
        _lora(monteclora_config=("MontecloraConfig", {"buffer_size": 4})),
        unfit={
            "parameters": "its priors act in training alone",
            "eval_train": "it draws from a buffer of its own in training: no two passes are the same",
            "compile": "it draws from a buffer of its own in training: no two passes are the same",
        },
    ),
    Method("bdlora", "LoraConfig", ARXIV + "2510.23346", _bd),
    # the other types
    Method(
        "adalora",
        "AdaLoraConfig",
        ARXIV + "2303.10512",
        lambda r, targets: {"init_r": r, "target_r": max(1, r // 2), "lora_alpha": 2 * r, "total_step": 100},
        idle={**_ADALORA, "orth_reg_weight": "acts on the loss of a model that returns one"},
        by_design={"gradients": Quote("nn.init.zeros_(self.lora_E[adapter_name])", "tuners/adalora/layer.py")},
    ),
    Method(
        "boft",
        "BOFTConfig",
        ARXIV + "2311.06243",
        **_plain(boft_block_size=4),
        idle={"boft_n_butterfly_factor": "without a CUDA compiler PEFT sets it to 1, and warns"},
        by_design={"moves": Quote("skew_mat = 0.5 * (data - data.transpose(1, 2))", "tuners/boft/layer.py")},
    ),
    Method("oft", "OFTConfig", ARXIV + "2306.07280", **_plain(oft_block_size=4), idle=_OFT),
    Method(
        "oft_exact", "OFTConfig", ARXIV + "2306.07280", **_plain(oft_block_size=4, use_cayley_neumann=False), idle=_OFT
    ),
    Method("oft_shared", "OFTConfig", ARXIV + "2306.07280", **_plain(oft_block_size=4, block_share=True), idle=_OFT),
    Method(
        "coft",
        "OFTConfig",
        ARXIV + "2306.07280",
        **_plain(oft_block_size=4, coft=True, eps=0.1),
        idle=_OFT,
        by_design={"in_place": _PROJECTED, "eval_train": _PROJECTED},
    ),
    Method("ia3", "IA3Config", ARXIV + "2205.05638", **_plain(feedforward_modules=[])),
    Method(
        "ia3_ff",
        "IA3Config",
        ARXIV + "2205.05638",
        lambda r, targets: {"feedforward_modules": list(targets)},
        ranked=False,
    ),
    Method("hra", "HRAConfig", ARXIV + "2405.17484", _ranked(), by_design={"ranks": _ODD}),
    Method("hra_gs", "HRAConfig", ARXIV + "2405.17484", _ranked(apply_GS=True)),
    Method(
        "delora",
        "DeloraConfig",
        ARXIV + "2503.18225",
        _ranked(),
        by_design={"first_step": Quote("nn.init.zeros_(self.delora_B[adapter_name])", "tuners/delora/layer.py")},
    ),
    Method("loha", "LoHaConfig", ARXIV + "2108.06098", _alpha()),
    Method(
        "lokr",
        "LoKrConfig",
        ARXIV + "2309.14859",
        _alpha(),
        idle={"decompose_both": "acts where r is below half of both Kronecker factors"},
    ),
    Method("vera", "VeraConfig", ARXIV + "2310.11454", _ranked()),
    Method(
        "pvera",
        "PveraConfig",
        ARXIV + "2512.07703",
        _ranked(),
        idle={"sample_at_inference": "acts in eval mode"},
    ),
    Method(
        "fourierft",
        "FourierFTConfig",
        ARXIV + "2405.03003",
        **_plain(n_frequency=64),
        by_design={
            "identity": Quote(
                "Set this to False (the default) if the spectrum are initialized to a standard normal distribution",
                "tuners/fourierft/config.py",
            )
        },
    ),
    Method(
        "waveft",
        "WaveFTConfig",
        ARXIV + "2505.12532",
        **_plain(n_frequency=64),
        idle={"proportional_parameters": "acts between layers of different sizes"},
    ),
    Method(
        "c3a",
        "C3AConfig",
        ARXIV + "2407.19342",
        **_plain(block_size=8),
        by_design={
            "identity": Quote(
                "To set the weights to zeros (thus making C3A a no-op), set the value to `True`", "tuners/c3a/config.py"
            )
        },
    ),
    Method(
        "vblora",
        "VBLoRAConfig",
        ARXIV + "2405.15179",
        _ranked(num_vectors=16, vector_length=8),
        by_design={
            "identity": Quote(
                "Avoid initializing the vector bank with all zeros to prevent zero gradients", "tuners/vblora/config.py"
            ),
            "moves": Quote("top_k_logits, indices = logits.topk(topk, dim=-1)", "tuners/vblora/layer.py"),
        },
    ),
    Method(
        "unilora",
        "UniLoraConfig",
        ARXIV + "2506.00799",
        _ranked(theta_d_length=64, init_theta_d_bound=0.5),
        by_design={
            "identity": Quote(
                "Initializing with zeros is avoided to prevent vanishing gradients", "tuners/unilora/config.py"
            )
        },
    ),
    Method(
        "randlora",
        "RandLoraConfig",
        ARXIV + "2502.00987",
        lambda r, targets: {"r": r, "randlora_alpha": 2 * r},
        by_design={
            "gradients": Quote("nn.init.zeros_(self.randlora_lambda[adapter_name])", "tuners/randlora/layer.py")
        },
    ),
    Method("miss", "MissConfig", ARXIV + "2409.15371", _ranked()),
    Method("miss_bat", "MissConfig", ARXIV + "2409.15371", _ranked(init_weights="bat")),
    Method("miss_mini", "MissConfig", ARXIV + "2409.15371", _ranked(init_weights="mini", mini_r=4)),
    Method("road_1", "RoadConfig", ARXIV + "2409.00119", **_plain(variant="road_1", group_size=8)),
    Method("road_2", "RoadConfig", ARXIV + "2409.00119", **_plain(variant="road_2", group_size=8)),
    Method("road_4", "RoadConfig", ARXIV + "2409.00119", **_plain(variant="road_4", group_size=8)),
    Method("shira", "ShiraConfig", ARXIV + "2406.13175", _ranked(random_seed=0)),
    Method(
        "osf",
        "OSFConfig",
        ARXIV + "2504.07097",
        lambda r, targets: {"effective_rank": r},
    ),
    Method("gralora", "GraloraConfig", ARXIV + "2505.20355", _alpha()),
    Method("gralora_hybrid", "GraloraConfig", ARXIV + "2505.20355", _alpha(hybrid_r=2)),
    Method("hira", "HiraConfig", OPEN_REVIEW + "TwJrTz9cRS", _ranked()),
    Method("glora", "GloraConfig", ARXIV + "2306.07967", _ranked()),
    Method("frod", "FrodConfig", "https://doi.org/10.1609/aaai.v40i31.39813", **_plain(progressbar=False)),
    Method(
        "lily",
        "LilyConfig",
        ARXIV + "2407.09946",
        _ranked(),
        idle={"stride_A": "acts between layers of one kind"},
        by_design=dict.fromkeys(("dense", "bias", "shapes", "ranks", "layers", "quantised"), _LILY),
    ),
    Method("peanut", "PeanutConfig", ARXIV + "2410.01870", _ranked()),
    Method(
        "poly",
        "PolyConfig",
        ARXIV + "2202.13914",
        _ranked(),
        ready=_task_zero,
        three=True,
        unfit={"compile": "it takes (batch, tokens, d) alone: see shapes"},
    ),
    Method("psoft", "PsoftConfig", OPEN_REVIEW + "FSHrinMArK", lambda r, targets: {"r": r, "psoft_alpha": r}),
    Method("tinylora", "TinyLoraConfig", ARXIV + "2602.04118", _ranked(u=8)),
    Method(
        "supertuning",
        "SupertuningConfig",
        ARXIV + "2607.09287",
        **_plain(sparsity=0.9),
        idle={"lora_dropout": "acts beside r: see supra"},
    ),
    Method("supra", "SupertuningConfig", ARXIV + "2607.09287", _ranked(sparsity=0.9)),
    Method("deft", "DeftConfig", ARXIV + "2509.22793", _ranked(), idle=_DEFT),
    Method("deft_qr", "DeftConfig", ARXIV + "2509.22793", _ranked(decomposition_method="qr"), idle=_DEFT),
    Method(
        "para",
        "DeftConfig",
        ARXIV + "2509.22793",
        _ranked(para=True),
        idle=_DEFT,
        by_design={"identity": Quote("the adapter cannot be an identity at init", "tuners/deft/config.py")},
    ),
    Method(
        "adamss",
        "AdamssConfig",
        OPEN_REVIEW + "8ZdWmpYxT0",
        lambda r, targets: {"r": 4 * r, "num_subspaces": 2, "subspace_rank": 1},
        needs=("sklearn",),
        widens=False,
        idle={**_ASA, "svd_threshold": "acts beside use_dynamic_rank"},
    ),
    Method(
        "beft",
        "BeftConfig",
        ARXIV + "2509.15974",
        **_plain(),
        biased=True,
        unfit={"first_step": "it trains a bias alone: W' does not move"},
    ),
    Method(
        "ln_tuning",
        "LNTuningConfig",
        ARXIV + "2312.11420",
        **_plain(),
        layer="norm",
        unfit=dict.fromkeys(
            ("dense", "bias", "shapes", "first_step", "layers", "quantised"),
            "it trains a normalisation, which is no affine map",
        ),
    ),
]
METHODS: dict[str, Method] = {method.name: method for method in _ALL}

_PROMPT = "learns a prompt or a prefix of the input: it changes no layer"
_SEVERAL = "mixes several trained LoRA adapters of a language model: what it adds is the router between them"
# PEFT's types and LoRA's options that are not in METHODS: why not.
EXCLUDED: dict[str, str] = {
    "PROMPT_TUNING": _PROMPT,
    "MULTITASK_PROMPT_TUNING": _PROMPT,
    "P_TUNING": _PROMPT,
    "PREFIX_TUNING": _PROMPT,
    "CPT": _PROMPT,
    "CARTRIDGE": _PROMPT,
    "ADAPTION_PROMPT": "learns a prefix inside the attention of a Llama: it wraps the whole block, not a layer of it",
    "XLORA": _SEVERAL,
    "arrow_config": _SEVERAL,
    "TRAINABLE_TOKENS": "trains rows of an embedding: it changes no linear or normalisation layer",
    "SHADOW": "trains a second, smaller model beside a decoder's blocks: it changes no single layer",
    "loftq": "quantises the base on a CUDA device; without one PEFT stops",
    "gaussian": "draws A otherwise: the mathematics of lora",
    "alora_invocation_tokens": "is LoRA from an invocation token onwards: it needs token ids, which no layer sees",
    "qalora_group_size": "is for GPTQ bases, which need a GPU kernel to be made",
    "use_qalora": "is for GPTQ bases, which need a GPU kernel to be made",
    "target_parameters": "adapts bare parameters of mixtures of experts: it changes no linear layer",
}
