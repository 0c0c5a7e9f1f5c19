"""Make mutants of a module: small changes of its source, one at a time, that a test should notice.

Left alone are docstrings, annotations, decorators, imports, the messages of errors, and what only
tells the type checker something. `zip(..., strict=True)` is left alone too: it checks the program
itself.
"""

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType
from typing import Any

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}  # fmt: skip
# Their arguments are types, or say what an object is called.
_TYPING_CALLS = {"cast", "TypeVar", "NewType"}
_ANY_ERROR = "ArithmeticError"  # which the package raises nowhere


@dataclass(frozen=True)
class Mutant:
    """Describe one change of a module's source.

    Attributes:
        lines: of the statement that changes; of a compound one, of its head.
        function: qualified name of the outermost function that holds it; empty outside functions.
        text: the source before and after the change, shortened.
        owner, field, index, new: where the syntax tree changes: `new` replaces a field of a node,
            or one place of a field that is a list.
    """

    lines: range
    function: str
    text: str
    owner: ast.AST
    field: str
    index: int | None
    new: object


class MutatedModule:
    """Hold a module's source, and list the mutants of it."""

    def __init__(self, path: str) -> None:
        """Read the source at `path`."""
        self.path = path
        with open(path, encoding="utf-8") as file:
            self._tree = ast.parse(file.read())
        self.mutants = list(_module_mutants(self._tree))

    def unchanged(self) -> CodeType:
        """Return the code of the module as it is."""
        return compile(self._tree, self.path, "exec")

    def compiled(self, mutant: Mutant) -> CodeType | None:
        """Return the code of the module with a change; None if it is no valid program."""
        with _applied(mutant.owner, mutant.field, mutant.index, mutant.new):
            try:
                return compile(self._tree, self.path, "exec")
            except SyntaxError:
                return None


@contextmanager
def _applied(owner: ast.AST, field: str, index: int | None, new: object) -> Iterator[None]:
    """Change the syntax tree for the time of a block."""
    before = getattr(owner, field)
    changed = new
    if index is not None:
        changed = list(before)
        changed[index : index + 1] = [] if new is None else [new]
    setattr(owner, field, changed)
    ast.fix_missing_locations(owner)
    try:
        yield
    finally:
        setattr(owner, field, before)


def _module_mutants(tree: ast.Module) -> Iterator[Mutant]:
    """Yield the mutants of a module in the order of its nodes."""
    for node, scope, lines in _nodes(tree, (), range(0)):
        function = ".".join(scope[:-1]) if scope and not scope[-1] else ""
        for owner, field, index, new in _changes(node):
            old = None if index is None else getattr(owner, field)[index]
            if isinstance(old, ast.stmt):
                yield Mutant(
                    _head(old), function, f"{_source(old)} → {_source(new)}",
                    owner, field, index, new,
                )  # fmt: skip
                continue
            shown = node if isinstance(node, (ast.expr, ast.stmt)) else owner
            text = _source(shown)
            with _applied(owner, field, index, new):
                text = f"{text} → {_source(shown)}"
            yield Mutant(lines, function, text, owner, field, index, new)


def _source(node: object) -> str:
    """Return the first line of a node's source."""
    return ast.unparse(node).partition("\n")[0] if isinstance(node, ast.AST) else "nothing"


def _head(node: Any) -> range:
    """Return the lines of a statement, or of the head of one that holds others."""
    body = getattr(node, "body", None)
    last = body[0].lineno - 1 if isinstance(body, list) and body else node.end_lineno
    return range(node.lineno, max(last, node.lineno) + 1)


Located = tuple[ast.AST, tuple[str, ...], range]


def _nodes(node: ast.AST, scope: tuple[str, ...], lines: range) -> Iterator[Located]:
    """Yield the nodes that may change, each with the names around it and its statement's lines.

    Inside a function the names end with an empty one, and stay those of the outermost function.
    Defaults lie outside.
    """
    if isinstance(node, (ast.stmt, ast.ExceptHandler)):
        lines = _head(node)
    yield node, scope, lines
    inside = bool(scope) and not scope[-1]
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "type_params", "decorator_list"):
            continue
        own = scope
        if isinstance(node, ast.ClassDef) and not inside and field == "body":
            own = (*scope, node.name)
        if isinstance(node, ast.FunctionDef) and not inside and field == "body":
            own = (*scope, node.name, "")
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_left_alone(node, child):
                yield from _nodes(child, own, lines)


def _is_left_alone(parent: ast.AST, child: ast.AST) -> bool:
    """Tell whether nothing in a node is to change."""
    if isinstance(child, (ast.Import, ast.ImportFrom, ast.JoinedStr, ast.Pass)):
        return True
    if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
        return True  # a docstring
    if isinstance(child, ast.If) and _name(child.test) == "TYPE_CHECKING":
        return True
    if isinstance(child, ast.Call) and _name(child.func) in _TYPING_CALLS:
        return True
    if isinstance(child, ast.keyword) and child.arg == "strict":
        return True
    if isinstance(parent, ast.Raise):
        return True  # its message; the class changes with the statement
    if _is_minus_one(parent):
        return True
    is_union = isinstance(child, ast.BinOp) and isinstance(child.op, ast.BitOr)
    return is_union and isinstance(parent, ast.Assign) and _is_type(parent.targets[0])


