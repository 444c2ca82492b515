"""`adapterlab train`."""

import argparse
import os
import shlex
import signal
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ..variant import VARIANTS
from .data import DataError
from .settings import DTYPES, QUANTIZED, SCHEDULES, Settings

EPILOG = """\
examples:
  adapterlab train --task add_rev --variant dora --r 16 --out runs/dora
  adapterlab train --model Qwen/Qwen3-0.6B --data pairs.jsonl --quantize 4bit --targets '(q|v)_proj$' --out runs/q
  adapterlab train --out runs/q --resume
  accelerate launch --num_processes 8 -m adapterlab train --data pairs.jsonl --out runs/eight
"""


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    from .record import is_first

    try:
        options = _options(given)
        if options.resume:
            _take_from_run(options)
        settings = _settings(options)
        return _run(settings, options)
    except BrokenPipeError:
        raise  # whoever calls the commands knows what to do
    except (ValueError, TypeError, OSError, FloatingPointError, RuntimeError) as error:  # a full GPU is the last
        remedy = "" if "out of memory" not in str(error) else "; --batch-size, --checkpointing and --quantize need less"
        _complain(f"{_first_line(error)}{remedy}", is_first())
        return 1
    except ImportError as error:
        _complain(f"{error}: `pip install 'adapterlab[train,kit]'` has what this needs", is_first())
        return 1
    except KeyboardInterrupt:
        _complain("stopped", is_first())
        return 128 + signal.SIGINT


def _first_line(error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)  # which has a line for each
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _complain(told: str, first: bool) -> None:
    if first:  # of many processes one says it
        print(f"adapterlab train: {told}", file=sys.stderr)


