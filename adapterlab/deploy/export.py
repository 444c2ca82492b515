"""`adapterlab export FILE --to peft --out FOLDER`: the adapter in PEFT's format."""

from .command import EMBEDDED, adapter_file, base_of, guarded, loaded, new_folder, parser, takes_place

FORMS = {"peft": "in PEFT's own form of the variant", "peft-lora": "as an ordinary LoRA, which any runtime serves"}


def main(arguments: list[str] | None = None) -> int:
    made = parser(
        "adapterlab export", "Write an adapter in PEFT's format: " + "; ".join(f"{k}: {v}" for k, v in FORMS.items())
    )
    made.add_argument("--to", choices=list(FORMS), required=True)
    takes_place(made)
    options = made.parse_args(arguments)

    def act() -> None:
        from ..peft import to_peft

        file = adapter_file(options.file)
        name = base_of(file, options.model)
        with new_folder(options.out) as staging:
            model, _ = loaded(file, name, options.dtype)
            to_peft(model, staging, as_lora=options.to == "peft-lora")
        print(f"{options.out}: the adapter {FORMS[options.to]}, for {name or EMBEDDED}")
        print(f"  peft.PeftModel.from_pretrained(model, {str(options.out)!r})")

    return guarded("adapterlab export", act)
