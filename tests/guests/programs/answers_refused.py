"""What can't be answered is the function's own error, and says where it stands."""

from flux_guest import Context, function


# Expect: raised AnswerError
@function()
async def answer_nan(ctx: Context, input: dict) -> dict:
    return {"items": [{"price": 1.0}, {"price": float("nan")}]}


# Expect: raised AnswerError
@function()
async def answer_set(ctx: Context, input: dict) -> dict:
    return {"names": {"a", "b"}}


# Expect: raised AnswerError
@function()
def answer_generator(ctx: Context, input: dict):
    yield 1


# Expect: raised AnswerError
@function()
async def answer_itself(ctx: Context, input: dict) -> list:
    loop: list = []
    loop.append(loop)
    return loop


# Expect: raised AnswerError
@function()
async def answer_header_with_newline(ctx: Context, input: dict):
    return ctx.response("", headers={"x-evil": "a\r\nset-cookie: b"})


# Expect: raised AnswerError
@function()
async def answer_body_with_204(ctx: Context, input: dict):
    return ctx.response({"a": 1}, status=204)


# Expect: raised AnswerError
@function()
async def answer_half_a_character(ctx: Context, input: dict) -> str:
    return "\ud800"


# Expect: raised AnswerError
@function()
async def answer_too_much_for_a_frame(ctx: Context, input: dict) -> str:
    return "x" * (17 * 2**20)


# Expect: killed response
# Limits: {"response_bytes_max": 1000}
@function()
async def answer_beyond_the_limit(ctx: Context, input: dict) -> str:
    return "x" * 1001
