"""What is trained: the settings that are compared, and a trial, which is one run of one of them."""

from dataclasses import dataclass, field

from ... import EVA, HRA, IA3, IA3FF, AntiPaSTO, DeLoRA, DoRA, LoRA, PiSSA, Variant

TASKS = ("add_rev", "sub_neg", "sort_desc", "kjv")
FOLLOWED = TASKS[:2]  # on which ranks, strengths and layers are varied, at the chosen rate
SEEDS = (0, 1, 2, 3, 4)
RATES = 7  # three to the decade, so two decades
EXTRA = 3  # rates that are added at an end where the best one stands, so that it is between two worse ones

ATTENTION, MLP = r"self_attn\.", r"mlp\."


@dataclass(frozen=True)
class Setting:
    """One thing to compare: variants, the layers that they go on, and where its learning rates are centred.

    Attributes:
        name: unique.
        method: what the pictures call it: a variant's name, "full", "none" or "ia3_recipe".
        passes: (variant, targets) of each attach; none for full fine-tuning and for the base model as it is.
        varies: "" where all rates are tried; else what differs from the setting `base`, whose rate it takes.
        base: the setting that lends its rate.
        centre: the middle one of its rates.
    """

    name: str
    method: str
    passes: tuple[tuple[Variant, str | None], ...] = ()
    centre: float = 0.0
    varies: str = ""
    base: str = ""

    @property
    def rates(self) -> tuple[float, ...]:
        return tuple(rate(self.centre, k) for k in range(-(RATES // 2), RATES // 2 + 1))


def described(name: str) -> str:
    """What the setting trains, in words that change when that does."""
    setting = SETTINGS[name]
    on = [f"{variant!r} on {targets or 'every linear layer of the blocks'}" for variant, targets in setting.passes]
    return "; then ".join(on) or {"none": "nothing", "full": "every parameter"}[setting.method]


def rate(centre: float, k: int) -> float:
    """k thirds of a decade above the centre."""
    return float(f"{centre * 10 ** (k / 3):.3g}")


@dataclass(frozen=True)
class Trial:
    """One run. Equal trials give equal rows."""

    setting: str
    task: str
    lr: float
    seed: int


@dataclass
class _House:
    settings: dict[str, Setting] = field(default_factory=dict)

    def add(self, name: str, method: str, *passes: Variant | tuple[Variant, str | None], **more) -> None:
        pairs = tuple(p if isinstance(p, tuple) else (p, None) for p in passes)
        self.settings[name] = Setting(name, method, pairs, **more)


def _settings() -> dict[str, Setting]:
    house = _House()
    # Equal rank, everything else at its default. The centres are where lab 5's record found the best rates.
    house.add("none", "none")
    house.add("full", "full", centre=1e-3)
    house.add("lora", "lora", LoRA(r=8), centre=5e-3)
    house.add("pissa", "pissa", PiSSA(r=8), centre=5e-3)
    house.add("eva", "eva", EVA(r=8), centre=5e-3)
    house.add("dora", "dora", DoRA(r=8), centre=5e-3)
    house.add("delora", "delora", DeLoRA(r=8), centre=5e-3)
    house.add("ia3", "ia3", IA3(), centre=0.1)
    house.add("ia3_ff", "ia3_ff", IA3FF(), centre=0.1)
    house.add("hra", "hra", HRA(r=8), centre=5e-3)
    house.add("antipasto", "antipasto", AntiPaSTO(r=8), centre=0.05)
    # Equal parameters: as many of LoRA's at r = 8 as the method can use. IA3's recipe is the most that gates offer.
    house.add("dora, r = 7", "dora", DoRA(r=7, alpha=14), centre=5e-3)
    house.add("hra, r = 16", "hra", HRA(r=16), centre=5e-3)
    house.add("antipasto, r = 64", "antipasto", AntiPaSTO(r=64, block_size=64), centre=0.02)
    house.add("ia3, its recipe", "ia3_recipe", (IA3(), r"(k|v)_proj$"), (IA3FF(), r"down_proj$"), centre=0.1)

    for r in (2, 4, 16, 32):
        for cls, name in ((LoRA, "lora"), (EVA, "eva"), (DoRA, "dora")):
            house.add(f"{name}, r = {r}", name, cls(r=r), varies="rank", base=name)
            # The same strength as alpha / r at r = 8, and from there alpha / sqrt(r).
            scaled = cls(r=r, alpha=2 * 8**0.5, rslora=True)
            house.add(f"{name}, r = {r}, rsLoRA", name, scaled, varies="rank, rsLoRA", base=name)
        house.add(f"pissa, r = {r}", "pissa", PiSSA(r=r), varies="rank", base="pissa")
        house.add(f"delora, r = {r}", "delora", DeLoRA(r=r), varies="rank", base="delora")
        if f"hra, r = {r}" not in house.settings:
            house.add(f"hra, r = {r}", "hra", HRA(r=r), varies="rank", base="hra")
        if r % 4 == 0:
            house.add(f"antipasto, r = {r}", "antipasto", AntiPaSTO(r=r), varies="rank", base="antipasto")
    for alpha in (4, 64):
        for cls, name in ((LoRA, "lora"), (EVA, "eva"), (DoRA, "dora")):
            house.add(f"{name}, alpha = {alpha}", name, cls(r=8, alpha=alpha), varies="strength", base=name)
    for strength in (1.0, 5.0, 60.0):
        house.add(
            f"delora, lambda = {strength:g}", "delora", DeLoRA(r=8, lambda0=strength), varies="strength", base="delora"
        )
    for angle in (0.1, 1.5):
        house.add(
            f"antipasto, angle = {angle:g}",
            "antipasto",
            AntiPaSTO(r=8, max_angle=angle),
            varies="strength",
            base="antipasto",
        )
    # Ranks at which attention alone and the MLP alone have the parameters that all layers have at r = 8.
    for part, targets, r, even in (("attention", ATTENTION, 21, 18), ("MLP", MLP, 12, 14)):
        for name, variant in {
            "lora": LoRA(r=r, alpha=2 * r),
            "pissa": PiSSA(r=r),
            "eva": EVA(r=r, alpha=2 * r),
            "dora": DoRA(r=r, alpha=2 * r),
            "delora": DeLoRA(r=r),
            "hra": HRA(r=even),
        }.items():
            house.add(f"{name}, {part}", name, (variant, targets), varies="layers", base=name)
    return house.settings


SETTINGS = _settings()