def _is_minus_one(node: ast.AST) -> bool:
    """Tell whether a node is -1, which numpy takes for "whatever fits", as any negative number."""
    return (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and isinstance(node.operand, ast.Constant)
        and node.operand.value == 1
    )


def _is_type(target: ast.AST) -> bool:
    """Tell whether an assignment names a type: `Shape = ...`."""
    name = _name(target)
    return name[:1].isupper() and not name.isupper()


def _name(node: ast.AST) -> str:
    """Return the last part of a name, or an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


Change = tuple[ast.AST, str, int | None, object]


def _changes(node: ast.AST) -> Iterator[Change]:
    """Yield the changes of one node, without those of the nodes in it."""
    if isinstance(node, ast.expr):
        yield from _expression_changes(node)
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield from _negated(node, "test", None, node.test)
    if isinstance(node, ast.comprehension):
        for index, test in enumerate(node.ifs):
            yield from _negated(node, "ifs", index, test)
    if isinstance(node, ast.AugAssign) and type(node.op) in _OPERATORS:
        yield node, "op", None, _OPERATORS[type(node.op)]()
    if isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield node, "value", None, ast.Constant(None)
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        yield node.exc, "func", None, _other_error(node.exc.func)
    if isinstance(node, ast.ExceptHandler) and node.type is not None:
        yield from _handler_changes(node)
    for field in ("body", "orelse", "finalbody"):
        yield from _removals(node, field)


def _handler_changes(node: ast.ExceptHandler) -> Iterator[Change]:
    """Let a handler catch less: nothing, or all of its classes but one."""
    if isinstance(node.type, ast.Tuple):
        for index in range(len(node.type.elts)):
            yield node.type, "elts", index, None
    else:
        yield node, "type", None, ast.Name(_ANY_ERROR, ast.Load())


def _other_error(raised: ast.expr) -> ast.expr:
    """Return the root of the package's errors instead of one of them, or any other class."""
    if _name(raised) in ("ValueError", "TypeError", "KeyError", "NotImplementedError", "RbeError"):
        return ast.Name(_ANY_ERROR, ast.Load())
    return ast.parse("__import__('rbe_cli.errors').errors.RbeError", mode="eval").body


def _negated(node: ast.AST, field: str, index: int | None, test: ast.expr) -> Iterator[Change]:
    """Negate a condition, unless another change does the same."""
    is_flipped = isinstance(test, ast.Compare) and isinstance(
        test.ops[0], (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
    )
    if not is_flipped and not isinstance(test, ast.UnaryOp):
        yield node, field, index, ast.UnaryOp(ast.Not(), test)


def _removals(node: ast.AST, field: str) -> Iterator[Change]:
    """Remove statements that give no name a value, and let loops go on or end."""
    statements = getattr(node, field, None)
    if not isinstance(statements, list):
        return
    for index, own in enumerate(statements):
        if isinstance(own, ast.Continue):
            yield node, field, index, ast.Break()
        elif isinstance(own, ast.Break):
            yield node, field, index, ast.Continue()
        elif isinstance(own, (ast.Raise, ast.AugAssign, ast.Delete)) or _is_call_or_store(own):
            yield node, field, index, ast.Pass()


def _is_call_or_store(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return not isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Assign) and isinstance(
        statement.targets[0], (ast.Attribute, ast.Subscript)
    )


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _expression_changes(node: ast.expr) -> Iterator[Change]:
    if isinstance(node, ast.Compare):
        for index, comparison in enumerate(node.ops):
            yield node, "ops", index, _COMPARISONS[type(comparison)]()
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        yield node, "op", None, _OPERATORS[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        yield node, "op", None, ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, "operand", None, ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.UnaryOp) and _is_minus_one(node):
        yield node.operand, "value", None, 0
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield node, "op", None, ast.UAdd()
    elif isinstance(node, ast.Constant):
        for value in _other_values(node.value):
            yield node, "value", None, value
    elif isinstance(node, ast.Call):
        yield from _call_changes(node)
    elif isinstance(node, ast.Slice):
        for field in ("lower", "upper"):
            if getattr(node, field) is not None:
                yield node, field, None, None


def _other_values(value: object) -> list[object]:
    """Return values that a constant may take instead."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [value + 1]
    if isinstance(value, str):
        return ["XX" + value]
    return [b"XX" + value] if isinstance(value, bytes) else []


def _call_changes(node: ast.Call) -> Iterator[Change]:
    """Swap neighbouring arguments, and leave out one that has a name."""
    for index, (first, second) in enumerate(zip(node.args, node.args[1:], strict=False)):
        if ast.dump(first) != ast.dump(second):
            swapped = [*node.args[:index], second, first, *node.args[index + 2 :]]
            yield node, "args", None, swapped
    for index, keyword in enumerate(node.keywords):
        if keyword.arg not in (None, "strict"):
            yield node, "keywords", index, None
