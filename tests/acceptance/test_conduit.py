"""The example application: every operation of the RealWorld API, in Python and where it reads in TypeScript as well."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conduit_app import Client, copy_conduit, replay_all
from tests.dev_process import DevServer, running_dev


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    with running_dev(copy_conduit(tmp_path_factory.mktemp("apps") / "conduit")) as running:
        yield running


@pytest.fixture
def anybody(server: DevServer) -> Client:
    return Client(server)


def list_titles(client: Client, query: str = "") -> list[str]:
    return [article["title"] for article in client.ask("GET", f"/api/articles{query}")["articles"]]


def test_who_signs_up_can_sign_in_and_change_their_account(anybody: Client) -> None:
    new = {"username": "ada", "email": "Ada@example.org", "password": "the word of ada"}
    user = anybody.ask("POST", "/api/users", {"user": new}, status=201)["user"]
    assert {**user, "token": ""} == {
        "email": "ada@example.org", "username": "ada", "bio": None, "image": None, "token": "",
    }  # fmt: skip
    for taken in ({**new, "email": "other@example.org"}, {**new, "username": "other"}):
        errors = anybody.ask("POST", "/api/users", {"user": taken}, status=422)["errors"]["body"]
        assert errors in (["username has already been taken"], ["email has already been taken"])
    short = anybody.ask("POST", "/api/users", {"user": {"username": "bo", "password": "short"}}, status=422)
    assert short["errors"]["body"] == ["user.email is required"]
    short = anybody.ask("POST", "/api/users", {"user": {**new, "username": "bo", "password": "short"}}, status=422)
    assert short["errors"]["body"] == ["password is too short (minimum is 8 characters)"]

    known = {"email": "ADA@example.org", "password": "the word of ada"}
    ada = Client(anybody.server, anybody.ask("POST", "/api/users/login", {"user": known})["user"]["token"])
    for wrong in ({**known, "password": "the word of bob"}, {**known, "email": "bob@example.org"}):
        refused = anybody.ask("POST", "/api/users/login", {"user": wrong}, status=401)
        assert refused == {"errors": {"body": ["email or password is invalid"]}}

    assert ada.ask("GET", "/api/user")["user"]["username"] == "ada"
    changed = ada.ask("PUT", "/api/user", {"user": {"bio": "counts", "image": "a.png"}})["user"]
    assert (changed["bio"], changed["image"]) == ("counts", "a.png")
    ada.ask("PUT", "/api/user", {"user": {"password": "short", "bio": "is undone"}}, status=422)
    changed = ada.ask("PUT", "/api/user", {"user": {"image": None, "password": "another word"}})["user"]
    assert (changed["bio"], changed["image"]) == ("counts", None)
    anybody.ask("POST", "/api/users/login", {"user": known}, status=401)
    anybody.ask("POST", "/api/users/login", {"user": {**known, "password": "another word"}})
    ada.ask("PUT", "/api/user", {"user": {"username": ""}}, status=422)
    anybody.ask("GET", "/api/user", status=401)
    Client(anybody.server, f"{ada.token}x").ask("GET", "/api/articles", status=401)


def test_a_profile_says_whether_one_follows_it(anybody: Client) -> None:
    carl, _ = anybody.sign_up("carl"), anybody.sign_up("dora")
    shown = {"username": "dora", "bio": None, "image": None}
    assert anybody.ask("GET", "/api/profiles/dora")["profile"] == {**shown, "following": False}
    assert carl.ask("POST", "/api/profiles/dora/follow")["profile"] == {**shown, "following": True}
    assert carl.ask("POST", "/api/profiles/dora/follow")["profile"]["following"]
    assert carl.ask("GET", "/api/profiles/dora")["profile"]["following"]
    assert not carl.ask("DELETE", "/api/profiles/dora/follow")["profile"]["following"]
    carl.ask("POST", "/api/profiles/carl/follow", status=422)
    assert anybody.ask("GET", "/api/profiles/nobody", status=404) == {"errors": {"body": ["there is no such profile"]}}
    anybody.ask("POST", "/api/profiles/dora/follow", status=401)


def test_an_article_lives_from_its_draft_to_its_end(anybody: Client) -> None:
    eve, finn = anybody.sign_up("eve"), anybody.sign_up("finn")
    article = eve.publish("How to train your dragon: crème brûlée", "training", "dragons", "dragons")
    assert article["slug"].startswith("how-to-train-your-dragon-creme-brulee-")
    assert article["tagList"] == ["dragons", "training"] and article["createdAt"] == article["updatedAt"]
    assert article["author"] == {"username": "eve", "bio": None, "image": None, "following": False}
    path = f"/api/articles/{article['slug']}"
    assert anybody.ask("GET", path)["article"] == article

    liked = finn.ask("POST", f"{path}/favorite")["article"]
    assert (liked["favorited"], liked["favoritesCount"]) == (True, 1)
    assert not anybody.ask("GET", path)["article"]["favorited"]
    assert list_titles(anybody, "?favorited=finn") == [article["title"]]
    liked = finn.ask("DELETE", f"{path}/favorite")["article"]
    assert (liked["favorited"], liked["favoritesCount"]) == (False, 0)

    finn.ask("PUT", path, {"article": {"body": "mine"}}, status=403)
    finn.ask("DELETE", path, status=403)
    eve.ask("PUT", path, {"article": {"title": ""}}, status=422)
    kept = eve.ask("PUT", path, {"article": {"body": "Carefully."}})["article"]
    assert (kept["slug"], kept["body"]) == (article["slug"], "Carefully.")
    moved = eve.ask("PUT", path, {"article": {"title": "Dragons, second edition"}})["article"]
    assert moved["slug"].startswith("dragons-second-edition-")
    anybody.ask("GET", path, status=404)
    path = f"/api/articles/{moved['slug']}"
    assert eve.send("DELETE", path).status == 204
    anybody.ask("GET", path, status=404)
    anybody.ask("POST", "/api/articles", {"article": {}}, status=401)
    eve.ask("POST", "/api/articles", {"article": {"title": "", "description": "", "body": ""}}, status=422)


def test_readers_comment_and_take_it_back(anybody: Client) -> None:
    gina, hank = anybody.sign_up("gina"), anybody.sign_up("hank")
    path = f"/api/articles/{gina.publish('Comments')['slug']}/comments"
    gina.ask("POST", "/api/profiles/hank/follow")
    texts = ("first", "<b>second</b> \u202e")
    said = [hank.ask("POST", path, {"comment": {"body": text}})["comment"] for text in texts]
    shown = gina.ask("GET", path)["comments"]
    assert [one["body"] for one in shown] == ["<b>second</b> \u202e", "first"]
    assert [one["author"]["following"] for one in shown] == [True, True]
    assert not anybody.ask("GET", path)["comments"][0]["author"]["following"]
    assert gina.send("DELETE", f"{path}/{said[0]['id']}").status == 403
    assert hank.send("DELETE", f"{path}/{said[0]['id']}").status == 204
    assert [hank.send("DELETE", f"{path}/{one}").status for one in (said[0]["id"], "x", 10**30)] == [404] * 3
    hank.ask("POST", path, {"comment": {"body": ""}}, status=422)
    assert len(anybody.ask("GET", path)["comments"]) == 1


def test_lists_are_of_a_tag_an_author_a_reader_or_those_one_follows(anybody: Client) -> None:
    ivy, jack = anybody.sign_up("ivy"), anybody.sign_up("jack")
    slugs = {name: ivy.publish(name, "reptiles", name)["slug"] for name in ("lizards", "snakes", "turtles")}
    jack.publish("sparrows", "birds")
    jack.ask("POST", f"/api/articles/{slugs['snakes']}/favorite")
    assert list_titles(anybody, "?tag=reptiles") == ["turtles", "snakes", "lizards"]
    assert list_titles(anybody, "?tag=reptiles&limit=1&offset=1") == ["snakes"]
    assert list_titles(anybody, "?author=jack") == ["sparrows"]
    assert list_titles(anybody, "?favorited=jack&tag=reptiles") == ["snakes"]
    assert list_titles(anybody, "?tag=nothing") == []
    assert "body" not in anybody.ask("GET", "/api/articles?author=ivy")["articles"][0]
    assert anybody.ask("GET", "/api/articles?author=ivy&limit=1")["articlesCount"] == 3
    anybody.ask("GET", "/api/articles?limit=0", status=422)
    assert jack.ask("GET", "/api/articles/feed") == {"articles": [], "articlesCount": 0}
    jack.ask("POST", "/api/profiles/ivy/follow")
    feed = jack.ask("GET", "/api/articles/feed?limit=2")
    assert [article["title"] for article in feed["articles"]] == ["turtles", "snakes"] and feed["articlesCount"] == 3
    tags = anybody.ask("GET", "/api/tags")["tags"]
    assert tags[0] == "reptiles" and {"birds", "snakes"} <= set(tags)


def test_typescript_reads_what_python_reads(anybody: Client) -> None:
    kim = anybody.sign_up("kim")
    slug = kim.publish("Two languages", "python", "typescript")["slug"]
    kim.ask("POST", f"/api/articles/{slug}/favorite")
    paths = [
        "/tags", "/profiles/kim", "/articles", "/articles?tag=python", "/articles?favorited=kim&limit=1",
        "/articles?author=nobody", "/articles?limit=0", "/articles?limit=x", f"/articles/{slug}", "/articles/none",
        "/profiles/none",
    ]  # fmt: skip
    for client in (anybody, kim):
        for path in paths:
            answers = [client.send("GET", f"{prefix}{path}") for prefix in ("/api", "/ts")]
            assert len({answer.status for answer in answers}) == 1, path
            documents: list[Any] = [answer.json for answer in answers]
            if "limit=" in path and answers[0].status == 422:
                assert all(len(document["errors"]["body"]) == 1 for document in documents), path
            else:
                assert documents[0] == documents[1], path


def test_all_that_was_done_repeats_with_passwords_and_tokens_blanked(anybody: Client) -> None:
    """Not only what is done here: what the tests before it have done is on the same record."""
    lee = anybody.sign_up("lee")
    password = "the word of lee"
    for word in (password, f"not {password}"):
        anybody.send("POST", "/api/users/login", {"user": {"email": "lee@example.org", "password": word}})
    lee.ask("PUT", "/api/user", {"user": {"password": f"another than {password}"}})
    lee.publish("Repetitions", "again", "and again")
    verdicts = replay_all(anybody.server)
    assert set(verdicts) == {"identical"}, {one: names for one, names in verdicts.items() if one != "identical"}
    assert len(verdicts["identical"]) >= 5
    exported = anybody.server.command("records", "export").stdout.splitlines()
    records = [json.loads(line) for line in exported if '"flux.record/1"' in line]
    assert len(records) >= 5
    # Rows of the tables are there as they are in the tables.
    kept = json.dumps([{**record, "mutations": []} for record in records])
    known = [secret for secret in (lee.token, password, "lee@example.org") if secret is not None and secret in kept]
    assert known == []
