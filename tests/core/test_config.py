"""What ``flux.toml`` may say, and what is said when it says something else."""

import attrs
import pytest

from flux.config import (
    Config,
    ConfigError,
    CronConfig,
    FunctionConfig,
    MissingKeyError,
    SeveralConfigProblemsError,
    UnknownKeyError,
    UnreadableConfigError,
    WrongValueError,
    describe_limit_key,
    parse_config,
)
from flux.config_gate import GateConfig
from flux.cors import CorsRules
from flux.limits import Limits
from flux.rate_limit import RateLimit

EVERYTHING = """\
[project]
name = "shop"
functions = "src/functions/"
[dev]
port = 4001
[database]
url = "postgresql://shop@db:5432/shop"
isolation = "serializable"
[limits]
timeout = "20s"
memory = "128MiB"
host_calls = 500
body = "1MiB"
response = "2MiB"
log = "64KiB"
[sandbox]
isolation = "core"
warm = 50
[http]
allow = ["api.stripe.com", "*.example.com", "127.0.0.1:9000", "[::1]:9000", "https://tax.example"]
[recording]
retention_days = 7
error_retention_days = 14
redact = ["header:authorization", "json:$.password", "json:$[0].card", "column:users.ssn"]
self_check_s = 5
[functions.create_user]
http = ["api.mailgun.net", "api.stripe.com"]
timeout = "10s"
middleware = ["auth", "audit"]
[functions.nightly]
memory = "512MiB"
[[cron]]
function = "nightly"
schedule = "0  3 * * *"
[[cron]]
function = "hourly"
schedule = "*/5 0-6 1,15 JAN MON"
"""


