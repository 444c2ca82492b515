"""Which mutants there are: small changes to the source of a module, each of which a test should notice."""

import difflib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider
from parso.python.tree import Keyword

LEFT_OUT = {
    "VariableReplacer",
    "VariableInserter",
}  # they want a variable's name, and draw numbers that no seed reaches
# Strings and small numbers in a source are one object each, for which "is" and "==" say the same.
LEFT_OUT |= {f"ReplaceComparisonOperator_{pair}" for pair in ("Eq_Is", "NotEq_IsNot", "Is_Eq", "IsNot_NotEq")}

# cosmic-ray gives each binary operator eleven replacements. Most fail on a tensor or a set at once, and would make the
# share of the killed look better than it is.
NEAREST = {"Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "FloorDiv_Div", "Mod_Mul", "Pow_Mul"}
NEAREST |= {"BitOr_BitAnd", "BitAnd_BitOr"}

# Calls that hand on a tensor of the same shape: without one, only a number, a dtype or a gradient is wrong.
SAME_SHAPE = {"to", "detach", "clone", "clamp", "masked_fill"}


class DeleteStatement(Operator):
    """`p.lora_A.copy_(A)` -> `pass`. cosmic-ray itself deletes nothing."""

    def mutation_positions(self, node):
        kept = ("string", "strings", "import_name", "import_from")
        if node.type == "simple_stmt" and node.children[0].type not in kept and node.get_code().strip() != "pass":
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        gone = node.children[0]
        node.children[0] = Keyword("pass", gone.start_pos, gone.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls):
        return ()


class DropCall(Operator):
    """`V.detach().norm()` -> `V.norm()`, for the calls named in SAME_SHAPE."""

    def mutation_positions(self, node):
        return [(node.children[i].start_pos, node.children[i + 1].end_pos) for i in self._calls(node)]

    def mutate(self, node, index):
        i = self._calls(node)[index]
        del node.children[i : i + 2]
        return node

    @staticmethod
    def _calls(node):
        """Where in an `atom_expr` such a call begins: a trailer `.name`, then a trailer `(...)`."""
        if node.type not in ("atom_expr", "power"):
            return []
        parts = [child.get_code().strip() for child in node.children]
        return [i for i in range(1, len(parts) - 1) if parts[i][1:] in SAME_SHAPE and parts[i + 1].startswith("(")]

    @classmethod
    def examples(cls):
        return ()


@dataclass(frozen=True)
class Mutant:
    """`source` is the whole module; `before` and `after` are the changed lines. `excluded` says why it is not run."""

    file: str
    line: int
    operator: str
    before: str
    after: str
    source: str
    excluded: str


def operators() -> dict[str, Operator]:
    provider, found = OperatorProvider(), {"DeleteStatement": DeleteStatement(), "DropCall": DropCall()}
    for name in provider:
        binary = name.startswith("ReplaceBinaryOperator_")
        if name not in LEFT_OUT and not (binary and name.split("_", 1)[1] not in NEAREST):
            found[name] = provider[name]()
    return found


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """All of `source`, in the order of the operators. Nothing inside a string is touched, docstrings among them."""
    tree = get_ast(source)
    for name, operator in operators().items():
        occurrence = 0
        for node in ast_nodes(tree):
            for (line, _), _ in operator.mutation_positions(node):
                mutated = mutate_code(source, operator, occurrence)
                occurrence += 1
                before, after = changed_lines(source, mutated)
                yield Mutant(file, line, name, before, after, mutated, why_excluded(node, name, mutated))


def changed_lines(source: str, mutated: str) -> tuple[str, str]:
    """The lines that differ, each as written but for white space."""
    diff = list(difflib.unified_diff(source.splitlines(), mutated.splitlines(), n=0, lineterm=""))[2:]
    plain = ([" ".join(line[1:].split()) for line in diff if line[0] == sign] for sign in "-+")
    return tuple("\n".join(filter(None, lines)) for lines in plain)


def why_excluded(node, operator: str, mutated: str) -> str:
    """'' if the mutant is to be run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of `is` with a literal
            compile(mutated, "mutant", "exec")
    except SyntaxError:
        return "is no Python"
    if re.search("_(Lt|LtE|Gt|GtE)$", operator) and any(child.type == "string" for child in node.children):
        return "order of strings"
    inside, parent = node, node.parent
    while parent is not None:
        # cosmic-ray knows the type in `x: T = 1`, but not that of a parameter or of what is returned.
        if inside is getattr(parent, "annotation", None) or (parent.type == "tfpdef" and inside is parent.children[2]):
            return "type annotation"
        if parent.type == "raise_stmt":
            return "error message"
        inside, parent = parent, parent.parent
    return ""
