"""The contract: every shipped variant keeps it, and every check fails on something that is wrong in its way."""

import contextlib
import json
import random
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy
import pytest
import torch
from torch import nn

import adapterlab as al
from adapterlab.contract import CHECKS, Foreign, check
from adapterlab.contract.bases import alone
from adapterlab.contract.finding import Worst
from adapterlab.contract.subject import Ours
from adapterlab.variant import ParamSpec, kaiming
from helpers import IDS, OTHER_EQUATIONS, VARIANTS

LORA = dict(r=4, alpha=6)


def variant(cls):
    """A frozen dataclass with a name of its own, not registered."""
    cls = dataclass(frozen=True)(cls)
    cls.name = f"test.{cls.__name__}"
    return cls


# ---- what is right --------------------------------------------------------------------------------

# What cannot apply, by the variant; "start" needs a reference, "file" a file.
GATES = {"cancels", "fields", "ranks"}
NOT_APPLICABLE = {"ia3": GATES, "ia3_ff": GATES, "hra": {"cancels"}, "antipasto": {"cancels"}}


@pytest.mark.parametrize("one", [*VARIANTS, *OTHER_EQUATIONS.values()], ids=[*IDS, *OTHER_EQUATIONS])
def test_every_shipped_variant_keeps_the_contract(one):
    report = check(one)
    assert list(report) == list(CHECKS)
    assert report.ok and not report.failed, report
    by_status = {status: {n for n, r in report.items() if r.status == status} for status in ("n/a", "by design")}
    assert by_status["n/a"] == {"start", "file"} | NOT_APPLICABLE.get(one.name, set())
    cliff = isinstance(one, al.DeLoRA) and one.start == "zero"
    assert by_status["by design"] == ({"first_step"} if cliff else set())
    for result in report.values():
        assert result.status != "n/a" or len(result.note.split()) > 3, "nothing passes silently"
        assert result.figure is None or result.limit is not None
        assert result.status != "pass" or result.figure is None or result.figure <= result.limit


@pytest.mark.parametrize("one", VARIANTS, ids=IDS)
def test_a_class_stands_for_its_defaults_and_another_seed_says_the_same(one):
    report = check(type(one), seed=3, only=set(CHECKS) - {"compile", "quantised", "offload"})
    assert report.ok, report
    assert report.subject == repr(type(one)())


def test_its_own_equation_is_a_reference_that_agrees():
    for one in al.PiSSA(**LORA), al.DoRA(**LORA), al.HRA(r=4), al.AntiPaSTO(r=4, block_size=2):
        report = check(one, reference=one, only=("dense", "bias", "gradients", "start", "ranks", "fields"))
        assert report.ok, report
        assert report["start"].status == ("pass" if isinstance(one, al.PiSSA | al.AntiPaSTO) else "n/a")


# ---- an adapter of somebody else's ----------------------------------------------------------------


class Thin(nn.Module):
    """A LoRA in a child module of its own."""

    def __init__(self, layer):
        super().__init__()
        d_in, d_out = layer.in_features, layer.out_features
        self.a = nn.Parameter(torch.randn(4, d_in) / d_in**0.5)
        self.b = nn.Parameter(torch.zeros(d_out, 4))
        self.on = True

    def forward(self, x, y):
        return (y + (x.to(self.a.dtype) @ self.a.T @ self.b.T) * 1.5).to(y.dtype) if self.on else y