def problems_of(text: str) -> list[ConfigError]:
    """Every problem that the text has, in order."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    error = caught.value
    return list(error.problems) if isinstance(error, SeveralConfigProblemsError) else [error]


def test_everything_that_is_written_is_read() -> None:
    config = parse_config(EVERYTHING)
    assert attrs.asdict(config.project) == {"name": "shop", "functions": "src/functions", "time_zone": "UTC"}
    assert config.dev.port == 4001
    assert config.database.url == "postgresql://shop@db:5432/shop"
    assert config.database.isolation == "serializable"
    assert config.limits == Limits(20.0, 134217728, 500, 1048576, 2097152, 65536)
    assert (config.sandbox.isolation, config.sandbox.warm) == ("core", 50)
    assert config.http.allow == (
        "api.stripe.com", "*.example.com", "127.0.0.1:9000", "[::1]:9000", "https://tax.example",
    )  # fmt: skip
    assert (config.recording.retention_days, config.recording.error_retention_days) == (7, 14)
    assert config.recording.self_check_s == 5
    assert config.recording.redact == (
        "header:authorization", "json:$.password", "json:$[0].card", "column:users.ssn",
    )  # fmt: skip
    assert config.functions["create_user"] == FunctionConfig(
        http=("api.mailgun.net", "api.stripe.com"), middleware=("auth", "audit"), limits={"timeout_s": 10.0}
    )
    assert config.cron == (
        CronConfig("nightly", "0 3 * * *"),
        CronConfig("hourly", "*/5 0-6 1,15 JAN MON"),
    )


def test_what_is_not_written_is_fluxs_default() -> None:
    config = parse_config('[project]\nname = "shop"\n')
    assert attrs.evolve(config, origins={}) == Config(project=config.project)
    assert config.project.functions == "functions"
    assert config.dev.port == 4000
    assert (config.database.url, config.database.isolation) == ("", "repeatable read")
    assert (config.sandbox.isolation, config.sandbox.warm) == ("strict", 1)
    assert config.http.allow == ()
    assert (config.recording.retention_days, config.recording.error_retention_days) == (30, 90)
    assert config.recording.self_check_s == 30
    assert set(config.origins) - {"project.name"} == {
        key for key, origin in config.origins.items() if origin == "Flux's default"
    }


@pytest.mark.parametrize(
    ("key", "origin"),
    [
        ("project.name", "flux.toml:2"),
        ("limits.timeout", "flux.toml:10"),
        ("functions.create_user.timeout", "flux.toml:28"),
        ("cron[1].schedule", "flux.toml:37"),
    ],
)
def test_a_value_is_traced_to_the_line_that_set_it(key: str, origin: str) -> None:
    assert parse_config(EVERYTHING).origins[key] == origin


def test_a_functions_limits_are_its_own_then_the_projects_then_fluxs() -> None:
    config = parse_config(
        '[project]\nname = "shop"\n[limits]\nmemory = "128MiB"\n[functions.pay]\ntimeout = "5s"\n'
    )
    limits = config.get_limits("pay")
    assert (limits.timeout_s, limits.memory_bytes_max, limits.host_calls_max) == (5.0, 134217728, 1000)
    assert config.get_limit_origin("pay", "timeout") == "flux.toml:6"
    assert config.get_limit_origin("pay", "memory") == "flux.toml:4"
    assert config.get_limit_origin("pay", "host_calls") == "Flux's default"
    assert config.get_limits("another") == attrs.evolve(Limits(), memory_bytes_max=134217728)
    assert config.get_limit_origin("another", "timeout") == "Flux's default"


def test_every_limit_can_be_set_and_has_a_key() -> None:
    keys = [describe_limit_key(field.name) for field in attrs.fields(Limits)]
    assert keys == ["timeout", "memory", "host_calls", "body", "response", "log", "stream"]


def test_a_function_reaches_the_projects_hosts_and_its_own_each_once() -> None:
    config = parse_config(EVERYTHING)
    assert config.get_http_allow("create_user") == (*config.http.allow, "api.mailgun.net")
    assert config.get_http_allow("another") == config.http.allow


@pytest.mark.parametrize(
    ("text", "place", "key", "meant"),
    [
        ('[project]\nnam = "x"\nname = "shop"', "flux.toml:2", "project.nam", 'did you mean "name"?'),
        ('[project]\nname = "shop"\nport = 1', "flux.toml:3", "project.port", "it belongs under [dev]"),
        ('[project]\nname = "shop"\n\n[limit]', "flux.toml:4", "limit", 'did you mean "limits"?'),
        ('project = {name="shop", x=1}', "flux.toml:1", "project.x", "[project] knows name, functions"),
        (
            '[project]\nname = "shop"\n[functions.a]\nhosts = []',
            "flux.toml:4",
            "functions.a.hosts",
            "[functions.a] knows http, middleware, concurrency",
        ),
        (
            '[project]\nname="shop"\n[[cron]]\nfunction="f"\nschedule="* * * * *"\nevery="1h"',
            "flux.toml:6",
            "cron[0].every",
            "knows function, schedule",
        ),
        (
            '[project]\nname = "shop"\n"odd key" = 1',
            "flux.toml:3",
            "project.'odd key'",
            "[project] knows name, functions",
        ),
        ('[project]\nname = "shop"\n[env]\nKEY = "sk_1"', "flux.toml:3", "env", "flux secrets set NAME keeps one"),
        ('[project]\nname = "shop"\n[functions.a]\nschedule = "daily"', "flux.toml:4", "functions.a.schedule",
         "cron=\"0 3 * * *\" of @function"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_an_error_that_names_its_line(text: str, place: str, key: str, meant: str) -> None:
    [error] = problems_of(text)
    assert isinstance(error, UnknownKeyError)
    assert error.message == f"{place}  {key} is unknown"
    assert meant in error.remedy


NEEDED = {
    "cors": 'origins = ["*"]', "rate_limit": 'rate = "5/s"',
    "auth": 'jwks = "https://a.example/keys"\nissuer = ""\naudience = []',
}  # fmt: skip
"""What a table has to have beside the key that is tried."""


@pytest.mark.parametrize(
    ("key", "value", "said", "allowed"),
    [
        ("project.functions", '"../other"', 'is "../other"', "inside the project"),
        ("project.functions", '"/srv/functions"', 'is "/srv/functions"', "inside the project"),
        ("project.functions", '""', 'is ""', "inside the project"),
        ("dev.port", '"4000"', "is text", "from 0 to 65535"),
        ("dev.port", "70000", "is 70000", "from 0 to 65535"),
        ("dev.port", "true", "is true or false", "from 0 to 65535"),
        ("database.url", '"mysql://root:hunter2@db/x"', "is not an address of a Postgres", "postgresql://"),
        ("database.isolation", '"serialisable"', 'is "serialisable"', 'did you mean "serializable"?'),
        ("limits.timeout", "30", "is the number 30", '"30s"'),
        ("limits.timeout", '"30"', '"30" is not a duration', '"30s"'),
        ("limits.memory", '"256mib"', "is not a size", 'did you mean "256MiB"?'),
        ("limits.host_calls", "0", "is 0", "from 1 to"),
        ("limits.body", "1979-05-27", "is a date or time", '"256MiB"'),
        ("sandbox.isolation", '"none"', 'is "none"', '"strict" or "core"'),
        ("sandbox.cgroups", '"maybe"', 'is "maybe"', '"auto" or "required"'),
        ("sandbox.warm", "1.5", "is the number 1.5", "from 1 to"),
        ("http.allow", '"api.stripe.com"', "is text", "[...]"),
        ("http.allow", '["*"]', "can be granted", "*.example.com"),
        ("http.allow", '["api.example.com/v1"]', "can be granted", "127.0.0.1:9000"),
        ("http.allow", '["host:0"]', "can be granted", "127.0.0.1:9000"),
        ("http.allow", "[1]", "is the number 1", "hosts in quotes"),
        ("http.proxies", '["10.0.0.1/8"]', "has host bits set", "10.0.0.0/8"),
        ("http.proxies", '["proxy.example"]', 'has "proxy.example"', "10.0.0.0/8"),
        ("http.proxy_headers", '"x-real-ip"', 'is "x-real-ip"', '"x-forwarded" or "forwarded"'),
        ("http.cors.origins", '["null"]', 'has "null"', "https://app.example.com"),
        ("http.cors.origins", '["https://app.example.com/"]', "which is no origin", "https://*.example.com"),
        ("http.cors.methods", '["get"]', 'has "get"', "capitals"),
        ("http.cors.headers", '["a b"]', 'has "a b"', "names of header fields"),
        ("http.rate_limit.rate", '"100 per minute"', 'is "100 per minute"', '"100/min"'),
        ("http.rate_limit.by", '"x-forwarded-for"', 'is "x-forwarded-for"', '"client" or "subject"'),
        ("http.auth.jwks", '"http://login.example/keys"', "is no URL of keys", "http only on this machine"),
        ("http.auth.jwks", '"https://user:hunter2@login.example/keys"', "is no URL of keys", "https://login.example.com/keys"),
        ("http.auth.jwks", '"https://*.example/keys"', "is no URL of keys", "https://login.example.com/keys"),
        ("http.auth.algorithms", '["none"]', 'is "none"', '"RS256"'),
        ("http.auth.algorithms", '["HS256"]', 'has "HS256", which is none for jwks', "RS256"),
        ("http.auth.public_key", '"PEM"', "stands beside jwks", "keep the one"),
        ("http.auth.secret", '"not a name"', "is no name of a secret", "JWT_SECRET"),
        ("http.auth.require", '"basic"', 'is "basic"', '"none" or "jwt" or "jwt_optional" or "api_key"'),
        ("http.auth.scheme", '"To ken"', 'is "To ken"', '"Bearer" or "Token"'),
        ("functions.f.auth", '"jwt_optional"', "there is no key to check one with", "[http.auth]"),
        ("functions.f.auth", '"jwt"', "there is no key to check one with", "[http.auth]"),
        ("functions.f.scopes", '["a"]', "ask for something of nobody", 'auth = "jwt"'),
        ("functions.f.scopes", '["a b"]', 'has "a b"', "orders:write"),
        ("functions.f.rate_limit.burst", "0", "is 0", "from 1 to"),
        ("recording.retention_days", "0", "is 0", "from 1 to"),
        ("recording.self_check_s", "-1", "is -1", "from 0 to"),
        ("recording.redact", '["password"]', 'has "password"', "json:$.path"),
        ("recording.redact", "{}", "is a table", "[...]"),
        ("functions.f.timeout", '"10 sec"', '"10 sec" is not a duration', "such as"),
        ("functions.f.middleware", '["no spaces"]', "no function name", "name of a function"),
    ],
)
def test_a_wrong_value_is_an_error_that_says_what_is_allowed(
    key: str, value: str, said: str, allowed: str
) -> None:
    table, _, name = key.rpartition(".")
    lines = ["[project]", 'name = "shop"', f"{name} = {value}"]
    if table != "project":
        needed = NEEDED.get(table.rpartition(".")[2], "# a comment, so that lines are not counted by luck")
        kept = [line for line in needed.split("\n") if not line.startswith(name)]
        lines[2:2] = [f"[{table}]", *kept]
    [error] = problems_of("\n".join(lines))
    assert isinstance(error, WrongValueError)
    assert error.message.startswith(f"flux.toml:{len(lines)}  {key} ")
    assert said in error.message
    assert allowed in error.remedy
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("name", ['"Shop"', '"1shop"', '"a b"', '""', '"é"', '"' + "a" * 64 + '"', "7"])
def test_a_project_name_is_plain_enough_for_folders_and_roles(name: str) -> None:
    [error] = problems_of(f"[project]\nname = {name}")
    assert isinstance(error, WrongValueError)
    assert "lower-case letters" in error.remedy


@pytest.mark.parametrize("schedule", ["* * * *", "@daily", "* * * * * *", "0 3 * * ;", ""])
def test_a_schedule_has_five_fields(schedule: str) -> None:
    text = f'[project]\nname = "shop"\n[[cron]]\nfunction = "f"\nschedule = "{schedule}"'
    [error] = problems_of(text)
    assert isinstance(error, WrongValueError)
    assert "five fields" in error.remedy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "flux.toml  project.name is missing"),
        ("[project]", "flux.toml:1  project.name is missing"),
        ("[dev]\nport = 4000\n[project]", "flux.toml:3  project.name is missing"),
        (
            '[project]\nname = "s"\n[[cron]]\nfunction = "f"',
            "flux.toml:3  cron[0].schedule is missing",
        ),
        ('[project]\nname = "s"\n[http.cors]\ncredentials = true', "flux.toml:3  http.cors.origins is missing"),
        ('[project]\nname = "s"\n[http.auth]\nissuer = ""\naudience = []', "flux.toml:3  http.auth.jwks is missing"),
        (
            '[project]\nname = "s"\n[http.auth]\nsecret = "S"\nissuer = "i"',
            "flux.toml:3  http.auth.audience is missing",
        ),
        ('[project]\nname = "s"\n[functions.f.rate_limit]', "flux.toml:3  functions.f.rate_limit.rate is missing"),
    ],
)
def test_a_missing_key_is_an_error_with_an_example(text: str, message: str) -> None:
    [error] = problems_of(text)
    assert isinstance(error, MissingKeyError)
    assert error.message == message
    assert error.remedy.startswith("write: ")


@pytest.mark.parametrize(
    ("text", "path"),
    [("project = 1", "project"), ('functions = []\n[project]\nname = "s"', "functions"),
     ('cron = "x"\n[project]\nname = "s"', "cron"), ('cron = [1]\n[project]\nname = "s"', "cron"),
     ('[project]\nname = "s"\n[functions]\nf = 1', "functions.f"),
     ('[[limits]]\n[project]\nname = "s"', "limits"),
     ('[project]\nname = "s"\n[functions."no good"]', "functions.'no good'"),
     ('[project]\nname = "s"\n[http]\ncors = true', "http.cors"),
     ('[project]\nname = "s"\n[functions.f]\nrate_limit = "100/min"', "functions.f.rate_limit")],
)  # fmt: skip
def test_something_in_a_tables_place_is_one_problem_and_not_several(text: str, path: str) -> None:
    [error] = problems_of(text)
    assert isinstance(error, WrongValueError)
    assert f"  {path} is " in error.message


def test_what_the_gateway_checks_is_off_unless_it_is_written() -> None:
    assert parse_config('[project]\nname = "s"').gate == GateConfig()
    gate = parse_config(
        '[project]\nname = "s"\n[http]\nproxies = ["10.0.0.0/8", "::1"]\n[http.cors]\n'
        'origins = ["https://App.example.com:443"]\nmax_age = "1h"\nheaders = ["X-Total"]\n'
        '[http.rate_limit]\nrate = "600/min"\nby = "claim:tenant"\nburst = 5\n[functions.f.rate_limit]\nrate = "5/s"\n'
    ).gate
    assert [str(network) for network in gate.proxies.networks] == ["10.0.0.0/8", "::1/128"]
    assert gate.cors == CorsRules(("https://app.example.com",), headers=("x-total",), max_age_s=3600)
    assert gate.rate_limit == RateLimit(600, 60.0, "claim:tenant", 5)


@pytest.mark.parametrize("key", ["origins", "headers", "expose"])
def test_any_site_may_not_act_with_our_users_cookies(key: str) -> None:
    origins = '' if key == "origins" else 'origins = ["https://a.example"]\n'
    [error] = problems_of(f'[project]\nname = "s"\n[http.cors]\ncredentials = true\n{origins}{key} = ["*"]')
    assert isinstance(error, WrongValueError)
    assert f"http.cors.{key} has \"*\" beside credentials = true" in error.message


def test_all_problems_are_reported_together_in_the_order_of_lines() -> None:
    with pytest.raises(SeveralConfigProblemsError) as caught:
        parse_config(
            "[project]\nnam = 'x'\n[limits]\ntimeout = 1\nmemory = 2\n"
            "[sandbox]\nwarm = 0\n[[cron]]\n[htttp]\n"
        )
    assert [problem.code for problem in caught.value.problems] == [
        "FLX504", "FLX502", "FLX503", "FLX503", "FLX503", "FLX504", "FLX504", "FLX502",
    ]  # fmt: skip
    text = str(caught.value)
    assert "flux.toml has 8 problems" in text
    for problem in caught.value.problems:
        assert problem.message in text
        assert problem.remedy in text


@pytest.mark.parametrize(
    ("text", "place", "remedy"),
    [
        ("[project\nname = 1", "flux.toml:1:9", "a table is a name in brackets"),
        ("[project]\nname = shop\n", "flux.toml:2:8", "text values stand in quotes"),
        ('[project]\nname = "shop"\nname = "again"\n', "flux.toml:3:15", "a key stands once in its table"),
        ('[project]\nname = "shop"\n[project]\n', "flux.toml:3:9", "a table stands once"),
        ('[project]\nname = "shop"\n[functions.größe]\n', "flux.toml:3:14", "stands in quotes"),
        ('[project]\nname = "shop"\n[functions.ß]\n', "flux.toml:3:12", 'stands in quotes: [functions."größe"]'),
        ('[project]\nname = "sh', "flux.toml:2", "text values stand in quotes"),
    ],
)
def test_text_that_is_not_toml_is_an_error_with_its_place(text: str, place: str, remedy: str) -> None:
    [error] = problems_of(text)
    assert isinstance(error, UnreadableConfigError)
    assert error.message.startswith(place + " ")
    assert remedy in error.remedy


def test_the_file_may_have_another_name_in_messages() -> None:
    with pytest.raises(UnknownKeyError, match=r"there/flux\.toml:1  x is unknown"):
        parse_config('x = 1\n[project]\nname = "s"', "there/flux.toml")


def test_a_password_in_the_database_url_is_not_shown() -> None:
    config = parse_config('[project]\nname="s"\n[database]\nurl = "postgresql://u:hunter2@db/x"')
    assert "hunter2" not in repr(config)
