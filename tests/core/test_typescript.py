"""Types are taken away, and nothing else moves."""

import pytest

from flux.typescript import UnsupportedSyntaxError, erase_types

ERASED = [
    ("let x: number = 1", "let x         = 1"),
    ("const f = <T,>(x: T): T => x;", "const f =     (x   )    => x;"),
    ("function f(a?: number, ...r: string[]): a is A {}", "function f(a         , ...r          )         {}"),
    ("function f(this: Foo, a: number) {}", "function f(           a        ) {}"),
    ("interface A { x: number }\nf()", ";                        \nf()"),
    ("type A = string | undefined;", ";                           "),
    ("import type { A } from './a';", ";                            "),
    ("import { type A, b } from './a';", "import {         b } from './a';"),
    ("export { type A, b };", "export {         b };"),
    ("declare const q: number;", ";                       "),
    ("x = y!; z = y![0]!.k", "x = y ; z = y [0] .k"),
    ("const v = x as unknown as Foo;", "const v = x                  ;"),
    ("const o = { a: 1 } satisfies Foo;", "const o = { a: 1 }              ;"),
    ("let a = <any>(x)", "let a =      (x)"),
    ("new Map<string, number>(); f<string>(1)", "new Map                (); f        (1)"),
    ("class A<T> extends B<T> implements C { }", "class A    extends B                 { }"),
    ("abstract class A { abstract m(): void; n() {} }", "         class A {                   ; n() {} }"),
    ("class A { private readonly x: number = 1 }", "class A {                  x         = 1 }"),
    ("class A { declare x: number; #y?: string; }", "class A {                  ; #y         ; }"),
    ("class A { f(a: string): void; f(a: any) {} }", "class A {                   ; f(a     ) {} }"),
    ("try {} catch (e: unknown) {}", "try {} catch (e         ) {}"),
    ('const é: "ünï" | "x" = "ä"; const n = 1;', 'const é              = "ä"; const n = 1;'),
    # A statement ends where its type did: what is on the next line must not become a part of it.
    ("let u: number\n[r] = [1]", "let u;       \n[r] = [1]"),
    ("let v = x as any\n(1, 2)", "let v = x ;     \n(1, 2)"),
    ("class A { x: number\ny = 1 }", "class A { x;       \ny = 1 }"),
    # "=>" must be on the line of ")", and "(" on that of async.
    ("const g = (x: T): Promise<\n  T\n> => x", "const g = (x              \n   \n) => x"),
    ("const h = async <\n  T\n>(x: T) => x", "const h = async (\n   \n  x   ) => x"),
    # Words that are only sometimes keywords.
    ("let type = 1; type = 2; const as = 3; of(as)", "let type = 1; type = 2; const as = 3; of(as)"),
    ("if (a < b && c > (d)) {}", "if (a < b && c > (d)) {}"),
]


@pytest.mark.parametrize(("source", "erased"), ERASED)
def test_a_type_is_overwritten_with_spaces(source: str, erased: str) -> None:
    assert erase_types(source, "a.ts") == erased


REFUSED = [
    ("enum Color { Red }", 1, 1, "as const"),
    ("const x = 1;\n  export const enum Color { Red }", 2, 10, "as const"),
    ("const é = 1; enum A {}", 1, 14, "as const"),
    ("namespace N { export const x = 1 }", 1, 1, "a module of its own"),
    ("class A {\n  constructor(private x: number) {}\n}", 2, 15, "this.name = name"),
    ("class A { constructor(readonly x: number) {} }", 1, 23, "this.name = name"),
    ('import x = require("y")', 1, 1, "import x from"),
    ("export = 3", 1, 1, "export default"),
    ("@sealed class A {}", 1, 1, "call the function"),
    ("let x: = 3", 1, 8, ""),
    ("let w = x as any\n[1].map(f)", 2, 1, "end the statement"),
    ("let a = 1;\nlet b = ;", 2, 7, ""),
]


@pytest.mark.parametrize(("source", "line", "column", "rewrite"), REFUSED)
def test_what_makes_code_is_refused_with_its_place_and_what_to_write(
    source: str, line: int, column: int, rewrite: str
) -> None:
    with pytest.raises(UnsupportedSyntaxError) as caught:
        erase_types(source, "functions/a.ts")
    assert (caught.value.line, caught.value.column) == (line, column)
    assert str(caught.value).startswith(f"functions/a.ts:{line}:{column}: ")
    assert rewrite in str(caught.value)


def test_javascript_stays_as_it_is() -> None:
    source = "// déjà vu\nexport async function* f(a, { b = 1, ...c }) {\n  yield `${a ?? b}${/x<y>/u.test(c)}`;\n}\n"
    assert erase_types(source, "a.ts") == source


def test_deep_nesting_is_no_end_of_python() -> None:
    source = "let x = " + "[" * 5000 + "]" * 5000 + " as any;"
    assert erase_types(source, "a.ts").startswith("let x = [[[")
