"""What the three commands share: where the file is, which base it is for, and errors that are sentences."""

import argparse
import contextlib
import json
import re
import shutil
import signal
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..files import AdapterFileError, publish
from ..finetune.settings import Settings

ADAPTER, RUN = "adapter.safetensors", "run.json"
EMBEDDED = "the embedded base"


# What the package's messages advise, in the words of the commands.
IN_OPTIONS = {
    "write it with as_lora=True if its rank is low": "--to peft-lora writes it if its rank is low",
    "export it without as_lora": "use --to peft",
    ", or pass strict_base=False": "",
    "load_base(), which needs neither": "which needs neither: leave --model out",
}


def guarded(program: str, act: Callable[[], int | None]) -> int:
    """Run it; whatever goes wrong is said in a sentence, and the exit code says that it did."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"{program}: note: {message}", file=sys.stderr)
            return act() or 0
    except KeyboardInterrupt:
        print(f"{program}: stopped, nothing is written", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        raise  # whoever calls the commands knows what to do
    except ImportError as error:
        print(f"{program}: {error}: `pip install 'adapterlab[kit,peft]'` has what this needs", file=sys.stderr)
    except Exception as error:  # transformers, PEFT and safetensors have kinds of their own
        told = first_line(error)
        for words, option in IN_OPTIONS.items():
            told = told.replace(words, option)
        print(f"{program}: {told}", file=sys.stderr)
    return 1


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def adapter_file(path: Path) -> Path:
    """The file itself, or that of a run's or a checkpoint's folder.

    Raises:
        AdapterFileError: there is none.
    """
    if not path.is_dir():
        return path
    if (path / ADAPTER).is_file():
        return path / ADAPTER
    if (path / "adapter_config.json").is_file():
        raise AdapterFileError(f"{path} is a folder of PEFT's: `adapterlab check {path}` examines it")
    saved = sorted(path.glob(f"checkpoint-*/{ADAPTER}"), key=lambda p: int(p.parent.name.partition("-")[2]))
    if saved:
        raise AdapterFileError(f"the run in {path} is not finished: its last checkpoint is {saved[-1].parent}")
    raise AdapterFileError(f"{path} holds no {ADAPTER}: name the file of an adapter, or the folder of a run")


def base_of(file: Path, given: str | None) -> str | None:
    """The base's name: the one given, else what the run that wrote the file says, else None, the embedded base."""
    return given if given is not None else (run_of(file) or {}).get("model")


def run_of(file: Path) -> dict[str, Any] | None:
    """The settings of the run of `adapterlab train` that wrote the file; None where no run.json says."""
    folder = file.absolute().parent
    if re.fullmatch(r"checkpoint-\d+", folder.name):
        folder = folder.parent
    try:
        found = json.loads((folder / RUN).read_text("utf-8"))["settings"]
        Settings.from_json(found)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def loaded(file: Path, name: str | None, dtype: str):
    """The base with the file's adapter on it, and its tokenizer."""
    import torch

    from ..checkpoint import load
    from ..kit.base import load_base

    model, tokenizer = load_base(name, dtype=dtype if dtype == "auto" else getattr(torch, dtype))
    model.config._name_or_path = name or ""  # not where a copy of it happens to lie
    load(model, file)
    return model, tokenizer


def parser(program: str, about: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=program, description=about)
    made.add_argument(
        "file", type=Path, help="of `al.save` or `adapterlab train`, or the folder of a run or checkpoint"
    )
    return made


def takes_base(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--model", metavar="NAME", help="hub name or folder; left out, what run.json says, else the embedded base"
    )


def takes_place(made: argparse.ArgumentParser) -> None:
    takes_base(made)
    made.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="made; it must not be there yet")
    made.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the base (as it is stored)",
    )


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which gets the name `out` when it is full: nobody ever finds half of it.

    Raises:
        AdapterFileError: `out` is there already, or cannot be made.
    """
    if out.exists() or out.is_symlink():
        raise AdapterFileError(f"{out} is there already: name another --out, or remove it")
    place = out.absolute().parent
    staging = place / f".adapterlab-{uuid.uuid4().hex}"
    made = [folder for folder in (place, *place.parents) if not folder.exists()]
    try:
        try:
            staging.mkdir(parents=True)
        except OSError as error:
            raise AdapterFileError(f"cannot make the folder {out}: {error.strerror or error}") from error
        yield staging
        try:
            publish(staging, out)
        except OSError as error:
            raise AdapterFileError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in made:  # those that hold the new folder stay
            with contextlib.suppress(OSError):
                folder.rmdir()


def require_room(folder: Path, wanted: int) -> None:
    """Raises AdapterFileError: the disk has not so many bytes left."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise AdapterFileError(
            f"the model needs {wanted / 1e9:.1f} GB, and the disk of --out has {free / 1e9:.1f} GB left"
        )
