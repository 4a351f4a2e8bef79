"""TypeScript to JavaScript by taking the types away.

Types have no effect when a program runs, so nothing is compiled: each one is
overwritten with spaces. Every line and every column stays where it was, and stacks
show the user's own file and line without a source map.

What is not there at run time can be erased; what makes code (enums, namespaces,
parameter properties) can't, and is refused with its place and what to write instead.
It is the subset that TypeScript's own option ``erasableSyntaxOnly`` allows.

Two things can go wrong where a type was, and both are about line ends: JavaScript
ends a statement at one, or does not, depending on what stands beside it. So a
statement whose end was erased gets its semicolon, and where a parenthesis must not
come on a new line (``=>`` after a return type of several lines) it is moved.
"""

import re
from collections.abc import Iterator

import tree_sitter
import tree_sitter_typescript

_LANGUAGE = tree_sitter.Language(tree_sitter_typescript.language_typescript())
_TYPES = frozenset(
    {"type_annotation", "type_parameters", "type_arguments", "accessibility_modifier", "override_modifier"}
    | {"implements_clause", "type_predicate_annotation", "asserts_annotation", "opting_type_annotation"}
    | {"omitting_type_annotation", "adding_type_annotation"}
)
"""Nodes that are types and nothing else, wherever they stand."""
_ANNOTATIONS = frozenset({"type_annotation", "type_predicate_annotation", "asserts_annotation"})
_STATEMENTS = frozenset(
    {"interface_declaration", "type_alias_declaration", "ambient_declaration", "function_signature"}
)
"""Statements that are types and nothing else."""
_MEMBERS = frozenset({"abstract_method_signature", "method_signature", "index_signature"})
"""The same in a class."""
_ENDING = frozenset(
    {"expression_statement", "lexical_declaration", "variable_declaration", "return_statement", "throw_statement"}
    | {"public_field_definition", "export_statement"}
)
"""What may have lost its end with a type."""
_BRACKET_ON_NEW_LINE = re.compile(rb"\n\s*\[")
_CONTINUING = frozenset({"call_expression", "subscript_expression"})
_REFUSED = {
    "enum_declaration": (
        "an enum makes code",
        'write: const Color = { Red: "red", Blue: "blue" } as const; '
        "type Color = (typeof Color)[keyof typeof Color];",
    ),
    "internal_module": ("a namespace makes code", "write a module of its own and import it"),
    "module": ("a module block makes code", "write a module of its own and import it"),
    "import_alias": ("import x = ... makes code", "write: import x from ..., or const x = ..."),
    "decorator": ("decorators can't run here yet", "call the function that the decorator is"),
}


class UnsupportedSyntaxError(ValueError):
    """TypeScript that can't be run by erasing types; the message says where, what, and the rewrite."""

    def __init__(self, file: str, line: int, column: int, problem: str, rewrite: str) -> None:
        advice = f"; {rewrite}" if rewrite else ""
        super().__init__(f"{file}:{line}:{column}: {problem}{advice}")
        self.line = line
        self.column = column
        self.rewrite = rewrite


def erase_types(source: str, file: str) -> str:
    """Return ``source`` as JavaScript, place for place; raise `UnsupportedSyntaxError`."""
    encoded = source.encode()
    tree = tree_sitter.Parser(_LANGUAGE).parse(encoded)
    return _Eraser(encoded, file).run(tree.root_node)


