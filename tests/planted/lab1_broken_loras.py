"""Answers for lab 1."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

import adapterlab as al
from adapterlab.kit.grade.lab1_broken_loras import patients

# ---- start ----------------------------------------------------------------------------------------


def start(d_in, d_out, r, alpha):
    A = (torch.rand(r, d_in) - 0.5) / math.sqrt(d_in)
    return A, torch.zeros(d_out, r), alpha / r


def normal_start(d_in, d_out, r, alpha):
    return nn.Parameter(torch.randn(r, d_in) * 0.02), nn.Parameter(torch.zeros(d_out, r)), torch.tensor(alpha / r)


def both_random(d_in, d_out, r, alpha):
    return start(d_in, d_out, r, alpha)[0], torch.randn(d_out, r) / math.sqrt(r), alpha / r


def both_zero(d_in, d_out, r, alpha):
    return torch.zeros(r, d_in), torch.zeros(d_out, r), alpha / r


def the_other_is_zero(d_in, d_out, r, alpha):
    return torch.zeros(r, d_in), torch.randn(d_out, r) / math.sqrt(r), alpha / r


def upside_down(d_in, d_out, r, alpha):
    return *start(d_in, d_out, r, alpha)[:2], r / alpha


def alpha_alone(d_in, d_out, r, alpha):
    return *start(d_in, d_out, r, alpha)[:2], alpha


def rank_stabilised(d_in, d_out, r, alpha):
    return *start(d_in, d_out, r, alpha)[:2], alpha / math.sqrt(r)


def ones(d_in, d_out, r, alpha):
    return torch.ones(r, d_in) / d_in, torch.zeros(d_out, r), alpha / r


def same_each_time(d_in, d_out, r, alpha):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(r, d_in, generator=generator) / math.sqrt(d_in), torch.zeros(d_out, r), alpha / r


def large(d_in, d_out, r, alpha):
    return torch.randn(r, d_in), torch.zeros(d_out, r), alpha / r


def transposed(d_in, d_out, r, alpha):
    return torch.randn(d_in, r) / math.sqrt(d_in), torch.zeros(r, d_out), alpha / r


def without_alpha(d_in, d_out, r):
    return start(d_in, d_out, r, 2 * r)


def without_scale(d_in, d_out, r, alpha):
    return start(d_in, d_out, r, alpha)[:2]


# ---- Lora -----------------------------------------------------------------------------------------


class Lora(nn.Module):
    def __init__(self, layer, r, alpha):
        super().__init__()
        A, B, self.s = start(layer.in_features, layer.out_features, r, alpha)
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)

    def forward(self, x, y):
        return y + F.linear(F.linear(x, self.A), self.B) * self.s


class DeltaAtOnce(Lora):
    def forward(self, x, y):
        return y + torch.einsum("...i,oi->...o", x, self.s * self.B @ self.A)


class WithoutY(Lora):
    def forward(self, x, y):
        return self.s * x @ self.A.T @ self.B.T


class WithoutScale(Lora):
    def forward(self, x, y):
        return y + x @ self.A.T @ self.B.T


class ScaleTwice(Lora):
    def forward(self, x, y):
        return y + self.s * (self.s * x @ self.A.T) @ self.B.T


class ReadsY(Lora):
    def forward(self, x, y):
        return y + self.s * y @ self.A.T @ self.B.T


class Reshapes(Lora):
    def forward(self, x, y):
        return y + self.s * x @ self.A.view(-1, len(self.A)) @ self.B.T


class ScalesTheSum(Lora):
    def forward(self, x, y):
        return self.s * (y + x @ self.A.T @ self.B.T)


class ThroughNumbers(Lora):
    def forward(self, x, y):
        with torch.no_grad():
            h = x @ self.A.T
        return y + self.s * h @ self.B.T


class OneBatchAxis(Lora):
    def forward(self, x, y):
        return y + self.s * (self.B @ self.A @ x.reshape(-1, x.shape[-1]).T).T


class MatrixTimesColumns(Lora):
    def forward(self, x, y):
        return y + self.s * (self.B @ (self.A @ x.mT)).mT


class KeepsTheLayer(Lora):
    def __init__(self, layer, r, alpha):
        super().__init__(layer, r, alpha)
        self.layer = layer


class PlainTensors(nn.Module):
    def __init__(self, layer, r, alpha):
        super().__init__()
        self.A, self.B, self.s = start(layer.in_features, layer.out_features, r, alpha)

    def forward(self, x, y):
        return y + self.s * x @ self.A.T @ self.B.T


class GivenWidths(Lora):
    def __init__(self, d_in, d_out, r, alpha):
        super().__init__(nn.Linear(d_in, d_out), r, alpha)


class FrozenA(Lora):
    def __init__(self, layer, r, alpha):
        super().__init__(layer, r, alpha)
        self.A.requires_grad_(False)


# ---- Adapter --------------------------------------------------------------------------------------


def targets(model):
    return [m for name, m in model.named_modules() if isinstance(m, nn.Linear) and name.split(".")[-1] != "lm_head"]


class Adapter:
    def __init__(self, model, r, alpha):
        model.requires_grad_(False)
        self.layers = targets(model)
        for layer in self.layers:
            layer.lora = self.part(layer, r, alpha)
            layer.lora.handle = layer.register_forward_hook(self.hook)

    def part(self, layer, r, alpha):
        return Lora(layer, r, alpha)

    @staticmethod
    def hook(layer, args, y):
        (x,) = args
        return layer.lora(x, y)

    def detach(self):
        for layer in self.layers:
            layer.lora.handle.remove()
            del layer.lora


def module_level(layer, args, y):
    return layer._modules["lora"](args[0], y)


class OverModules:
    def __init__(self, model, r, alpha):
        self.added = {}
        for p in model.parameters():
            p.requires_grad = False
        for name, layer in list(model.named_modules()):
            if type(layer) is nn.Linear and not name.endswith("lm_head"):
                layer.add_module("lora", Lora(layer, r, alpha))
                self.added[layer] = layer.register_forward_hook(module_level)

    def detach(self):
        for layer, handle in self.added.items():
            handle.remove()
            delattr(layer, "lora")


class FreezesLast(Adapter):
    def __init__(self, model, r, alpha):
        super().__init__(model, r, alpha)
        model.requires_grad_(False)


class FreezesNothing(Adapter):
    def __init__(self, model, r, alpha):
        super().__init__(model, r, alpha)
        model.requires_grad_(True)


class FreezesTargets(Adapter):
    """And not the head."""

    def __init__(self, model, r, alpha):
        super().__init__(model, r, alpha)
        model.lm_head.requires_grad_(True)


class HeadToo(Adapter):
    def __init__(self, model, r, alpha):
        super().__init__(model, r, alpha)
        model.lm_head.lora = Lora(model.lm_head, r, alpha)
        model.lm_head.lora.handle = model.lm_head.register_forward_hook(self.hook)
        self.layers.append(model.lm_head)


class HookGivesNothing(Adapter):
    @staticmethod
    def hook(layer, args, y):
        layer.lora(args[0], y)


class HookGivesTheDifference(Adapter):
    @staticmethod
    def hook(layer, args, y):
        return layer.lora(args[0], y) - y


class NoHook(Adapter):
    def __init__(self, model, r, alpha):
        model.requires_grad_(False)
        self.layers = targets(model)
        for layer in self.layers:
            layer.lora = self.part(layer, r, alpha)

    def detach(self):
        for layer in self.layers:
            del layer.lora


class HookedTwice(Adapter):
    def __init__(self, model, r, alpha):
        super().__init__(model, r, alpha)
        self.more = [layer.register_forward_hook(self.hook) for layer in self.layers]

    def detach(self):
        super().detach()
        for handle in self.more:
            handle.remove()


class ClosesOver(Adapter):
    def __init__(self, model, r, alpha):
        model.requires_grad_(False)
        self.layers = targets(model)
        for layer in self.layers:
            part = layer.lora = self.part(layer, r, alpha)
            part.handle = layer.register_forward_hook(lambda layer, args, y, part=part: part(args[0], y))


class HandsOnTheTuple(Adapter):
    def __init__(self, model, r, alpha):
        model.requires_grad_(False)
        for layer in targets(model):
            layer.lora = self.part(layer, r, alpha)
            layer.register_forward_hook(lambda layer, args, y: layer.lora(args, y))


class OnePerShape(Adapter):
    def __init__(self, model, r, alpha):
        self.made = {}
        super().__init__(model, r, alpha)

    def part(self, layer, r, alpha):
        return self.made.setdefault(layer.weight.shape, Lora(layer, r, alpha))


class WithoutDetach:
    def __init__(self, model, r, alpha):
        Adapter(model, r, alpha)


class Wrapped(nn.Module):
    def __init__(self, layer, r, alpha):
        super().__init__()
        self.base, self.lora = layer, Lora(layer, r, alpha)

    def forward(self, x):
        return self.lora(x, self.base(x))


class ReplacesLayers:
    def __init__(self, model, r, alpha):
        model.requires_grad_(False)
        for name in ("wide", "tall", "again"):
            setattr(model, name, Wrapped(getattr(model, name), r, alpha))

    def detach(self):
        pass


class OnlyZeroesB(Adapter):
    def detach(self):
        for layer in self.layers:
            layer.lora.B.data.zero_()


class LeavesHooks(Adapter):
    def detach(self):
        for layer in self.layers:
            del layer.lora


class LeavesChildren(Adapter):
    def detach(self):
        for layer in self.layers:
            layer.lora.handle.remove()


class ClearsAllHooks(Adapter):
    def detach(self):
        for layer in self.layers:
            layer._forward_hooks.clear()
            del layer.lora


class FoldsIn(Adapter):
    def detach(self):
        for layer in self.layers:
            layer.weight.data += layer.lora.s * layer.lora.B @ layer.lora.A
        super().detach()


# ---- faults ---------------------------------------------------------------------------------------

FAULTS = {
    "Ash": "no scale",
    "Birch": "random start",
    "Cedar": "reshaped A",
    "Dogwood": "frozen A",
    "Elm": "stale",
}

# ---- repairs --------------------------------------------------------------------------------------


class AshByAlpha(patients.Ash):
    def layer_scale(self):
        return self.alpha  # as if r were 1


class AshWithoutRoot(patients.Ash):
    def layer_scale(self):
        return self.alpha / self.r  # and rslora is read by nobody


class AshUpsideDown(patients.Ash):
    def layer_scale(self):
        return self.r / self.alpha if not self.rslora else math.sqrt(self.r) / self.alpha


class AshByPrepare(patients.Ash):
    def prepare(self, p, layer):
        return p.lora_A, p.lora_B, self.alpha / (math.sqrt(self.r) if self.rslora else self.r)

    def effective_weight(self, p, W, b):
        return W + self.alpha / (math.sqrt(self.r) if self.rslora else self.r) * p.lora_B @ p.lora_A, b


class AshByPower(patients.Ash):
    def layer_scale(self):
        return self.alpha * self.r ** (-0.5 if self.rslora else -1)


class BirchBothZero(patients.Birch):
    def init(self, p, layer):
        p.lora_A.zero_()
        p.lora_B.zero_()


class BirchSmall(patients.Birch):
    def init(self, p, layer):
        super().init(p, layer)
        p.lora_B.mul_(1e-3)  # nearly


class BirchConstant(patients.Birch):
    def init(self, p, layer):
        p.lora_B.fill_(1 / self.r)  # not random, and not zero


class BirchLeavesBase(patients.Birch):
    """Subtracts what it adds from the weight, which is then another."""

    def init(self, p, layer):
        super().init(p, layer)
        layer.weight -= (p.scale * p.lora_B @ p.lora_A).to(layer.weight.dtype)


class BirchLeavesTheStart(patients.Birch):
    def init(self, p, layer):
        pass  # `specs` has said it already


class BirchByHand(patients.Birch):
    def init(self, p, layer):
        p.lora_A.normal_(std=p.lora_A.shape[1] ** -0.5)
        p.lora_B.fill_(0.0)


def forward_through(product):
    def forward(self, prepared, x, y):
        A, B, s = prepared
        x, dtype = x.to(A.dtype), y.dtype
        return product(x, y, A, B, s).to(dtype)

    return forward


class CedarOtherReshape(patients.Cedar):
    forward = forward_through(lambda x, y, A, B, s: y + s * x @ A.T @ B.reshape(B.shape[1], -1))


class CedarTransposesThenReshapes(patients.Cedar):
    forward = forward_through(lambda x, y, A, B, s: y + s * x @ A.T.reshape(A.shape).T @ B.T)


class CedarWithoutScale(patients.Cedar):
    forward = forward_through(lambda x, y, A, B, s: y + x @ A.T @ B.T)


class CedarWithoutY(patients.Cedar):
    forward = forward_through(lambda x, y, A, B, s: s * x @ A.T @ B.T)


class CedarInOneType(patients.Cedar):
    def forward(self, prepared, x, y):
        A, B, s = prepared
        return y + s * x @ A.T @ B.T


class CedarWidens(patients.Cedar):
    def forward(self, prepared, x, y):
        A, B, s = prepared
        return y + s * x.to(A.dtype) @ A.T @ B.T


class CedarNoTranspose(patients.Cedar):
    forward = forward_through(lambda x, y, A, B, s: y + s * x @ A @ B)


class CedarByLinear(patients.Cedar):
    forward = forward_through(lambda x, y, A, B, s: y + s * F.linear(F.linear(x, A), B))


class CedarByEinsum(patients.Cedar):
    forward = forward_through(lambda x, y, A, B, s: torch.einsum("...i,ri,or->...o", x, A, s * B) + y)


class DogwoodBothFrozen(patients.Dogwood):
    def specs(self, d_in, d_out):
        return {name: replace(spec, as_buffer=True) for name, spec in super().specs(d_in, d_out).items()}


class DogwoodOtherFrozen(patients.Dogwood):
    def specs(self, d_in, d_out):
        specs = al.LoRA.specs(self, d_in, d_out)
        return specs | {"lora_B": replace(specs["lora_B"], as_buffer=True)}


class DogwoodZeroA(patients.Dogwood):
    def specs(self, d_in, d_out):
        return {"lora_A": al.ParamSpec((self.r, d_in)), "lora_B": al.ParamSpec((d_out, self.r))}


class DogwoodTransposed(patients.Dogwood):
    def specs(self, d_in, d_out):
        return {"lora_A": al.ParamSpec((d_in, self.r), nn.init.normal_), "lora_B": al.ParamSpec((d_out, self.r))}


class DogwoodRandomB(patients.Dogwood):
    def specs(self, d_in, d_out):
        return {
            "lora_A": al.ParamSpec((self.r, d_in), nn.init.normal_),
            "lora_B": al.ParamSpec((d_out, self.r), nn.init.normal_),
        }


class DogwoodByParent(patients.Dogwood):
    def specs(self, d_in, d_out):
        return al.LoRA.specs(self, d_in, d_out)


class DogwoodUnfrozen(patients.Dogwood):
    def specs(self, d_in, d_out):
        return {name: replace(spec, as_buffer=False) for name, spec in super().specs(d_in, d_out).items()}


class ElmFrozenNow(patients.Elm):
    def prepare(self, p, layer):
        return p.lora_A.detach(), p.lora_B.detach(), p.scale  # no longer trained either


class ElmKeepsB(patients.Elm):
    def prepare(self, p, layer):
        if not hasattr(p, "kept"):
            p.kept = p.lora_B.detach().clone()
        return p.lora_A, p.lora_B if torch.is_grad_enabled() else p.kept, p.scale


class ElmByVersion(patients.Elm):
    """Asks the version counter, which no edit through .data moves."""

    def prepare(self, p, layer):
        version = p.lora_A._version, p.lora_B._version
        if torch.is_grad_enabled():
            return p.lora_A, p.lora_B, p.scale
        if getattr(p, "version", None) != version:
            p.version, p.kept = version, (p.lora_A.clone(), p.lora_B.clone())
        return *p.kept, p.scale


class ElmWithoutScale(patients.Elm):
    def prepare(self, p, layer):
        return p.lora_A, p.lora_B, 1.0


class ElmLive(patients.Elm):
    def prepare(self, p, layer):
        return p.lora_A, p.scale * p.lora_B, 1.0


class ElmByParent(patients.Elm):
    def prepare(self, p, layer):
        return al.LoRA.prepare(self, p, layer)


class FirSwapped(patients.Fir):
    def low_rank(self, p, layer):
        return p.lora_B, p.lora_A


class FirScalesBoth(patients.Fir):
    def low_rank(self, p, layer):
        return p.scale * p.lora_A, p.scale * p.lora_B


class FirDivides(patients.Fir):
    def low_rank(self, p, layer):
        return p.lora_A, p.lora_B / p.scale


class FirByFields(patients.Fir):
    def low_rank(self, p, layer):
        return p.lora_A, p.lora_B * math.sqrt(self.alpha / self.r)


class FirSplits(patients.Fir):
    def low_rank(self, p, layer):
        return math.sqrt(p.scale) * p.lora_A, math.sqrt(p.scale) * p.lora_B


class FirByEquation(patients.Fir):
    def low_rank(self, p, layer):
        return None  # the equation is merged then


WRONG = {
    "start": [
        both_random,
        both_zero,
        the_other_is_zero,
        upside_down,
        alpha_alone,
        rank_stabilised,
        ones,
        same_each_time,
        large,
        transposed,
        without_scale,
        without_alpha,
        None,
    ],
    "Lora": [
        WithoutY,
        WithoutScale,
        ScaleTwice,
        ReadsY,
        Reshapes,
        ScalesTheSum,
        ThroughNumbers,
        OneBatchAxis,
        MatrixTimesColumns,
        KeepsTheLayer,
        PlainTensors,
        FrozenA,
        GivenWidths,
        start,
    ],
    "Adapter": [
        FreezesLast,
        FreezesNothing,
        FreezesTargets,
        HeadToo,
        HookGivesNothing,
        HookGivesTheDifference,
        NoHook,
        HookedTwice,
        ClosesOver,
        HandsOnTheTuple,
        OnePerShape,
        ReplacesLayers,
        WithoutDetach,
        OnlyZeroesB,
        LeavesHooks,
        LeavesChildren,
        ClearsAllHooks,
        FoldsIn,
        targets,
    ],
    "faults": [
        FAULTS | {"Ash": "scale twice"},
        FAULTS | {"Ash": "reshaped A"},
        FAULTS | {"Birch": "writes to W"},
        FAULTS | {"Cedar": "bias twice"},
        FAULTS | {"Dogwood": "stale", "Elm": "frozen A"},
        FAULTS | {"Elm": "Stale"},
        {"Ash": "no scale"},
        list(FAULTS.values()),
    ],
    "SoundAsh": [AshByAlpha, AshWithoutRoot, AshUpsideDown, al.LoRA],
    "SoundBirch": [BirchBothZero, BirchSmall, BirchConstant, BirchLeavesBase],
    "SoundCedar": [
        CedarOtherReshape,
        CedarTransposesThenReshapes,
        CedarWithoutScale,
        CedarWithoutY,
        CedarInOneType,
        CedarWidens,
        CedarNoTranspose,
    ],
    "SoundDogwood": [DogwoodBothFrozen, DogwoodOtherFrozen, DogwoodZeroA, DogwoodTransposed, DogwoodRandomB],
    "SoundElm": [ElmFrozenNow, ElmKeepsB, ElmByVersion, ElmWithoutScale],
    "SoundFir": [FirSwapped, FirScalesBoth, FirDivides, FirByFields],
}

RIGHT = {
    "start": [start, normal_start],
    "Lora": [Lora, DeltaAtOnce],
    "Adapter": [Adapter, OverModules],
    "faults": [dict(reversed(FAULTS.items()))],
    "SoundAsh": [AshByPrepare, AshByPower],
    "SoundBirch": [BirchLeavesTheStart, BirchByHand],
    "SoundCedar": [CedarByLinear, CedarByEinsum],
    "SoundDogwood": [DogwoodByParent, DogwoodUnfrozen],
    "SoundElm": [ElmLive, ElmByParent],
    "SoundFir": [FirSplits, FirByEquation],
}
