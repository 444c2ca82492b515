"""Made-up training runs for the run scrubber's tests, where nothing is trained; and two real reports of the museum."""

from adapterlab import museum
from adapterlab.kit.trace import Trace
from adapterlab.kit.training import Run


def made_up_run(label: str = "lora", steps: int = 100, done: int | None = None) -> Run:
    """A run that answers 85, then something wrong, and from step 40 on 58."""
    done = steps if done is None else done
    run = Run("add_rev", label, steps, 5e-3, 0)
    run.losses = [8 * 0.95**k for k in range(done)]
    run.evaluations = [(k, min(1.0, k / 80), 8 * 0.95**k) for k in range(0, done + 1, 10)]
    trace = Trace("57+28=", "58", "model.layers.1.self_attn.q_proj")
    looks = range(0, done + 1, 2)
    trace.answers = [(k, "85" if k < 20 else "5858" if k < 40 else "58") for k in looks]
    trace.spectra = [(k, [k / 100 * 0.8**i if i < 8 else 3e-8 for i in range(12)], k / 300) for k in looks]
    trace.gradients = {"lora_A": [k / 50 for k in range(done)], "lora_B": [2 + 0.123456789 * k for k in range(done)]}
    run.trace = trace
    return run


def museum_reports(names=("dora-bias", "hra-gate")) -> dict:
    """By name, the contract's reports with the bug and without."""
    only = ("identity", "dense", "bias", "gradients")
    return {
        name: (museum.EXHIBITS[name].check(only=only), museum.EXHIBITS[name].check(broken=False, only=only))
        for name in names
    }