def layers(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def _hook(layer, args, y):
    return layer.thin(args[0], y)


def put_on(model, reset=True):
    if any(type(m).__name__ in ("Conv1D", "Conv2d") for m in model.modules()):
        raise ValueError("this adapter is for nn.Linear and for nothing else")
    model.requires_grad_(False)
    for layer in layers(model):
        layer.support_avx512bf16_for_cpu = False  # bitsandbytes would repack a 4-bit weight, and gradients end there
        layer.thin = Thin(layer)
        layer.hook = layer.register_forward_hook(_hook)
    if reset:
        torch.compiler.reset()
    return model


@contextlib.contextmanager
def disabled(model):
    for layer in layers(model):
        layer.thin.on = False
    yield
    for layer in layers(model):
        layer.thin.on = True


def remove(model):
    for layer in layers(model):
        layer.hook.remove()
        del layer.thin, layer.hook
    return model.requires_grad_(True)


def difference(layer):
    return (1.5 * layer.thin.b @ layer.thin.a).to(layer.weight.dtype)


@torch.no_grad()
def merge(model):
    for layer in layers(model):
        layer.weight = nn.Parameter(layer.weight + difference(layer), requires_grad=False)
    return remove(model)


@torch.no_grad()
def cycle(model):
    """Of an adapter that keeps the base's bytes."""
    for layer in layers(model):
        kept = layer.weight.clone()
        layer.weight.add_(difference(layer))
        layer.weight.copy_(kept)


def state(model):
    return {name: p for name, p in model.named_parameters() if ".thin." in name}


def save(model, folder):
    base = {name: p for name, p in model.named_parameters() if ".thin." not in name}
    torch.save({"thin": state(model), "base": base}, folder / "thin.pt")


def load(model, folder):
    held = torch.load(folder / "thin.pt")
    if any(not torch.equal(p, held["base"][name]) for name, p in model.named_parameters()):
        raise ValueError("this is another base than the one it was saved on")
    put_on(model).load_state_dict(held["thin"], strict=False)
    return model


ALL = dict(put_on=put_on, disabled=disabled, remove=remove, merge=merge, cycle=cycle, save=save, load=load, rank=4)


def test_a_foreign_adapter_that_is_right_keeps_the_contract():
    report = check(Foreign(name="thin", **ALL))
    assert report.ok and report.subject == "thin", report
    assert {name for name, result in report.items() if result.status == "n/a"} == {
        "cancels", "start", "fields", "file", "ranks"
    }  # fmt: skip


def test_what_a_foreign_adapter_was_given_without_is_said():
    report = check(Foreign(put_on))
    assert report.ok, report
    for name, what in {"restores": "remove", "reload": "save", "merge": "merge", "cycles": "cycle"}.items():
        assert report[name].status == "n/a" and f"`{what}`" in report[name].note


def test_a_foreign_adapters_own_equation_judges_it():
    def equation(model, path, factor=1.0):
        layer = model.get_submodule(path)
        return layer.weight + factor * 1.5 * layer.thin.b @ layer.thin.a, layer.bias

    assert check(Foreign(equation=equation, **ALL), only="dense").ok
    wrong = check(Foreign(equation=lambda model, path: equation(model, path, 2.0), **ALL), only="dense")
    assert wrong["dense"].status == "fail" and wrong["dense"].figure > 0.1


# ---- one wrong thing for each check ---------------------------------------------------------------


@variant
class StartsElsewhere(al.LoRA):
    def specs(self, d_in, d_out):
        return super().specs(d_in, d_out) | {"lora_B": ParamSpec((d_out, self.r), kaiming)}


@variant
class RoundedMagnitude(al.DoRA):
    def init(self, p, layer):
        super().init(p, layer)
        p.lora_m.copy_(p.lora_m.to(layer.weight.dtype))


@variant
class NoScale(al.LoRA):
    def prepare(self, p, layer):
        return p.lora_A, p.lora_B, 1.0


@variant
class ScaledBias(al.DoRA):
    def forward(self, prepared, x, y):
        A, B, s, c, b = prepared
        return (c * (y + s * x.to(A.dtype) @ A.T @ B.T)).to(y.dtype)


@variant
class NaiveNorm(al.DoRA):
    def _norm(self, p, layer):
        W, A, B = layer.weight, p.lora_A.detach(), p.lora_B.detach()
        squares = W.square().sum(1) + 2 * p.scale * (W @ A.T * B).sum(1) + p.scale**2 * (B @ (A @ A.T) * B).sum(1)
        return squares.clamp(min=0).sqrt()


@variant
class Smallest(al.PiSSA):
    def init(self, p, layer):
        U, S, Vh = (t.flip(-1) if t.dim() == 1 else t for t in torch.linalg.svd(layer.weight, full_matrices=False))
        root = (S[: self.r] / abs(p.scale)).sqrt()
        for name, value in {"lora_A": root[:, None] * Vh[-self.r :], "lora_B": U[:, -self.r :] * root}.items():
            getattr(p, name).copy_(value)
            getattr(p, f"{name}0").copy_(value)


@variant
class MatricesOnly(al.LoRA):
    def forward(self, prepared, x, y):
        A, B, s = prepared
        return y + s * x.mm(A.T).mm(B.T)


@variant
class Gated(al.LoRA):
    def specs(self, d_in, d_out):
        return {
            "lora_A": ParamSpec((self.r, d_in), kaiming),
            "lora_B": ParamSpec((d_out, self.r), kaiming),
            "lora_gate": ParamSpec(()),
        }

    def effective_weight(self, p, W, b):
        return W + p.scale * p.lora_gate * p.lora_B @ p.lora_A, b

    def prepare(self, p, layer):
        return p.lora_A, p.lora_gate * p.lora_B, p.scale


@variant
class Detached(al.LoRA):
    def prepare(self, p, layer):
        return p.lora_A.detach(), p.lora_B, p.scale


@variant
class Uphill(al.LoRA):
    def prepare(self, p, layer):
        return p.lora_A, 2 * p.lora_B.detach() - p.lora_B, p.scale


@variant
class FrozenA(al.LoRA):
    def specs(self, d_in, d_out):
        return super().specs(d_in, d_out) | {"lora_A": ParamSpec((self.r, d_in), kaiming, as_buffer=True)}


@variant
class Overflows(al.LoRA):
    def forward(self, prepared, x, y):
        A, B, s = prepared
        return y + (x @ A.T.to(x.dtype)) * 1e6 @ (1e-6 * s * B.T).to(x.dtype)


@variant
class Unread(al.LoRA):
    dropout: float = 0.0


@variant
class NoOtherValue(al.LoRA):
    note: tuple = ()


@variant
class Idle(al.LoRA):
    def specs(self, d_in, d_out):
        return super().specs(d_in, d_out) | {"lora_idle": ParamSpec((3,))}


@variant
class WritesToTheBase(al.PiSSA):
    def init(self, p, layer):
        super().init(p, layer)
        layer.weight -= p.scale * p.lora_B.to(layer.weight.dtype) @ p.lora_A.to(layer.weight.dtype)


@variant
class LeavesSomething(al.LoRA):
    def init(self, p, layer):
        layer.register_buffer("seen", torch.ones(1))


@variant
class Unsaved(al.LoRA):
    def derive(self, p, layer):
        return {"kick": torch.randn(layer.out_features)}

    def effective_weight(self, p, W, b):
        return W, b

    def forward(self, prepared, x, y):
        A, B, s, kick = prepared
        return (y + s * (x.to(A.dtype) @ A.T @ B.T) * kick).to(y.dtype)

    def prepare(self, p, layer):
        return p.lora_A, p.lora_B, p.scale, p.kick


@variant
class OtherFactors(al.LoRA):
    def low_rank(self, p, layer):
        return p.lora_A, p.lora_B


@variant
class KeptInEval(al.LoRA):
    def prepare(self, p, layer):
        if not p.training:
            p.kept = p.lora_A.detach().clone(), p.lora_B.detach().clone(), p.scale
        return getattr(p, "kept", (p.lora_A, p.lora_B, p.scale))


@variant
class ReadsLater(al.LoRA):
    """By the layer, which has no values then where it is offloaded, and not by p.base_weight()."""

    data = "required"

    def init(self, p, layer):
        p.of = [layer]

    def group_init(self, layers, batches):
        list(batches)
        with torch.no_grad():
            for p in layers.values():
                p.lora_A.add_(p.of[0].weight.mean())
                del p.of


@variant
class KeptByVersion(al.LoRA):
    def prepare(self, p, layer):
        key = p.lora_A._version, p.lora_B._version, torch.is_grad_enabled()
        if getattr(p, "key", None) != key:
            p.key, p.kept = key, (p.lora_A.clone(), p.lora_B.clone(), p.scale)
        return p.kept


@variant
class Unseeded(al.LoRA):
    def init(self, p, layer):
        generator = torch.Generator()
        generator.seed()
        p.lora_A.copy_(torch.rand(p.lora_A.shape, generator=generator))


@variant
class EvenOnly(al.LoRA):
    def prepare(self, p, layer):
        even = self.r // 2 * 2
        return p.lora_A[:even], p.lora_B[:, :even], p.scale


@variant
class Mute(al.LoRA):
    def __post_init__(self):
        if self.r % 2:
            raise ValueError("no")


@variant
class Cliff(al.DeLoRA):
    pass


@variant
class ReadsCodes(al.LoRA):
    def effective_weight(self, p, W, b):
        return W + W.norm(dim=1)[:, None] * (p.scale * p.lora_B @ p.lora_A), b

    def low_rank(self, p, layer):
        return None

    def prepare(self, p, layer):
        weight = layer.weight.to(p.lora_A.dtype)
        return p.lora_A, weight.norm(dim=1)[: len(p.lora_B), None] * p.lora_B, p.scale


def trainable_base(model):
    put_on(model)
    return model.requires_grad_(True)


def drifts(model):
    with torch.no_grad():
        for layer in layers(model):
            layer.weight.add_(difference(layer))
            layer.weight.sub_(difference(layer))


def any_base(model, folder):
    put_on(model).load_state_dict(torch.load(folder / "thin.pt")["thin"], strict=False)
    return model


def no_words(model):
    if not layers(model):
        raise KeyError("weight")
    return put_on(model)


def on_the_layer(model):
    model.requires_grad_(False)
    for layer in layers(model):
        layer.thin_a = nn.Parameter(torch.randn(4, layer.in_features))
        layer.thin_b = nn.Parameter(torch.zeros(layer.out_features, 4))
        layer.register_forward_hook(lambda layer, args, y: y + args[0] @ layer.thin_a.T @ layer.thin_b.T)
    return model


def foreign(**changes):
    return Foreign(**{**ALL, **changes})


# (the check, what is wrong, what the note says; options of `check`)
WRONG = [
    ("identity", StartsElsewhere(**LORA), "fp32"),
    ("identity", RoundedMagnitude(**LORA), "fp32 bit for bit, bf16 0.00"),
    ("dense", NoScale(**LORA), "24 -> 16"),
    ("bias", ScaledBias(**LORA), "worst"),
    ("cancels", NaiveNorm(**LORA), "of the row is left"),
    ("start", Smallest(**LORA), "first step of W'", {"reference": al.PiSSA(**LORA)}),
    ("shapes", MatricesOnly(**LORA), r"\(d,\): RuntimeError"),
    ("gradients", Gated(**LORA), "have no gradient at the start"),
    ("gradients", Detached(**LORA), "lora_A: no gradient, not even after a step"),
    ("gradients", Uphill(**LORA), "lora_B.*against the equation"),
    ("gradients", FrozenA(**LORA), "trains lora_B, where lora_A, lora_B", {"reference": al.LoRA(**LORA)}),
    ("gradients", FrozenA(**LORA), "trains lora_B, where lora_A, lora_B", {"trained": ["lora_A", "lora_B"]}),
    ("gradients", foreign(put_on=trainable_base), "which is the base's"),
    ("finite", Overflows(**LORA), "not finite .* in fp16"),
    ("fields", Unread(**LORA), "dropout: another value changes nothing"),
    ("fields", NoOtherValue(**LORA), "note: no other value is known"),
    ("parameters", Idle(**LORA), "lora_idle"),
    ("restores", WritesToTheBase(**LORA), "proj.weight.* is off by 0"),
    ("restores", LeavesSomething(**LORA), "'.*seen' has stayed behind"),
    ("reload", Unsaved(**LORA), "worst"),
    ("wrong_base", foreign(load=any_base), "without a word"),
    ("merge", OtherFactors(**LORA), "worst"),
    ("cycles", foreign(cycle=drifts), "base's weight, bf16"),
    ("eval_train", KeptInEval(**LORA), "worst"),
    ("in_place", KeptByVersion(**LORA), "through .data"),
    ("deterministic", Unseeded(**LORA), "lora_A' is off by"),
    ("ranks", EvenOnly(**LORA), "equation at r = 1"),
    ("ranks", Mute(**LORA), "does not name the rank"),
    ("first_step", Cliff(r=4, lambda0=3.0), "at a rate of 0.01"),
    ("moves", al.IA3(), "stored in bf16", {"lr": 1e-3}),
    ("layers", foreign(put_on=no_words), "no refusal in words"),
    ("quantised", ReadsCodes(**LORA), "gradient of|int8"),
    ("compile", foreign(put_on=lambda model: put_on(model, reset=False)), "compiled before"),
    ("offload", foreign(put_on=on_the_layer), "."),
    ("offload", ReadsLater(**LORA), "nobody has written"),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: f"{case[0]}-{type(case[1]).__name__}")
def test_every_check_catches_what_is_wrong_in_its_way(case):
    name, subject, note, *options = case
    report = check(subject, only=name, **(options[0] if options else {}))
    assert report[name].status == "fail" and not report.ok and report.failed == [name], report
    assert re.search(note, report[name].note), report[name].note


def test_no_check_is_without_something_that_it_catches():
    assert {name for name, *_ in WRONG} | {"file"} == set(CHECKS)  # "file" in test_contract_command.py


def test_what_is_right_otherwise_passes_the_other_checks():
    """A check points at the one thing: the bias alone, the low-rank factors alone, the rounding alone."""
    quick = set(CHECKS) - {"compile", "quantised", "offload", "start", "file"}
    assert check(OtherFactors(**LORA), only=quick).failed == ["merge", "layers"]
    assert check(RoundedMagnitude(**LORA), only=quick).failed == ["identity"]
    assert check(ScaledBias(**LORA), only=("identity", "dense", "bias", "gradients")).failed == ["bias", "gradients"]
    assert check(al.IA3(), only=quick, lr=1e-3).failed == ["moves"]
    assert check(Cliff(r=4, lambda0=3.0), only=quick).failed == ["first_step"]


# ---- by design ------------------------------------------------------------------------------------


def test_a_deviation_that_its_source_states_is_by_design_and_says_so():
    report = check(
        Cliff(r=4, lambda0=3.0), only=("first_step", "identity"), by_design={"first_step": "The paper, p. 3"}
    )
    assert report["first_step"].status == "by design" and report["first_step"].note.startswith("The paper, p. 3. ")
    assert report["first_step"].figure > report["first_step"].limit
    assert report.ok and not report.failed


def test_by_design_excuses_no_other_check_and_makes_no_pass_a_deviation():
    report = check(NoScale(**LORA), only=("identity", "dense"), by_design={"identity": "The paper"})
    assert report["identity"].status == "pass" and report["dense"].status == "fail"
    with pytest.raises(ValueError, match="no check 'bais'"):
        check(al.LoRA(), by_design={"bais": "The paper"})


# ---- the fields of a reader's variant -------------------------------------------------------------


def test_other_values_come_from_the_type_the_metadata_or_the_refusal():
    @variant
    class Many(al.LoRA):
        mode: Literal["add", "subtract"] = "add"
        factor: float = field(default=2.0, metadata={"other": [3.0]})
        word: str = "plain"

        def __post_init__(self):
            super().__post_init__()
            if self.word not in ("plain", "twice"):
                raise ValueError(f"word = {self.word!r}: it isn't 'plain' (as it's written) or 'twice'")

        def layer_scale(self):
            return self.factor * (1 if self.mode == "add" else -1) * (1 if self.word == "plain" else 2)

    others = Ours(Many(**LORA)).alternatives()
    tried = {
        name: [getattr(make().variant, name) for make in makes] for name, makes in others.items() if name != "alpha"
    }
    assert tried["mode"] == ["subtract"] and tried["factor"] == [3.0] and tried["rslora"] == [True]
    assert [value for value in tried["word"]] == ["twice"]
    report = check(Many(**LORA), only="fields")
    assert report["fields"].status == "fail" and "rslora" in report["fields"].note  # layer_scale reads no alpha, rslora
    assert not any(name in report["fields"].note for name in ("mode", "factor", "word"))


def test_a_field_that_acts_beside_another_is_found_there():
    """block_size says nothing where nothing turns."""
    report = check(al.AntiPaSTO(r=4, block_size=2, rotate_basis="none"), only="fields")
    assert report.ok


# ---- no trace -------------------------------------------------------------------------------------


def test_everything_is_afterwards_as_it_was():
    torch.manual_seed(1), random.seed(2), numpy.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    threads, registry = torch.get_num_threads(), dict(al.VARIANTS)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            check(NoScale(**LORA))
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1] and numpy.random.get_state()[1].tolist() == before[2]
    assert torch.get_num_threads() == threads and al.VARIANTS == registry


