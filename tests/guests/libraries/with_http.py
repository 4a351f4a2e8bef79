"""HTTP by libraries that have never heard of Flux: each asks a stub whose answers have a number in them."""

import asyncio
import http.client
import json
import ssl
import urllib.request

import aiohttp
import httpx
import requests
import urllib3
from flux_guest import Context, function

PAYLOAD = {"item": "tea", "count": 3}


# Expect: returned 200; net.open 1
@function()
def http_client(ctx: Context, input: dict) -> dict:
    connection = http.client.HTTPConnection(input["host"], input["port"], timeout=60)
    connection.request("POST", "/echo", json.dumps(PAYLOAD), {"authorization": "Bearer t0ken-of-mine"})
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return {"status": answer.status, "body": body}


# Expect: returned 200; net.open 1, net.tls 1
@function()
def http_client_under_tls(ctx: Context, input: dict) -> dict:
    connection = http.client.HTTPSConnection(input["host"], input["tls_port"], timeout=60)
    connection.request("GET", "/count?key=4242")
    answer = connection.getresponse()
    body = json.loads(answer.read())
    certificate = connection.sock.getpeercert()
    connection.close()
    return {"body": body, "names": certificate["subjectAltName"], "version": answer.version}


# Expect: returned 200; net.open 2, net.tls 2
@function()
def an_authority_of_ones_own(ctx: Context, input: dict) -> dict:
    url = f"https://{input['host']}:{input['own_port']}/count"
    context = ssl.create_default_context(cadata=input["own_authority"])
    with urllib.request.urlopen(url, timeout=60, context=context) as answer:
        body = json.loads(answer.read())
    try:
        urllib.request.urlopen(url, timeout=60)
    except OSError as error:  # Whom only the function trusts, the machine does not.
        assert isinstance(error.reason, ssl.SSLCertVerificationError), error
        return {"body": body}
    raise AssertionError("it was trusted by everybody")


# Expect: returned 200; net.open 2, net.tls 1
@function()
def urllib_request(ctx: Context, input: dict) -> dict:
    plain, tls = f"http://{input['host']}:{input['port']}", f"https://{input['host']}:{input['tls_port']}"
    with urllib.request.urlopen(f"{plain}/count", timeout=60) as answer:
        first = json.loads(answer.read())
    request = urllib.request.Request(f"{tls}/echo", json.dumps(PAYLOAD).encode(), method="PUT")
    with urllib.request.urlopen(request, timeout=60) as answer:
        second = json.loads(answer.read())
    return {"first": first, "second": second}


# Expect: returned 200; net.open 1, net.tls 1
@function()
def urllib3_keeps_its_connection(ctx: Context, input: dict) -> dict:
    with urllib3.PoolManager() as pool:
        url = f"https://{input['host']}:{input['tls_port']}/count"
        numbers = [pool.request("GET", url).json()["count"] for _ in range(3)]
    return {"numbers": numbers}


# Expect: returned 200; net.open 1
@function()
def requests_posts(ctx: Context, input: dict) -> dict:
    answer = requests.post(f"http://{input['host']}:{input['port']}/echo", json=PAYLOAD, timeout=60)
    return {"status": answer.status_code, "body": answer.json()}


# Expect: returned 200; net.open 1, net.tls 1
@function()
def requests_session_with_cookies(ctx: Context, input: dict) -> dict:
    with requests.Session() as session:
        session.auth = ("acme", "correct horse")
        url = f"https://{input['host']}:{input['tls_port']}"
        session.get(f"{url}/login", timeout=60)
        answer = session.get(f"{url}/headers", timeout=60)
    return {"has_cookie": "sid=" in answer.json()["cookie"], "status": answer.status_code}


# Expect: returned 200; net.open 1, net.tls 1
@function()
def httpx_sync(ctx: Context, input: dict) -> dict:
    with httpx.Client() as client:
        url = f"https://{input['host']}:{input['tls_port']}"
        numbers = [client.get(f"{url}/count").json()["count"]]
        body = client.post(f"{url}/echo", json=PAYLOAD).json()
    return {"numbers": numbers, "body": body}


# Expect: returned 200; net.open 3, net.tls 3
@function()
async def httpx_async(ctx: Context, input: dict) -> dict:
    url = f"https://{input['host']}:{input['tls_port']}/count"
    async with httpx.AsyncClient() as client:
        answers = await asyncio.gather(*(client.get(url) for _ in range(3)))
    return {"numbers": [answer.json()["count"] for answer in answers]}


# Expect: returned 200; net.open 1, net.tls 1
@function()
async def aiohttp_under_tls(ctx: Context, input: dict) -> dict:
    url = f"https://{input['host']}:{input['tls_port']}"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/count") as answer:
            first = await answer.json()
        async with session.post(f"{url}/echo", json=PAYLOAD) as answer:
            second = await answer.json()
    return {"first": first, "second": second}


# Expect: returned 200; net.open 5
@function()
async def aiohttp_gathers(ctx: Context, input: dict) -> dict:
    url = f"http://{input['host']}:{input['port']}/count"

    async def ask(session: aiohttp.ClientSession) -> int:
        async with session.get(url) as answer:
            return (await answer.json())["count"]

    async with aiohttp.ClientSession() as session:
        numbers = await asyncio.gather(*(ask(session) for _ in range(5)))
    return {"numbers": numbers}


# Expect: returned 200; net.open 1, net.tls 1
@function()
async def asyncio_streams_under_tls(ctx: Context, input: dict) -> dict:
    reader, writer = await asyncio.open_connection(
        input["host"], input["tls_port"], ssl=ssl.create_default_context()
    )
    writer.write(b"GET /count HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return {"answer": answer.decode()}
