"""What an exhibit is: an adapter that is right, the smallest change that makes it wrong, and who notices."""

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from ..variant import VARIANTS, Variant


@dataclass(frozen=True)
class Exhibit:
    """One bug that shipped, or would have.

    Attributes:
        number: its place in the catalogue.
        name: short, for links and code.
        title: what is wrong, in a sentence.
        family: the room it hangs in, one of `ROOMS`.
        symptom: what somebody sees who does not know it yet, one of `SYMPTOMS`.
        member: the variant that it is about.
        healthy: what is right: anything that `contract.check` takes, or a function that makes it.
        broken: the same with the bug. Functions make what needs PEFT, which is imported when they are called.
        lines: what makes it wrong: functions and classes, or an `Excerpt` of PEFT.
        let_through: why the tests of the day let it through.
        passes: checks of the contract that it passes, those of the day among them.
        caught_by: checks of the contract that catch it, the plainest first.
        fix: what is right instead.
        source: where it happened, or how it was found.
        patch: a context in which the bug exists, where it is not in the variant itself.
        reference: whose equation and start judge both, where the broken one's own would agree with it.
        lr: the rate that it is trained at, where that is a part of the bug.
        simulated: what is simulated, and why; empty where nothing is.
    """

    number: int
    name: str
    title: str
    family: str
    symptom: str
    member: str
    healthy: Any
    broken: Any
    lines: tuple
    let_through: str
    caught_by: tuple[str, ...]
    fix: str
    source: str
    passes: tuple[str, ...] = ("identity",)
    patch: Callable[[], AbstractContextManager] = field(default=nullcontext, repr=False)
    reference: Variant | None = None
    lr: float | None = None
    simulated: str = ""

    @property
    def checks(self) -> tuple[str, ...]:
        """The checks that it is about: those it passes, then those that catch it."""
        return (*self.passes, *self.caught_by)

    @contextmanager
    def open(self) -> Iterator[Any]:
        """Inside, the bug exists; gives the broken subject. A variant of the museum can be loaded only in here."""
        subject = made(self.broken)
        ours = isinstance(subject, Variant) and subject.name.startswith("museum.")
        with self.patch():
            if ours:
                VARIANTS[subject.name] = type(subject)
            try:
                yield subject
            finally:
                if ours:
                    VARIANTS.pop(subject.name, None)

    def check(self, broken: bool = True, only: tuple[str, ...] | None = None):
        """The contract's report on the broken one, or on the healthy one.

        Args:
            only: names of checks; None is `self.checks`.
        """
        from .. import contract

        only = self.checks if only is None else only
        options = {"only": only, "lr": self.lr, "reference": self.reference}
        if not broken:
            return contract.check(made(self.healthy), **options)
        with self.open() as subject:
            return contract.check(subject, **options)

    def code(self) -> str:
        """The lines that make it wrong, as they stand where they run."""
        return "\n\n\n".join(str(item) if isinstance(item, Excerpt) else _source(item) for item in self.lines)


@dataclass(frozen=True)
class Excerpt:
    """A part of the source of what `find` gives: from the line with `first` in it to the next with `last`."""

    find: Callable[[], Any]
    first: str
    last: str

    def __str__(self) -> str:
        lines = _source(self.find()).splitlines()
        start = next(k for k, line in enumerate(lines) if self.first in line)
        end = next(k for k, line in enumerate(lines) if k >= start and self.last in line)
        return textwrap.dedent("\n".join(lines[start : end + 1]))


def _source(item: Any) -> str:
    return textwrap.dedent(inspect.getsource(item)).rstrip()


def made(subject: Any) -> Any:
    return subject() if inspect.isfunction(subject) else subject


def broken(cls: type[Variant]) -> type[Variant]:
    """A frozen dataclass under a name of its own, so that no file of it can pass for the healthy variant's.

    Not registered: `Exhibit.open` does that for as long as it is looked at.
    """
    cls = dataclass(frozen=True)(cls)
    cls.name = f"museum.{cls.__name__}"
    return cls


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, module.name is value."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