class _Eraser:
    def __init__(self, source: bytes, file: str) -> None:
        self._source = source
        self._file = file
        self._out = bytearray(source)
        self._erased = bytearray(len(source))
        """1 where something was erased."""

    def run(self, root: tree_sitter.Node) -> str:
        if root.has_error:
            # Also inside of types: what is erased must have been understood.
            self._refuse(_find_error(root), "this can't be read as TypeScript", "")
        # A stack of our own: a source file is the user's, and may be nested deeper than Python's stack.
        ending: list[tree_sitter.Node] = []
        waiting = [root]
        while waiting:
            node = waiting.pop()
            if node.type in _ENDING:
                ending.append(node)
            waiting.extend(reversed(list(self._visit(node))))
        for node in ending:
            self._end_statement(node)
        # One space for each character, not for each byte of it.
        kept = bytes(
            byte for byte, erased in zip(self._out, self._erased, strict=True) if not (erased and 0x80 <= byte < 0xC0)
        )
        return bytes(kept).decode()

    def _visit(self, node: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
        """Erase what is a type in this node; yield those of its children that are to be looked at."""
        kind = node.type
        if node.is_named and kind in _REFUSED:
            self._refuse(node, *_REFUSED[kind])
        if kind in _TYPES:
            self._erase_type(node)
        elif kind in _STATEMENTS:
            self._erase_statement(node)
        elif kind in _MEMBERS:
            self._erase(node.start_byte, node.end_byte)
        elif kind in ("import_statement", "export_statement"):
            yield from self._visit_module_statement(node)
        elif kind in ("import_specifier", "export_specifier"):
            if node.children and node.children[0].type == "type" and node.named_child_count:
                self._erase_with_comma(node)
        elif kind in ("as_expression", "satisfies_expression"):
            self._check_brackets(node.children[-1])
            self._erase(node.children[1].start_byte, node.end_byte)
            if node.parent is not None and node.parent.type in _CONTINUING and node.parent.children[0] == node:
                # On its next line a parenthesis or a bracket begins a new statement: no type is followed by one.
                self._put(node.children[1].start_byte, b";")
            yield node.children[0]
        elif kind == "non_null_expression":
            self._erase(node.children[-1].start_byte, node.end_byte)
            yield node.children[0]
        elif kind == "type_assertion":
            if b"\n" in self._source[node.children[0].start_byte : node.children[-1].start_byte]:
                self._refuse(node, "a type assertion of several lines", "write: value as Type")
            self._erase(node.children[0].start_byte, node.children[0].end_byte)
            yield from node.children[1:]
        elif kind in ("required_parameter", "optional_parameter"):
            yield from self._visit_parameter(node)
        else:
            if kind == "public_field_definition":
                if any(child.type in ("declare", "abstract") for child in node.children):
                    self._erase(node.start_byte, node.end_byte)
                    return
                self._erase_children(node, ("readonly", "?", "!"))
            elif kind in ("method_definition", "variable_declarator"):
                self._erase_children(node, ("?", "!"))
            elif kind == "abstract_class_declaration":
                self._erase_children(node, ("abstract",))
            yield from node.children

    def _visit_module_statement(self, node: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
        declared = node.child_by_field_name("declaration") or node.child_by_field_name("value")
        if (len(node.children) > 1 and node.children[1].type == "type") or (
            declared is not None and declared.type in _STATEMENTS
        ):
            self._erase_statement(node)
        elif any(child.type == "=" for child in node.children) or any(
            child.type == "import_require_clause" for child in node.children
        ):
            self._refuse(node, "import = and export = make code", "write: import x from ..., or export default x")
        else:
            yield from node.children

    def _visit_parameter(self, node: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
        for child in node.children:
            if child.type in ("accessibility_modifier", "readonly", "override_modifier"):
                self._refuse(
                    node, "a parameter property makes code",
                    "declare the field, and assign it in the constructor: this.name = name",
                )  # fmt: skip
        pattern = node.child_by_field_name("pattern")
        if pattern is not None and pattern.type == "this":
            self._erase_with_comma(node)
            return
        self._erase_children(node, ("?",))
        yield from node.children

    # Erasing

    def _erase(self, start: int, end: int) -> None:
        for at in range(start, end):
            if self._source[at] not in b"\r\n":
                if self._source[at] < 0x80 or self._source[at] >= 0xC0:
                    self._out[at] = 0x20
                self._erased[at] = 1

    def _put(self, at: int, letter: bytes) -> None:
        self._out[at] = letter[0]
        self._erased[at] = 0

    def _erase_children(self, node: tree_sitter.Node, kinds: tuple[str, ...]) -> None:
        for child in node.children:
            if child.type in kinds:
                self._erase(child.start_byte, child.end_byte)

    def _erase_statement(self, node: tree_sitter.Node) -> None:
        self._erase(node.start_byte, node.end_byte)
        self._put(node.start_byte, b";")

    def _erase_with_comma(self, node: tree_sitter.Node) -> None:
        following = node.next_sibling
        end = following.end_byte if following is not None and following.type == "," else node.end_byte
        self._erase(node.start_byte, end)

    def _check_brackets(self, node: tree_sitter.Node) -> None:
        """Refuse a bracket on a new line after a type: to the parser it is of the type, to TypeScript it is not."""
        if not _BRACKET_ON_NEW_LINE.search(self._source, node.start_byte, node.end_byte):
            return
        waiting = [node]
        while waiting:
            inner = waiting.pop()
            if inner.type in ("lookup_type", "array_type"):
                before, bracket = inner.children[0], inner.children[1]
                if before.end_point[0] != bracket.start_point[0]:
                    self._refuse(bracket, "a bracket on a new line after a type", "end the statement before it with ;")
            waiting.extend(inner.children)

    def _erase_type(self, node: tree_sitter.Node) -> None:
        self._check_brackets(node)
        self._erase(node.start_byte, node.end_byte)
        parent = node.parent
        lines = self._source[node.start_byte : node.end_byte].count(b"\n")
        if parent is None or parent.type != "arrow_function" or lines == 0:
            return
        parameters = parent.child_by_field_name("parameters")
        assert parameters is not None, "an arrow function whose type is written has its parameters in parentheses"
        if node.type in _ANNOTATIONS:
            # "=>" must come on the line of ")".
            self._erase(parameters.end_byte - 1, parameters.end_byte)
            self._put(node.end_byte - 1, b")")
        elif node.type == "type_parameters":
            # "(" must come on the line of "async".
            self._erase(parameters.start_byte, parameters.start_byte + 1)
            self._put(node.start_byte, b"(")

    def _end_statement(self, node: tree_sitter.Node) -> None:
        """Give a statement whose last part was erased its semicolon."""
        at = node.end_byte - 1
        following = node.next_sibling
        if at < node.start_byte or not self._erased[at] or (following is not None and following.type == ";"):
            return
        while at > node.start_byte and (self._erased[at - 1] or self._source[at - 1] in b" \t\r\n"):
            at -= 1
        while self._source[at] in b" \t\r\n" or 0x80 <= self._source[at] < 0xC0:
            at += 1
        if at > node.start_byte:
            self._put(at, b";")

    def _refuse(self, node: tree_sitter.Node, problem: str, rewrite: str) -> None:
        row, column = node.start_point
        line = self._source.split(b"\n", row + 1)[row]
        raise UnsupportedSyntaxError(self._file, row + 1, len(line[:column].decode()) + 1, problem, rewrite)


def _find_error(root: tree_sitter.Node) -> tree_sitter.Node:
    """Return the first node that could not be read."""
    node = root
    while not (node.type == "ERROR" or node.is_missing):
        inner = [child for child in node.children if child.has_error or child.is_missing]
        if not inner:
            break
        node = inner[0]
    return node
