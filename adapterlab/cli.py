"""The command `adapterlab`: one word for what to do, and the arguments of the module that does it."""

import importlib
import os
import sys

COMMANDS = {
    "bench": ("adapterlab.bench.command", "what each variant costs, beside the bare layer and PEFT"),
    "check": ("adapterlab.contract.command", "whether an adapter keeps the contract: ours, yours or PEFT's"),
    "export": ("adapterlab.deploy.export", "an adapter in PEFT's format"),
    "info": ("adapterlab.deploy.info", "what is in an adapter file, and for which base"),
    "merge": ("adapterlab.deploy.merge", "the base with the adapter folded in, as a model of its own"),
    "plan": ("adapterlab.planner.command", "the memory of each GPU that trains an adapter"),
    "train": ("adapterlab.finetune.command", "an adapter on a model, from a task or a file of examples"),
    "probe": ("adapterlab.kit.probe", "whether every variant works on a model"),
}


def main(arguments: list[str] | None = None) -> int:
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: adapterlab COMMAND ...\n")
        for command, (_, what) in COMMANDS.items():
            print(f"  {command:8}{what}")
        print("\n`adapterlab COMMAND --help` lists the options of one.")
        return 0
    if name not in COMMANDS:
        print(f"adapterlab: there is no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[name]
    try:
        code = importlib.import_module(module).main(rest)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"adapterlab {name}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more as it ends
        return 1
    return code