def test_an_unregistered_variant_keeps_its_name():
    @dataclass(frozen=True)
    class Mine(al.LoRA):
        pass

    report = check(Mine(**LORA), only="reload")
    assert report.ok and "@al.register" in report["reload"].note
    assert Mine.name == "lora" and "name" not in vars(Mine)


def test_an_error_inside_leaves_no_trace_either():
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), alone(5):
        torch.rand(3)
        torch.set_num_threads(2)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_seed_gives_the_same_report_and_another_another():
    first, again, other = (check(al.DoRA(**LORA), only=("dense", "merge", "moves"), seed=seed) for seed in (1, 1, 2))
    assert first == again and first.json() == again.json()
    assert first["merge"].figure != other["merge"].figure


def test_it_is_at_hand_and_imports_nothing_heavy():
    code = (
        "import sys, adapterlab as al; al.contract.check(al.LoRA(r=4), only='dense').raise_if_failed(); "
        "heavy = {'peft', 'transformers', 'bitsandbytes', 'accelerate', 'matplotlib', 'torch._dynamo'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


# ---- the report -----------------------------------------------------------------------------------


def test_a_report_reads_as_a_table_as_json_and_as_an_assertion():
    report = check(NoScale(**LORA), only=("identity", "dense", "ranks", "file"))
    assert list(report) == ["identity", "dense", "file", "ranks"] and len(report) == 4  # the contract's order
    lines = str(report).splitlines()
    assert lines[0].endswith("NoScale(r=4, alpha=6, rslora=False)") and "FAIL" in lines[2]
    assert lines[-1].strip() == "1 pass, 2 fail, 1 n/a"
    assert all(len(line) <= 80 for line in report.table(width=80).splitlines()[1:])
    found = json.loads(report.json())
    assert found["subject"] == report.subject and found["ok"] is False
    assert found["results"]["dense"] == {
        "check": "dense",
        "status": "fail",
        "figure": report["dense"].figure,
        "limit": 1e-9,
        "note": report["dense"].note,
    }
    with pytest.raises(al.contract.ContractError, match="dense .*FAIL"):
        report.raise_if_failed()
    with pytest.raises(AssertionError):  # which is what pytest shows best
        report.raise_if_failed()
    check(al.LoRA(), only="dense").raise_if_failed()


def test_an_address_stays_whole_in_a_table():
    address = "https://example.org/a-path/that-is-longer/than-the-column-it-stands-in.py"
    note = f"its source says so ({address}). And more"
    table = al.contract.Report("x", {"ranks": al.contract.Result("ranks", "fail", note=note)}).table(width=80)
    assert address in table


def test_a_notebook_shows_a_report_as_markdown():
    results = {
        "dense": al.contract.Result("dense", "fail", 0.5, 1e-9, "lora_A | <b> at\n2"),
        "start": al.contract.Result("start", "n/a", note="none"),
    }
    report = al.contract.Report("Mine(r=4)", results)
    lines = report._repr_markdown_().splitlines()
    assert lines[4] == r"| dense | **FAIL** | 0.5 (1e-09) | lora\_A \| \<b\> at 2 |"
    assert lines[5] == "| start | n/a |  | none |" and lines[-1] == "1 fail, 1 n/a"
    assert repr(report) == str(report)  # where there is no Markdown


def test_a_report_that_measured_nothing_is_not_ok():
    report = check(al.IA3(), only=("ranks", "fields"))
    assert not report.ok and not report.failed
    with pytest.raises(al.contract.ContractError, match="n/a"):
        report.raise_if_failed()


def test_a_figure_that_is_no_number_fails_and_is_valid_json():
    worst = Worst()
    worst.add(0.5, 1.0, "a")
    worst.add(float("nan"), 1.0, "b")
    worst.add(7.0, 1.0, "c")
    found = worst.finding()
    assert found.figure != found.figure and found.note == "worst: b" and not found.figure <= found.limit
    result = al.contract.Result("dense", "fail", float("nan"), 1.0)
    assert json.loads(json.dumps(result.record(), allow_nan=False))["figure"] == "nan"


def test_every_check_says_in_one_sentence_what_it_proves():
    for name, one in CHECKS.items():
        assert one.name == name and one.proves.endswith(".") and len(one.proves.split()) > 5


@pytest.mark.parametrize("thing", [3, nn.Linear(3, 3), "dora", object])
def test_what_cannot_be_judged_is_refused(thing):
    with pytest.raises((TypeError, ValueError), match="pass a variant"):
        check(thing)


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match="no check 'bais'; there are identity, dense, bias"):
        check(al.LoRA(), only=("identity", "bais"))
    with pytest.raises(ValueError, match="no method 'lara' of PEFT; there are lora"):
        check("peft:lara")


