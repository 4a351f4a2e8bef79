"""Some secrets are planted, and nowhere found again. ``python -m tests.secrets.planted`` plants a thousand."""

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Database
from tests.dev_process import running_dev, write_project
from tests.postgres_server import PostgresServer
from tests.secrets import planted


def test_no_secret_is_found_in_anything_that_was_written_and_replays_do_the_same(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    tally = planted.run(tmp_path, make_database(postgres18), count=30)
    assert tally.found == [] and tally.other == []
    assert tally.planted == 30 and tally.replayed == planted.REPLAYED
    assert all(tally.looked_at[name] > 100 for name in ("records", "tables", "cases", "traces", "logs"))


def test_what_rules_take_out_is_shown_before_it_is_needed(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    source = (
        "from flux_guest import function\n\n\n"
        '@function("POST /keep")\nasync def keep(ctx, input):\n'
        '    await ctx.db.query("select $1::text as a", input["pin"])\n'
        '    return {"pin": input["pin"]}\n'
    )
    project = write_project(tmp_path, {"keep.py": source})
    document = project / "body.json"
    document.write_text('{"pin": "open sesame", "n": 1.10}')
    with running_dev(project, make_database(postgres18)) as server:
        kept = server.request("POST", "/keep", {"pin": "open sesame"})
        assert kept.status == 200
        assert server.json("redact", "--test", str(document))["taken"] == []
        swapped = len(server.story)
        (project / "flux.toml").write_text('[project]\nname = "test"\n[recording]\nredact = ["json:$.pin"]\n')
        server.wait_story("reload", after=swapped)
        tested = server.json("redact", "--test", str(document))
        assert tested["taken"] == [{"part": "body", "path": "$.pin"}]
        assert tested["document"]["pin"].startswith("redacted:") and tested["document"]["n"] == 1.1
        found = server.json("redact", "--test", kept.flux_id)["taken"]
        assert {each["part"] for each in found} >= {"body", "call 1 arguments", "call 1 answer", "its end"}
        shown = server.command("redact", "--test", kept.flux_id).stdout
        assert f"of {kept.flux_id} would be taken out" in shown and "json:$.pin" in shown
        for arguments, code in ((["--test", "no-such-file.json"], 3), ([str(document)], 2)):
            assert server.command("redact", *arguments).returncode == code
