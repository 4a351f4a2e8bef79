"""The console as a person has it: the link of ``flux dev``, opened in a browser, and what is clicked from there.

One server and one browser serve the whole file. What is on a page is compared with what was sent and with what psql
finds; after each test the browser is asked whether a page broke its own policy, or a script of it failed.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import attrs
import pytest

from tests.browser import Browser, open_browser
from tests.conftest import Database
from tests.dev_process import DevServer, running_dev, write_project
from tests.histories.write import git
from tests.postgres_server import PostgresServer

SCHEMA = """\
create table stock (item text primary key, left_over int not null);
insert into stock values ('tea', 10), ('mug', 3);
create table orders (id bigint generated always as identity primary key, item text not null, note text);
"""
SHOP = """\
from flux_guest import function

PRICES = {"tea": 450}


@function("POST /order")
async def order(ctx, input):
    left = await ctx.db.query_one(
        "update stock set left_over = left_over - 1 where item = $1 returning left_over", input["item"]
    )
    placed = await ctx.db.query_one(
        "insert into orders (item, note) values ($1, $2) returning id", input["item"], input.get("note")
    )
    ctx.log.info("ordered", note=input.get("note"))
    return {"id": placed["id"], "left": left["left_over"], "cents": PRICES[input["item"]]}
"""
STRANGERS_PAGE = Path(__file__).parents[1] / "strangers_page.html"
"""What a script in a page of the functions' port tries on the console's: it writes down all that it gets to see."""
BOARD = f"""\
from flux_guest import function

PAGE = {STRANGERS_PAGE.read_text()!r}


@function("GET /board")
async def board(ctx, input):
    return ctx.response(PAGE, headers={{"content-type": "text/html; charset=utf-8"}})
"""
WORK = """\
from flux_guest import function


@function("POST /mail")
async def mail(ctx, input):
    return {"job": await ctx.queue.push("send", input)}


@function()
def send(ctx, payload):
    raise RuntimeError(payload["text"])


@function(cron="0 3 1 1 *")
def yearly(ctx, input):
    return {}
"""
STEPS = """\
from flux_guest import function


def price(line):
    cents = line["cents"]
    if cents < 0:
        raise ValueError(line["note"])
    return cents


@function("POST /bill")
def bill(ctx, input):
    total = 0
    for line in input["lines"]:
        ctx.db.execute("update stock set left_over = left_over - 1 where item = 'tea'")
        total += price(line)
    return {"total": total}
"""
CULPRIT = "Prices of <b>what is on the shelf</b>, and no others \u202e"
"""Subject of the commit that broke it, which somebody wrote."""
HOSTILE = "</pre><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> \u202ex {{7*7}}"
HOSTILE_IN_JSON = HOSTILE.replace('"', r'\"').replace("\u202e", r"\u202e")
"""As a page shows it within a value."""


PRICED = '{"tea": 450, "mug": 900}'


def commit(project: Path, subject: str) -> None:
    git(project, "add", "--all")
    who = ("-c", "user.name=Ana Ruiz", "-c", "user.email=ana@shop.example", "-c", "commit.gpgsign=false")
    git(project, *who, "commit", "--quiet", "--message", subject)


@attrs.frozen
class Desk:
    """A shop that is served, and who looks at it."""

    server: DevServer
    database: Database
    browser: Browser
    console: str
    """Where the console is: its own port."""
    token: str
    """What the link had behind its ``#``."""

    def order(self, item: str, note: str | None = None, status: int = 200) -> str:
        """Order something; return the execution's name."""
        answer = self.server.request("POST", "/order", {"item": item, "note": note})
        assert answer.status == status, answer.body
        return answer.flux_id

    def open(self, path: str) -> None:
        self.browser.go(f"{self.console}/_flux/{path}")