def _run(settings: Settings, options: argparse.Namespace) -> int:
    from .record import ADAPTER, CURVE, PICTURE, is_first, processes
    from .run import Finished, Stopped, train

    say = print if is_first() else (lambda _: None)
    try:
        saving = {name: value for name, value in vars(options).items() if name in ("save_every", "keep")}
        done = train(settings, options.out, resume=options.resume, say=say, **saving)
    except Finished as finished:
        say(str(finished))
        return 0
    except Stopped as stopped:
        many = "" if processes() == 1 else f", on {processes()} processes again"
        say(f"\nstopped and saved at step {stopped.step} of {settings.steps}; this goes on from there{many}:")
        say(f"  adapterlab train --out {shlex.quote(str(options.out))} --resume")
        return 128 + stopped.signal
    tenth = max(1, len(done.losses) // 10)
    first, last = (sum(part) / tenth for part in (done.losses[:tenth], done.losses[-tenth:]))
    say(f"loss {first:.3f} at the start, {last:.3f} at the end")
    if done.scores:
        before, after = done.scores["before"], done.scores["after"]
        what = "loss" if after["exact_match"] is None else "exact_match"
        say(f"held-out {what.replace('_', ' ')} {before[what]:.3f} before, {after[what]:.3f} after")
    size = os.path.getsize(options.out / ADAPTER) if is_first() else 0
    say(f"{options.out / ADAPTER} ({size / 1000:,.0f} kB), {CURVE} and {PICTURE} beside it")
    return 0


# ---- options --------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(f"{message[0].lower()}{message[1:]}; `adapterlab train --help` lists the options")


def _options(given: list[str]) -> argparse.Namespace:
    """What is given, and nothing that is not: its defaults are Settings' own, or those of the run that goes on."""
    parser = _Parser(
        prog="adapterlab train",
        description="Train an adapter on a model: the embedded one, or any causal LM by name or folder.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the adapter, checkpoints, curve")
    parser.add_argument("--resume", action="store_true", default=False, help="go on with the run in --out")
    parser.add_argument("--model", metavar="NAME", help="hub name or folder; the embedded base if it is left out")
    parser.add_argument("--variant", metavar="NAME", help=f"{', '.join(sorted(VARIANTS))} (lora)")
    parser.add_argument(
        "--targets", nargs="+", metavar="REGEX", help="layers by their path; all linear ones if left out"
    )
    parser.add_argument("--task", metavar="NAME", help="one of the embedded tasks, such as add_rev")
    parser.add_argument("--data", metavar="FILE", help='JSON Lines: {"prompt": "...", "completion": "..."}')
    parser.add_argument("--quantize", choices=list(QUANTIZED), help="the base's weights, through bitsandbytes")
    parser.add_argument("--dtype", choices=DTYPES, help="of the base; bfloat16 on a GPU that has it, else float32")
    parser.add_argument("--steps", type=int, help="(100)")
    parser.add_argument("--lr", type=float, help="peak learning rate; the variant's own if left out")
    parser.add_argument("--schedule", choices=SCHEDULES, help="(linear)")
    parser.add_argument("--warmup", type=int, metavar="STEPS", help="a tenth of the steps, ten at most, if left out")
    parser.add_argument("--batch-size", type=int, help="rows of each process in each forward (32)")
    parser.add_argument("--accumulate", type=int, help="forwards for each step (1)")
    parser.add_argument("--max-length", type=int, metavar="TOKENS", help="of a row; what the model takes if left out")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations: less memory, more time")
    parser.add_argument("--seed", type=int, help="of the adapter's start and the order of the data (0)")
    parser.add_argument(
        "--save-every", type=int, default=50, metavar="STEPS", help="(50); a kill loses at most so many"
    )
    parser.add_argument("--keep", type=int, metavar="N", help="checkpoints that stay (2)")
    group = parser.add_argument_group("of the variant, where it has them")
    for name, of in _variant_fields().items():
        group.add_argument(
            *dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")),
            dest=f"field_{name}",
            nargs="?",
            const="true",
            metavar="VALUE",
            help=", ".join(f"{variant} ({default})" for variant, default in of.items()),
        )
    found, unknown = parser.parse_known_args(given)
    if unknown:
        parser.error(f"there is no {unknown[0]}")
    return found


def _variant_fields() -> dict[str, dict[str, Any]]:
    """Field -> variant -> its default."""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(VARIANTS):
        for f in fields(VARIANTS[name]):
            found.setdefault(f.name, {})[name] = "needed" if f.default is MISSING else f.default
    return found


def _take_from_run(options: argparse.Namespace) -> None:
    """What is not given is as in the run that goes on."""
    from .record import begun

    there = begun(options.out)
    if there is None:
        return
    stored = there["settings"] | {key: there[key] for key in ("save_every", "keep")}
    same = getattr(options, "variant", stored["variant"]) == stored["variant"]
    for name, value in stored.items():
        if name != "options" and not hasattr(options, name):
            setattr(options, name, value)
    for name, value in stored["options"].items() if same else ():
        if not hasattr(options, f"field_{name}"):
            setattr(options, f"field_{name}", value)


def _settings(options: argparse.Namespace) -> Settings:
    given = vars(options)
    values = {f.name: given[f.name] for f in fields(Settings) if f.name in given}
    name = values.get("variant", Settings.variant)
    if name not in VARIANTS:
        raise ValueError(f"--variant {name}: there are {', '.join(sorted(VARIANTS))}")
    own = {f.name: f for f in fields(VARIANTS[name])}
    values["options"] = {}
    for key, value in given.items():
        if not key.startswith("field_"):
            continue
        field = key.removeprefix("field_")
        option = f"--{field.replace('_', '-')}"
        if field not in own:
            has = ", ".join(f"--{f.replace('_', '-')}" for f in own) or "none"
            raise ValueError(f"{option}: {name} has no such option; it has {has}")
        value = _value(option, value, own[field].default) if isinstance(value, str) else value
        if value != own[field].default:
            values["options"][field] = value
    return Settings(**values)


def _value(option: str, text: str, default: Any) -> Any:
    """The text as the kind of thing that the default is: a number where that is None."""
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{option} {text}: it is true or false")
        return text.lower() == "true"
    if isinstance(default, str):
        return text
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{option} {text}: a number is wanted") from None
