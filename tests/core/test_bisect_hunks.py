"""Which part of a commit a request ran, from diffs as git writes them."""

from flux.bisect_hunks import HUNKS_MAX, LINES_MAX, changed_any, choose_hunks, parse_diff

DIFF = """\
diff --git a/functions/signup.py b/functions/signup.py
index 1111111..2222222 100644
--- a/functions/signup.py
+++ b/functions/signup.py
@@ -3 +3 @@ import re
--- a/looks/like/a/head.py
+++ b/looks/like/a/head.py
@@ -14,0 +15,3 @@ async def create_user(ctx, input):
+    user = await ctx.db.query_one(
+        "update users", user["id"]
+    )
@@ -30,2 +33,0 @@ async def other(ctx, input):
-    await ctx.db.execute("delete from users")
-    return None
diff --git a/functions/my file.py b/functions/my file.py
--- a/functions/my file.py\t
+++ b/functions/my file.py\t
@@ -1 +1 @@
-a = 1
\\ No newline at end of file
+a = 2
\\ No newline at end of file
diff --git a/logo.png b/logo.png
Binary files a/logo.png and b/logo.png differ
diff --git a/functions/gone.py b/functions/gone.py
deleted file mode 100644
--- a/functions/gone.py
+++ /dev/null
@@ -1,2 +0,0 @@
-def helper():
-    return 1
"""
HUNKS = parse_diff(DIFF)


def test_a_diff_is_read_by_counting_its_lines() -> None:
    assert [(hunk.path, hunk.old_start, hunk.old_count, hunk.new_start, hunk.new_count) for hunk in HUNKS] == [
        ("functions/signup.py", 3, 1, 3, 1),
        ("functions/signup.py", 14, 0, 15, 3),
        ("functions/signup.py", 30, 2, 33, 0),
        ("functions/my file.py", 1, 1, 1, 1),
        ("functions/gone.py", 1, 2, 0, 0),
    ]
    assert HUNKS[0].lines == ("--- a/looks/like/a/head.py", "+++ b/looks/like/a/head.py")
    assert len(HUNKS[1].lines) == 3 and HUNKS[3].lines == ("-a = 1", "+a = 2")


def test_the_hunk_with_a_line_that_was_run_is_named() -> None:
    found = choose_hunks(HUNKS, {("functions/signup.py", 16), ("functions/signup.py", 40)}, set())
    assert found is not None and found.was_run
    assert [hunk.new_start for hunk in found.hunks] == [15]


def test_what_the_parent_ran_and_the_commit_took_away_is_named() -> None:
    found = choose_hunks(HUNKS, {("functions/signup.py", 31)}, {("functions/signup.py", 31)})
    assert found is not None and found.was_run
    assert [(hunk.old_start, hunk.new_count) for hunk in found.hunks] == [(30, 0)]


def test_the_edges_of_a_hunk_are_its_own_lines() -> None:
    for line, wanted in ((14, False), (15, True), (17, True), (18, False)):
        found = choose_hunks(HUNKS, {("functions/signup.py", line)}, ())
        assert found is not None and found.was_run is wanted


def test_where_no_line_was_run_the_file_is_named_as_such_or_nothing() -> None:
    found = choose_hunks(HUNKS, {("functions/signup.py", 99)}, ())
    assert found is not None and not found.was_run
    assert {hunk.path for hunk in found.hunks} == {"functions/signup.py"}
    assert choose_hunks(HUNKS, {("functions/elsewhere.py", 15)}, ()) is None
    assert choose_hunks((), {("functions/signup.py", 15)}, ()) is None


def test_more_than_can_be_shown_is_counted() -> None:
    many = "".join(f"@@ -{n} +{n} @@\n-{n}\n+{'x' * 9000}\n" for n in range(1, 9))
    long = "@@ -100,0 +101,40 @@\n" + "+x\n" * 40
    hunks = parse_diff(f"diff --git a/f.py b/f.py\n--- a/f.py\n+++ b/f.py\n{long}{many}")
    found = choose_hunks(hunks, {("f.py", 120), *(("f.py", n) for n in range(1, 9))}, ())
    assert found is not None and (len(found.hunks), found.left_out) == (HUNKS_MAX, 9 - HUNKS_MAX)
    assert len(found.hunks[0].lines) == LINES_MAX + 1 and found.hunks[0].lines[-1] == " … 28 more lines"
    assert max(len(line) for hunk in found.hunks for line in hunk.lines) == 400


def test_a_changed_line_counts_on_the_side_that_has_it() -> None:
    new, old = ("functions/signup.py", 16), ("functions/signup.py", 31)
    assert changed_any(HUNKS, {new}, ()) and changed_any(HUNKS, (), {old})
    assert not changed_any(HUNKS, {old, ("functions/other.py", 16)}, {new})
