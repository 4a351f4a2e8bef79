"""Rows that a project's migration wrote: no execution made them, and they are not from outside either."""

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Database
from tests.dev_process import running_dev, write_project
from tests.postgres_server import PostgresServer

CHARGE = """\
from flux_guest import function

CENTS = {"free": 0, "pro": 2900}


@function("POST /charge/{id}")
async def charge(ctx, input):
    user = await ctx.db.query_one("select id, plan from users where id = $1", int(input["id"]))
    return {"cents": CENTS[user["plan"]]}
"""
USERS = """\
create table users (id int primary key, plan text);
insert into users values (1, 'free'), (2, 'free');
"""
GIFTS = "update users set plan = null where id = 2;"


def test_what_a_migration_wrote_names_its_file(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    database = make_database(postgres18)
    migrations = {"001_users.sql": USERS, "002_gifts.sql": GIFTS}
    project = write_project(tmp_path, {"charge.py": CHARGE}, migrations=migrations)
    with running_dev(project, database) as server:
        database.psql("update users set plan = 'gift' where id = 1")
        versions = server.json("state", "history", "users", "1")["versions"]
        assert [(each["after"]["plan"], each["outside"], each["migration"]) for each in versions] == [
            ("gift", True, None), ("free", False, "migrations/001_users.sql"),
        ]  # fmt: skip
        shown = server.command("state", "history", "users", "1").stdout
        assert "outside Flux" in shown and "migrations/001_users.sql" in shown

        failed = server.request("POST", "/charge/2")
        assert failed.status == 500
        facts = [fact["text"] for fact in server.json("why", failed.flux_id)["facts"]]
        assert [fact for fact in facts if "migrations/002_gifts.sql" in fact and "plan" in fact], facts
        failed = server.request("POST", "/charge/1")
        facts = [fact["text"] for fact in server.json("why", failed.flux_id)["facts"]]
        assert [fact for fact in facts if "outside Flux" in fact and "plan" in fact], facts
        assert not [fact for fact in facts if "migrations/" in fact], facts
