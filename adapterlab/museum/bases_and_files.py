"""Fourth room: the base that does not come back, and files that do not bring back what was trained."""

from contextlib import ExitStack, contextmanager
from pathlib import Path

from .. import checkpoint, runtime
from ..singular import top_svd
from ..variants import EVA, AntiPaSTO, LoRA, PiSSA
from .exhibit import Excerpt, Exhibit, broken, replaced

ROOM = "Bases and files"


def attaches_again(model, path, *, strict_base=True, calibration_data=None):
    """load, as one writes it first: attach as in training, then copy the numbers in."""
    header, tensors = checkpoint._read(Path(path))
    (saved,) = header["passes"]
    variant = checkpoint._variant(saved["variant"], saved["fields"])
    adapter = runtime.attach(model, variant, targets=[*saved["layers"]], calibration_data=calibration_data)
    model.load_state_dict(tensors, strict=False)
    return adapter


@contextmanager
def loads_by_attaching():
    import adapterlab

    with ExitStack() as stack:
        for module in (checkpoint, adapterlab):
            stack.enter_context(replaced(module, "load", attaches_again))
        yield


def asks_nothing(recorded, layers, strict):
    """checkpoint._check_base without a line: whatever weights the model has will do."""


def no_fingerprint():
    return replaced(checkpoint, "_check_base", asks_nothing)


@broken
class TakesOut(PiSSA):
    def init(self, p, layer):
        super().init(p, layer)
        layer.weight -= (p.scale * p.lora_B0 @ p.lora_A0).to(layer.weight.dtype)  # the paper's residual, in place

    def effective_weight(self, p, W, b):
        return W + p.scale * p.lora_B @ p.lora_A, b

    def prepare(self, p, layer):
        return p.lora_A, p.lora_B, p.scale


@broken
class TakesAxesAgain(AntiPaSTO):
    def derive(self, p, layer):  # at attach, and again at load: "the axes follow from W"
        self._take(p, *top_svd(layer, self.r))
        return {}


def unmerge():
    from peft.tuners.lora.layer import Linear

    return Linear.unmerge


LOADED = "loads, and answers otherwise"

EXHIBITS = [
    Exhibit(
        11,
        "eva-load",
        "EVA's load asks for calibration data",
        ROOM,
        "an error where it is served, and none where it was trained",
        "eva",
        healthy=EVA(r=4, alpha=6),
        broken=EVA(r=4, alpha=6),
        lines=(attaches_again,),
        let_through="The round trip was tested where the data was at hand.",
        passes=("identity", "dense", "gradients"),
        caught_by=("reload",),
        fix="Build the layers from the file alone: a file holds all that its adapter needs.",
        source="An earlier version of this code did.",
        patch=loads_by_attaching,
    ),
    Exhibit(
        14,
        "pissa-other-base",
        "PiSSA loads on another base without a word",
        ROOM,
        LOADED,
        "pissa",
        healthy=PiSSA(r=4, alpha=6),
        broken=PiSSA(r=4, alpha=6),
        lines=(asks_nothing,),
        let_through="Every round trip came back to the base that it had left.",
        passes=("identity", "dense", "reload"),
        caught_by=("wrong_base",),
        fix="A fingerprint of the base's weights in the file, compared before anything is changed.",
        source="A and B mean something only beside their own base. PEFT's files name one and check none.",
        patch=no_fingerprint,
    ),
    Exhibit(
        15,
        "base-rewritten",
        "PiSSA and AntiPaSTO write to the base weight: detach does not give it back",
        ROOM,
        "the base is no longer the base",
        "pissa",
        healthy=PiSSA(r=4, alpha=6),
        broken=TakesOut(r=4, alpha=6),
        lines=(TakesOut,),
        let_through="It is the paper's own form, and right while the adapter is on. Nobody asked for the base again.",
        passes=("dense", "gradients"),
        caught_by=("restores",),
        fix="Train the difference `s (B A - B0 A0)` beside a weight that nobody writes to.",
        source="An earlier version of this code, after detach; PEFT's PiSSA, inside `disable_adapter()`.",
    ),
    Exhibit(
        16,
        "antipasto-axes",
        "AntiPaSTO's axes are taken from W again at load, where the data had chosen others",
        ROOM,
        LOADED,
        "antipasto",
        healthy=AntiPaSTO(r=4, block_size=2),
        broken=TakesAxesAgain(r=4, block_size=2),
        lines=(TakesAxesAgain,),
        let_through="Without calibration the axes are the same ones, and that is how reload was tested.",
        passes=("identity", "dense", "gradients"),
        caught_by=("reload",),
        fix="Save the axes.",
        source="An earlier version of this code did.",
    ),
    Exhibit(
        28,
        "merge-cycles",
        "Merge and unmerge, by adding and subtracting in bfloat16",
        ROOM,
        "the base is no longer the base",
        "lora",
        healthy=LoRA(r=4, alpha=6),
        broken="peft:lora",
        lines=(Excerpt(unmerge, "weight = self.get_base_layer().weight", "weight.data -="),),
        let_through="One cycle, in float32.",
        passes=("identity", "dense"),
        caught_by=("cycles",),
        fix="Keep the base's bytes, or merge one way.",
        source="PEFT 0.21.2, measured. `a + b - b` is not `a`.",
    ),
]