@pytest.fixture(scope="module")
def opened(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("web")
    folder.chmod(0o755)
    files = {"shop.py": SHOP.replace('{"tea": 450}', PRICED), "board.py": BOARD, "work.py": WORK, "steps.py": STEPS}
    project = write_project(folder / "shop", files, migrations={"001.sql": SCHEMA})
    (project / ".gitignore").write_text(".flux/\n__pycache__/\n")
    git(project, "init", "--quiet", "--template=", "--initial-branch=main")
    commit(project, "The shop")
    (project / "README").write_text("A shop.\n")
    commit(project, "Say what it is")
    (project / "functions" / "shop.py").write_text(SHOP)
    commit(project, CULPRIT)
    (project / "README").write_text("A shop of tea and mugs.\n")
    commit(project, "Say more")
    database = make_database(postgres18)
    with running_dev(project, database) as server, open_browser() as browser:
        link = re.search(r"\b(http://127\.0\.0\.1:\d+)/_flux/#t=\S+", server.wait_story("/_flux/#t="))
        assert link is not None and link[1] != f"http://127.0.0.1:{server.port}"
        browser.go(link[0])
        browser.wait_for("Executions", "h1")
        # The token has left the address, and with it the history.
        assert browser.driver.current_url == f"{link[1]}/_flux/"
        # A page that wants a token says so with its status, and the browser writes that down.
        (refused,) = browser.take_complaints()
        assert "status of 401" in refused
        yield Desk(server, database, browser, link[1], unquote(link[0].partition("#t=")[2]))


@pytest.fixture
def desk(opened: Desk) -> Iterator[Desk]:
    yield opened
    assert opened.browser.take_complaints() == [], "\n".join(opened.server.story)


def test_the_browser_tells_when_a_page_breaks_its_policy(opened: Desk) -> None:
    browser = opened.browser
    opened.open("doctor")
    browser.driver.execute_script(
        "document.head.append(document.createElement('style'));"
        "document.head.lastChild.textContent = 'body { color: red }';"
        "setTimeout(() => { document.body.innerHTML = '<b>'; })"
    )
    complaints: list[str] = []

    def are_all_told() -> bool:
        complaints.extend(browser.take_complaints())
        told = "\n".join(complaints)
        return all(word in told for word in ("style-src", "trusted-types-for", "TypeError"))

    browser.wait(are_all_told, "complaint")


def test_the_browser_tells_of_a_page_that_not_everybody_can_use(opened: Desk, tmp_path: Path) -> None:
    opened.open("doctor")
    opened.browser.driver.execute_script(
        "const grey = document.createElement('p'), picture = document.createElement('img');"
        "grey.textContent = 'barely to be seen'; grey.style.color = '#999';"
        "document.querySelector('main').append(grey, picture);"
    )
    with pytest.raises(AssertionError) as told:
        opened.browser.look(tmp_path, "doctor")
    assert all(f"{each}: <" in str(told.value) for each in ("image-alt", "color-contrast")), told.value
    opened.browser.take_complaints()


def test_a_request_that_is_made_meanwhile_comes_to_the_list(desk: Desk) -> None:
    browser = desk.browser
    desk.open("")
    browser.wait_for("live", "#live-word")
    name = desk.order("tea")
    row = f'#executions tr[data-name="{name}"]'
    browser.wait_for(name, row)
    assert "POST /order" in browser.text(row) and "200" in browser.text(row)
    browser.press("?")
    browser.wait_for("next and previous in a list", "dialog[open]")
    browser.click("Close", "dialog")
    browser.press("j")
    browser.press("\ue007")
    browser.wait_for(name, "#name")
    assert "no failure: it answered 200" in browser.text(".why")


def test_a_failure_is_followed_to_its_rows_its_passing_twin_and_its_repair(desk: Desk, tmp_path: Path) -> None:
    browser = desk.browser
    passed = desk.order("tea", "for Ada")
    failed = desk.order("mug", HOSTILE, status=500)
    rows = "select left_over from stock where item = 'mug' union all select count(*) from orders"
    before = desk.database.psql(rows)
    desk.open("")
    browser.wait_for(failed, "#executions")
    browser.look(tmp_path, "executions")
    browser.click("Errors", "nav")
    browser.wait_for("KeyError: 'mug'", "table")
    browser.look(tmp_path, "errors")
    browser.click("Executions", "nav")
    browser.click(failed, "#executions")

    browser.wait_for("KeyError: 'mug'", ".why .verdict")
    browser.click("db INSERT orders", ".calls")
    for selector, words in (
        (".why", "functions/shop.py:15 in order()"), (".why", 'input.item is "mug"'),
        (".why", "2 row changes were made and rolled back"), (".change", "stock[mug] update, rolled back"),
        (".change", "left_over 3 2"), (".logs", "info ordered"),
    ):  # fmt: skip
        assert words in browser.text(selector), browser.text(selector)
    # What the request brought is text wherever it stands: the statement's parameters, the row, the log, the input.
    for selector in (".calls", ".change", ".logs", ".value"):
        assert HOSTILE_IN_JSON in browser.text(selector), browser.text(selector)
    assert "owned" not in browser.driver.title
    browser.press("\ue014")
    browser.wait_for("stock[mug] as call 1 was to find it", "section:has(#rows-then)")
    browser.press("\ue014")
    browser.wait_for("stock[mug] as call 1 left it; rolled back afterwards", "section:has(#rows-then)")
    browser.look(tmp_path, "failure")

    browser.click("Mark for a diff")
    browser.click("stock[mug]", ".change")
    browser.wait_for("changed, rolled back", ".change.undone")
    assert failed in browser.text(".change.undone") and "left_over 3 2" in browser.text(".change.undone")
    assert "the migration migrations/001.sql" in browser.text("section")
    browser.press("\ue012")
    browser.wait_for("This change was rolled back: the row never was so.")
    browser.press("m")
    browser.wait_for("Take the mark away", "#mark-stop")
    browser.press("\ue012")
    browser.wait_for("As v1 left it", "#then")
    assert "left_over 3 2" in browser.text("section:has(#between)")
    browser.look(tmp_path, "row")
    browser.click("What became of the whole table in that time")
    browser.wait_for("stock between two times", "h1")
    browser.look(tmp_path, "table")
    desk.open("state")
    browser.type("Table", "stock")
    browser.type("Key", "tea")
    browser.click("Show", "#row")
    browser.wait_for(passed, ".change")

    desk.open(f"e/{passed}")
    browser.click(f"Diff with {failed}")
    browser.wait_for("the first that differs")
    assert 'item "mug" "tea"' in browser.text() and 'outcome "raised" "returned"' in browser.text()
    assert HOSTILE_IN_JSON in browser.text()
    browser.look(tmp_path, "diff")

    told = len(desk.server.story)
    shop = desk.server.project / "functions" / "shop.py"
    desk.open(f"e/{failed}")
    browser.click("Replay on the working tree")
    browser.wait_for("same failure on the working tree", "#verdict .verdict")
    shop.write_text(SHOP.replace('{"tea": 450}', PRICED))
    desk.server.wait_story("shop.py", after=told)
    browser.click("Replay on the working tree")
    browser.wait_for("passed on the working tree", "#verdict .verdict")
    assert "500 → 200" in browser.text("#verdict")
    browser.look(tmp_path, "replayed")
    assert desk.database.psql(rows) == before

    browser.press("b")
    browser.wait_for("the commit that was recorded")
    browser.click("Find the commit")
    browser.wait_for("First bad commit", "#answer")
    culprit = git(desk.server.project, "log", "--format=%H", "-n1", "HEAD~1")
    for words in (culprit[:12], "Ana Ruiz", r"<b>what is on the shelf</b>, and no others \u202e",
                  "functions/shop.py +1 −1", f"-PRICES = {PRICED}", "Nothing left the sandbox"):  # fmt: skip
        assert words in browser.text(), browser.text()
    browser.look(tmp_path, "bisect")
    browser.click("The two side by side")
    browser.wait_for("Calls")
    browser.click("Bisect", "nav")
    browser.wait_for(f"first bad commit {culprit[:12]}", "table")
    browser.look(tmp_path, "bisects")
    assert desk.database.psql(rows) == before


def test_all_that_failed_in_a_window_is_replayed_on_the_working_tree_and_the_window_gets_a_name(
    desk: Desk, tmp_path: Path
) -> None:
    browser, shop = desk.browser, desk.server.project / "functions" / "shop.py"
    if shop.read_text() != SHOP:  # The test before has mended it.
        told = len(desk.server.story)
        shop.write_text(SHOP)
        desk.server.wait_story("shop.py", after=told)
    for note in ("one", HOSTILE):
        desk.order("mug", note, status=500)
    rows = "select left_over from stock where item = 'mug' union all select count(*) from orders"
    before = desk.database.psql(rows)
    browser.click("Incidents", "nav")
    browser.wait_for("KeyError: 'mug'", "table")
    browser.look(tmp_path, "incidents")
    browser.click_first("#bursts ~ .wide tbody a")
    browser.wait_for("In common")
    assert "function order: all" in browser.text() and "began in this window" in browser.text()
    browser.click("Replay those that failed")
    browser.wait_for("do not, or could not be decided")
    assert "same failure" in browser.text(".list")
    told = len(desk.server.story)
    shop.write_text(SHOP.replace('{"tea": 450}', PRICED))
    desk.server.wait_story("shop.py", after=told)
    browser.click("Replay those that failed")
    browser.wait_for("and 0 do not, or could not be decided")  # With the last of them, of which the first may be shown.
    browser.wait_for("0 effects left")
    assert "✓ passed" in browser.text(".list")
    browser.look(tmp_path, "incident")
    browser.type("Name", "mugs-away")
    browser.click("Pin", "#pin-form")
    browser.wait_for("Incident mugs-away", "h1")
    assert "✓ passed" in browser.text(".list"), "it is the same window, and has the same run"
    browser.click("Incidents", "nav")
    browser.wait_for("mugs-away", "table")
    assert desk.database.psql(rows) == before
    assert desk.server.json("incident", "list")["incidents"][0]["name"] == "mugs-away"


def test_a_failure_is_stepped_through_backwards_with_what_its_names_held(desk: Desk, tmp_path: Path) -> None:
    browser = desk.browser
    left_over = "select left_over from stock where item = 'tea'"
    before = desk.database.psql(left_over)
    lines = [{"cents": cents, "note": HOSTILE} for cents in (5, 7, -1)]
    failed = desk.server.request("POST", "/bill", {"lines": lines})
    assert failed.status == 500
    desk.open(f"e/{failed.flux_id}")
    browser.wait_for("ValueError", ".why")

    def is_at(source: str, elsewhere_than: str) -> bool:
        is_there = browser.driver.execute_script("return document.readyState") == "complete"
        return is_there and browser.text(".where") != elsewhere_than and source in browser.text(".source .current")

    def go(how: Callable[[], None], source: str) -> None:
        """Step, and wait until the page of another event is there, at this line."""
        earlier = browser.text(".where")
        how()
        browser.wait(lambda: is_at(source, earlier), source)

    def press(key: str, source: str) -> None:
        go(lambda: browser.press(key), source)

    def held(name: str) -> str:
        return browser.text(f"//section[@aria-labelledby='held']//tr[th[normalize-space()='{name}']]/td")

    # It stands where it failed, and what came in is text.
    press("t", 'raise ValueError(line["note"])')
    assert "raises ValueError: </pre><script>" in browser.text(".where") and "owned" not in browser.driver.title
    assert held("cents") == "-1" and HOSTILE_IN_JSON in held("line")
    assert "same failure, as recorded" in browser.text(".facts")
    told = json.loads(desk.server.command("trace", "debug", failed.flux_id, "--json").stdout)
    assert browser.text("#event-said") == str(told["at"])
    browser.press("u")
    browser.wait(lambda: "total += price(line)" in browser.text(".source .current"), "caller")
    assert held("total") == "12"
    # Back over lines, and into the call before.
    for key, source in (
        ("o", "total += price(line)"), ("p", "total += price(line)"), ("p", "ctx.db.execute("), ("p", "for line in"),
        ("p", "total += price(line)"), ("s", 'cents = line["cents"]'), ("n", "if cents < 0:"),
    ):  # fmt: skip
        press(key, source)
    assert held("cents") == "7"
    assert "stock[tea] since call 2; rolled back in the end" in browser.text("section:has(#rows)")
    # A name's values, and where it came to have the next one; a line on a condition.
    browser.type("Name", "total")
    browser.click("Its values")
    browser.wait_for("Values of total", "#history")
    assert browser.text("section:has(#history) td:nth-child(2)").split() == ["0", "5", "12"]
    assert " 5 " in f" {browser.text('section:has(#history) .current')} "
    go(lambda: browser.click("On to its change"), "for line in input")
    assert held("total") == "12"
    browser.type("Line or condition", "steps.py:6 if line['cents'] == 5")
    go(lambda: browser.click("Back to it"), "if cents < 0:")
    assert held("cents") == "5"
    browser.type("Look up", "len(line)")
    browser.click("Look up", "#look-up")
    browser.wait_for("len(line) = 2", "section:has(#held)")
    browser.look(tmp_path, "debug")
    browser.type("Line or condition", "nowhere.py:1")
    browser.click("Back to it")
    browser.wait_for("not before event", "#said")
    # Its link leads there again, also when nobody has kept what was seen.
    here, where = browser.driver.current_url, browser.text(".where")
    twin = browser.driver.execute_async_script(
        "const done = arguments[1]; fetch(arguments[0]).then((answer) => answer.json()).then(done)",
        here.replace("?", ".json?"),
    )["documents"]["debug"]
    assert (twin["state"], twin["frame"]["values"]) == ("open", [{"expression": "len(line)", "value": 2}])
    browser.press("x")
    browser.wait_for("ValueError", ".why")
    browser.go(here)
    browser.wait(lambda: browser.text(".where") == where, where)
    assert desk.database.psql(left_over) == before, "nothing of it was done again"


def test_the_doctor_says_how_the_server_is(desk: Desk, tmp_path: Path) -> None:
    desk.open("")
    desk.browser.click("Doctor", "nav")
    desk.browser.wait_for("All is well")
    desk.browser.look(tmp_path, "doctor")


def test_an_execution_is_copied_as_each_form_and_saved_as_a_file_that_opens_anywhere(
    desk: Desk, tmp_path: Path
) -> None:
    browser = desk.browser
    failed = desk.order("cup", HOSTILE, status=500)
    desk.open(f"e/{failed}")
    assert browser.copy("Copy as curl") == desk.server.command("export", failed, "--curl").stdout
    assert json.loads(browser.copy("Copy JSON"))["documents"]["trace"]["name"] == failed
    markdown = browser.copy("Copy as Markdown")
    assert markdown.startswith("## ` POST /order ` → ` 500 `") and failed in markdown
    written = browser.copy("Copy as pytest")
    assert written == browser.driver.execute_script("return document.querySelector('#verdict pre').textContent")
    assert any(line.startswith("def test_") for line in written.splitlines())
    compile(written, "test_cup.py", "exec")

    file = tmp_path / "cup.html"
    assert desk.server.command("export", failed, "--html", "-o", str(file)).returncode == 0
    saved = browser.driver.execute_async_script(
        "const done = arguments[0];"
        "fetch(document.querySelector('a[download]').href).then((answer) => answer.text()).then(done)"
    )
    without_minute = [re.sub("saved at [0-9: -]+", "", text) for text in (saved, file.read_text())]
    assert without_minute[0] == without_minute[1]
    assert desk.browser.take_complaints() == []
    browser.go(file.as_uri())
    assert "TypeError" in browser.text(".why") and failed in browser.text("h1 ~ .facts")
    browser.click("db UPDATE stock", ".calls")
    browser.wait_for("update stock set left_over", ".calls")
    assert HOSTILE_IN_JSON in browser.text() and "owned" not in browser.driver.title
    browser.look(tmp_path, "file")


def test_a_page_that_a_function_serves_neither_reads_the_console_nor_acts_in_it(opened: Desk) -> None:
    browser, functions = opened.browser, f"http://127.0.0.1:{opened.server.port}"
    secret = "read by nobody but who signed in"
    name = opened.order("tea", secret)
    opened.open(f"e/{name}")
    assert secret in browser.text(), "who signed in is shown it"
    replays = "select count(*) from flux.replay where not is_check"
    before = opened.database.psql(replays)
    browser.go(f"{functions}/board?console={quote(opened.console)}&name={name}")
    browser.click("Begin")
    browser.wait_for("all was tried", "#end")
    told = browser.driver.execute_script("return told")
    assert set(told.pop("reads its own")) == {"whole"}, "the page writes down what it gets to see"
    assert set(told) == {
        "fetch cors", "fetch no-cors", "fetch same-origin", "fetch json", "events", "act", "act as text", "own port",
        "own port, not followed", "own api", "script", "picture", "frame", "window", "window with a token", "form",
        "cookie",
    }  # fmt: skip
    assert {what for some in told.values() for what in some} <= {"refused", "nothing"}, told
    assert secret not in str(told)
    (first, *popups) = browser.driver.window_handles
    for popup in popups:
        browser.driver.switch_to.window(popup)
        assert secret not in browser.text("body") and "another site makes are refused" in browser.text("body")
        browser.driver.close()
    browser.driver.switch_to.window(first)
    assert len(popups) == 2
    assert opened.database.psql(replays) == before, "nothing was replayed"
    # The cookie that the page set is none of ours, and takes nobody's session away.
    opened.open(f"e/{name}")
    assert secret in browser.text()
    browser.take_complaints()


def test_who_looks_for_the_console_on_the_functions_port_is_sent_to_its_own(desk: Desk) -> None:
    browser = desk.browser
    browser.go(f"http://127.0.0.1:{desk.server.port}/_flux/errors?since=1h")
    browser.wait_for("Errors", "h1")
    assert browser.driver.current_url == f"{desk.console}/_flux/errors?since=1h"
    browser.go(desk.console)
    browser.wait_for("Executions", "h1")


def test_what_is_dead_runs_again_and_a_schedule_is_paused(desk: Desk, tmp_path: Path) -> None:
    browser = desk.browser
    answer = desk.server.request("POST", "/mail", {"text": HOSTILE})
    pushed = json.loads(answer.body)["job"]

    def is_dead_after(attempts: int) -> bool:
        return desk.database.psql(f"select attempt, state from flux.job where id = '{pushed}'") == f"{attempts}|dead"

    browser.wait(lambda: is_dead_after(1), "dead job")
    desk.open("queue")
    browser.wait_for("✗ dead")
    shown = browser.text("#main")
    assert f"RuntimeError: {HOSTILE}".replace("\u202e", r"\u202e") in shown and f"{answer.flux_id}, call 1" in shown
    assert "owned" not in browser.driver.title
    browser.look(tmp_path, "queue")
    browser.click("Retry")
    browser.wait_for("done: Retry", "#said")
    browser.wait(lambda: is_dead_after(2), "dead job after a second attempt")
    browser.click(f"{answer.flux_id}, call 1")
    browser.wait_for("job for send: dead")

    paused = "select count(*) from flux.cron_pause where function = 'yearly'"
    browser.click("Queue and cron", "nav")
    for verb, count in (("Pause", "1"), ("Resume", "0")):
        browser.click(verb, ".list")
        browser.wait_for(f"done: {verb}", "#said")
        assert desk.database.psql(paused) == count
    browser.click("yearly", ".list th")
    browser.wait_for("It was not due yet")
    browser.look(tmp_path, "cron")


def test_earlier_code_is_served_again_by_who_has_said_so_twice(desk: Desk, tmp_path: Path) -> None:
    browser, shop = desk.browser, desk.server.project / "functions" / "shop.py"

    def charge() -> object:
        return json.loads(desk.server.request("POST", "/order", {"item": "tea"}).body)["cents"]

    told = len(desk.server.story)
    shop.write_text(SHOP.replace("450", "475"))
    desk.server.wait_story("shop.py", after=told)
    assert charge() == 475
    desk.open("deployments")
    browser.wait_for("● served now")
    browser.look(tmp_path, "deployments")
    words = browser.text("button[data-act]").split("\n")[0]
    browser.click_first("button[data-act]")
    browser.wait_for("Migrations are not undone", "dialog[open]")
    browser.click("No", "dialog[open]")
    assert charge() == 475
    browser.click_first("button[data-act]")
    browser.click("Yes, do it", "dialog[open]")
    browser.wait_for(f"done: {words}", "#said")
    assert charge() == 450
    browser.wait_for(words.removeprefix("Roll back to "), "tr:has(.good)")


def test_who_signed_out_shows_a_token_again(opened: Desk) -> None:
    browser = opened.browser
    opened.open("errors")
    browser.click("Sign out")
    browser.wait_for("Open the console with its link", "h1")
    browser.type("Token", "guessed")
    browser.click("Open", "#sign-in")
    browser.wait_for("token", "#refused")
    browser.type("Token", opened.token)
    browser.click("Open", "#sign-in")
    browser.wait_for("Errors", "h1")
    assert all("status of 401" in complaint for complaint in browser.take_complaints())
