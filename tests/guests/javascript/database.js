// The database, its types and its transactions.

import { DatabaseError, Decimal, defineFunction, PlainDate, PlainTime, Range } from "@flux/guest";

// Expect: returned 200; db.query 6, db.execute 2
export const uses_a_table = defineFunction(async ({ ctx }) => {
  const user = await ctx.db.users.insert({ email: "js@b.com" });
  const found = await ctx.db.users.findOne({ email: "js@b.com" });
  const changed = await ctx.db.users.update({ id: user.id }, { plan: "pro" });
  const many = await ctx.db.users.findMany({ plan: "pro" }, { orderBy: "-id", limit: 5 });
  const missing = await ctx.db.users.findOne({ email: null });
  const gone = await ctx.db.users.delete({ id: user.id });
  const empty = await ctx.db.queryOne("select * from users where email = $1", "js@b.com");
  const count = await ctx.db.query("select count(*) as n from users where id = $1", user.id);
  return { same: found.id === user.id, changed, many: many.length, missing, gone, empty, count };
});

// Expect: returned 200; db.query 2
export const keeps_types = defineFunction(async ({ ctx }) => {
  const sql = `select $1::int8 as big, $2::numeric as money, $3::timestamptz as at, $4::date as day, $5::time as clock,
    $6::bytea as raw, $7::uuid as id, $8::int4range as span, $9::jsonb as doc, $10::float8 as nan, $11::text[] as list,
    interval '1 mon 2 days' as length, interval '90 min' as minutes, null as nothing, timestamp '2026-01-02 03:04:05.000006' as plain`;
  const at = new Date("2026-01-02T03:04:05.678Z");
  const row = await ctx.db.queryOne(
    sql, 9007199254740993n, new Decimal("12345678901234567890.0001"), at, new PlainDate("2026-01-02"),
    new PlainTime("03:04:05"), new Uint8Array([1, 2, 255]), "01890a5d-ac96-774b-bcce-b302099a8057", new Range(1, 5),
    { a: [1, "ü"] }, NaN, ["x", "y"],
  );
  if (row.big !== 9007199254740993n) throw new Error(`big is ${row.big}`);
  if (row.at.getTime() !== at.getTime()) throw new Error(`at is ${row.at}`);
  if (String(row.money) !== "12345678901234567890.0001") throw new Error(`money is ${row.money}`);
  if (!(row.raw instanceof Uint8Array) || row.raw[2] !== 255) throw new Error("raw");
  if (!Number.isNaN(row.nan) || row.nothing !== null) throw new Error("nan");
  // A value that was read is found again, to its last digit.
  const again = await ctx.db.queryOne("select $1::timestamp = timestamp '2026-01-02 03:04:05.000006' as same, $2::interval as minutes", row.plain, row.minutes);
  return { row, again };
});

// Expect: returned 200; db.query 1, db.execute 3, db.begin 2, db.commit 1, db.rollback 1
export const has_savepoints = defineFunction(async ({ ctx }) => {
  await ctx.db.execute("update accounts set amount = amount - 10 where name = 'alice'");
  await ctx.db.transaction(async () => {
    await ctx.db.execute("update accounts set amount = amount + 10 where name = 'bob'");
  });
  try {
    await ctx.db.transaction(async () => {
      await ctx.db.execute("update accounts set amount = amount - 1000 where name = 'alice'");
    });
  } catch (error) {
    if (!(error instanceof DatabaseError) || error.code !== "23514") throw error;
  }
  return ctx.db.accounts.findMany({}, { orderBy: "name" });
});

// Expect: raised DatabaseError; db.query 1
export const does_not_catch = defineFunction(async ({ ctx }) => {
  return ctx.db.query("select * from no_such_table");
});

// Expect: raised Error; db.query 1
export const throws_from_a_database_error = defineFunction(async ({ ctx }) => {
  try {
    await ctx.db.query("select 1 / 0");
  } catch (error) {
    throw new Error("could not divide", { cause: error });
  }
});

// Expect: returned 200; db.query 5
export const asks_five_at_once = defineFunction(async ({ ctx }) =>
  Promise.all([1, 2, 3, 4, 5].map((n) => ctx.db.queryOne("select $1::int as n", n))),
);

// Expect: raised TypeError
export const sends_what_can_not_travel = defineFunction(async ({ ctx }) => ctx.db.query("select $1", () => 1));

// Expect: raised TypeError
export const sends_half_a_character = defineFunction(async ({ ctx }) => ctx.db.query("select $1::text", "\ud800"));