def test_a_class_with_fields_that_have_no_default_asks_for_an_instance():
    @dataclass(frozen=True)
    class Bare(al.Variant):
        size: int

        specs = effective_weight = prepare = forward = None

    with pytest.raises(TypeError, match="Bare has fields without defaults: pass an instance"):
        check(Bare)


# ---- PEFT -----------------------------------------------------------------------------------------


def test_peft_by_name_and_by_configuration():
    peft = pytest.importorskip("peft")
    quick = ("identity", "dense", "bias", "gradients", "merge", "restores", "reload")
    assert check("peft:lora", only=quick).ok
    assert check(peft.LoraConfig(r=8, lora_alpha=3, use_rslora=True), only=quick).ok
    wrong = check(peft.HRAConfig(r=4, apply_GS=True), only=("identity", "finite"))
    assert wrong.failed == ["identity", "finite"] and not wrong["identity"].figure < 0.1
    with pytest.raises(ValueError, match="a PromptTuningConfig is not judged"):
        check(peft.PromptTuningConfig(num_virtual_tokens=3))


def test_pefts_pissa_does_not_come_back_by_its_own_word():
    pytest.importorskip("peft")
    report = check("peft:pissa", only="restores")
    assert report["restores"].status == "by design" and "https://github.com/huggingface/peft" in report["restores"].note


def test_the_tests_of_a_reader_are_three_lines(tmp_path: Path, pytester):
    pytester.makepyfile(
        """
        import adapterlab as al

        def test_mine():
            al.contract.check(al.LoRA(r=4, alpha=6), only=("identity", "dense")).raise_if_failed()

        def test_wrong():
            al.contract.check(al.IA3(), only="moves", lr=1e-4).raise_if_failed()
        """
    )
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*moves*FAIL*"])
