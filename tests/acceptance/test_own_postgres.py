"""The guide to a PostgreSQL of one's own, done as it stands, SQL and TOML, with a server that asks for passwords."""

import json
from pathlib import Path

from tests.dev_process import environment, run_flux, serving, start_server
from tests.postgres_server import running_postgres
from tests.shell_blocks import ROOT, read_fences

PAGE = ROOT / "docs" / "how-to" / "use-your-own-postgres.md"
ASKS_FOR_PASSWORDS = ("host all all all scram-sha-256",)
TABLES = "select count(*) from pg_tables where schemaname = 'public'"


def test_a_database_of_ones_own_is_made_migrated_and_served_as_the_guide_says(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    told = {fence.language: fence.text for fence in read_fences(text)}
    assert all(f"`{each}`" in text for each in ("flux db migrate --dry-run", "flux db migrate", "FLUXRT_DATABASE_URL"))
    assert run_flux(tmp_path, "init", "shop").returncode == 0
    shop = tmp_path / "shop"
    with running_postgres(tcp=True, hba_lines=ASKS_FOR_PASSWORDS) as postgres:
        for statement in told["sql"].splitlines():
            postgres.psql(statement)
        postgres.psql("select pg_reload_conf()")
        waits = "select pending_restart from pg_settings where name = 'track_commit_timestamp'"
        assert postgres.psql(waits) == "t", "it takes effect with the restart that the page speaks of"
        postgres.psql("create table before_flux (id integer primary key)", "shop", user="shop")

        here = told["toml"].replace("db.internal", f"127.0.0.1:{postgres.port}")
        before = (shop / "flux.toml").read_text()
        (shop / "flux.toml").write_text(f"{before}\n{here}")
        dry = run_flux(shop, "db", "migrate", "--dry-run")
        assert dry.returncode == 0 and "001.sql" in dry.stdout, dry.stderr
        assert postgres.psql(TABLES, "shop") == "1"
        done = run_flux(shop, "db", "migrate")
        assert done.returncode == 0 and "001.sql" in done.stdout, done.stderr
        assert postgres.psql(TABLES, "shop") == "3"
        assert postgres.psql("select distinct tableowner from pg_tables where schemaname = 'public'", "shop") == "shop"

        url = here.split('"')[1]
        secret = ":...@"
        assert secret in url and secret not in run_flux(shop, "config", "list").stdout
        (shop / "flux.toml").write_text(before)
        known = environment() | {"FLUXRT_DATABASE_URL": url}
        again = run_flux(shop, "db", "migrate", "--dry-run", environ=known)
        assert again.returncode == 0 and "001.sql" not in again.stdout, again.stdout + again.stderr
        refused = run_flux(shop, "db", "migrate", environ=known | {"FLUXRT_DATABASE_URL": url.replace(secret, ":.@")})
        assert refused.returncode != 0 and "password" in refused.stderr and secret not in refused.stderr

        server = start_server(shop, "serve", "--bind", "127.0.0.1:0", more={"FLUXRT_DATABASE_URL": url})
        with serving(server):
            assert server.request("POST", "/signup", {"email": "ana@shop.example", "plan": "free"}).status == 201
            told_by = json.loads(server.command("doctor", "--json").stdout)["checks"]  # It may find more.
            checks = {check["name"]: check["ok"] for check in told_by}
            assert checks["database"] and checks["rights"] and checks["recording"] and checks["capture"]
            assert len(server.json("trace", "list")["executions"]) == 1
        assert postgres.psql("select email from users", "shop") == "ana@shop.example"
        assert postgres.psql("select count(*) from flux.execution", "shop") == "1"
