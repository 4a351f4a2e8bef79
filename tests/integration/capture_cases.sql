-- What a guest may do to rows, by every way there is. test_capture.py runs each case on its own.
--
-- "-- case:" begins one: first what the tables' owner makes, then after "-- guest" the guest's statements, all in one
-- transaction. A statement ends with a semicolon at the end of a line, and the next one begins at the margin.
-- "-- depths:" how deep the changes are, where it is not just 1: a trigger or a cascade is 2 and more.
-- "-- takes back": a savepoint or an exception block takes some of it back.


-- case: insert of many rows
create table shop.items (id int primary key, sku text, price numeric(10,2));
-- guest
insert into items select i, 'sku' || i, i from generate_series(1, 50) i;

-- case: update from another table
create table shop.items (id int primary key, sku text, price numeric(10,2));
insert into shop.items select i, 'sku ' || i, i * 1.5 from generate_series(1, 20) i;
create table shop.prices (id int primary key, price numeric);
insert into shop.prices select i, i * 100 from generate_series(5, 30) i;
-- guest
update items i set price = p.price from prices p where p.id = i.id and i.id % 2 = 0;

-- case: both branches of on conflict
create table shop.items (id int primary key, sku text, price numeric(10,2));
insert into shop.items select i, 'sku ' || i, i * 1.5 from generate_series(1, 20) i;
-- guest
insert into items values (3, 'three', 3), (90, 'ninety', 90)
    on conflict (id) do update set sku = excluded.sku, price = items.price + 1;
insert into items values (4, 'lost', 0), (91, 'kept', 91) on conflict do nothing;

-- case: expressions that write inside one statement
create table shop.items (id int primary key, sku text, price numeric(10,2));
insert into shop.items select i, 'sku ' || i, i * 1.5 from generate_series(1, 20) i;
create table shop.archive (like shop.items including all);
create table shop.journal (id bigint generated always as identity primary key, what text);
-- guest
with gone as (delete from items where id <= 5 returning *),
    kept as (insert into archive select * from gone returning id),
    risen as (update items set price = price + 1 where id > 15 returning id)
    insert into journal (what) select 'archived ' || id from kept union all select 'risen ' || id from risen;

-- case: merge
create table shop.items (id int primary key, sku text, price numeric(10,2));
insert into shop.items select i, 'sku ' || i, i * 1.5 from generate_series(1, 20) i;
-- guest
merge into items i using (select g id from generate_series(15, 25) g) s on s.id = i.id
    when matched and s.id = 16 then delete
    when matched then update set price = -i.price when not matched then insert values (s.id, 'merged', 0);

-- case: merge that deletes, inserts and changes keys at once
create table shop.items (id int primary key, sku text, price numeric(10,2));
insert into shop.items select i, 'sku ' || i, i * 1.5 from generate_series(1, 20) i;
-- guest
merge into items i using (values (1, 1), (2, 100), (101, 102)) s(id, n) on s.id = i.id
    when matched and i.id = 1 then delete
    when matched then update set id = s.n when not matched then insert values (s.n, 'new', 0);

-- case: a procedure
create table shop.items (id int primary key, sku text, price numeric(10,2));
insert into shop.items select i, 'sku ' || i, i * 1.5 from generate_series(1, 20) i;
create procedure shop.settle()
    language plpgsql as $$
    begin update shop.items set price = 0 where id = 1;
    delete from shop.items where id = 2;
    insert into shop.items values (77, 'by procedure', 7);
    end $$;
-- guest
call settle();

-- case: a function that writes in a select
create table shop.items (id int primary key, sku text, price numeric(10,2));
insert into shop.items select i, 'sku ' || i, i * 1.5 from generate_series(1, 20) i;
create function shop.touch(i int) returns int
    language sql as 'update shop.items set sku = sku || ''!'' where id = i returning id';
-- guest
select touch(i) from generate_series(1, 3) i;

-- case: cascades of each kind
-- depths: 1 2
create table shop.users (id int primary key, name text);
create table shop.orders (id int primary key, user_id int references shop.users on delete cascade on update cascade);
create table shop.lines (id int primary key, order_id int references shop.orders on delete cascade);
create table shop.notes (id int primary key, user_id int references shop.users on delete set null on update cascade);
create table shop.marks (id int primary key, user_id int default 1 references shop.users on delete set default);
insert into shop.users select i, 'user ' || i from generate_series(1, 6) i;
insert into shop.orders select i, 1 + i % 6 from generate_series(1, 30) i;
insert into shop.lines select i, 1 + i % 30 from generate_series(1, 90) i;
insert into shop.notes select i, 1 + i % 6 from generate_series(1, 12) i;
insert into shop.marks values (1, 3), (2, 4);
-- guest
delete from users where id = 3;
update users set id = 50 where id = 5;
delete from users where id = 4;
insert into orders values (99, 6);

-- case: a table that cascades into itself
create table shop.tree (id int primary key, parent int references shop.tree on delete cascade);
insert into shop.tree select i, nullif(i / 2, 0) from generate_series(1, 31) i;
-- guest
delete from tree where id = 2;

-- case: triggers of the user's
-- depths: 1 2
create table shop.items (id int primary key, sku text, price numeric(10,2));
insert into shop.items select i, 'sku ' || i, i * 1.5 from generate_series(1, 20) i;
create table shop.audit (n bigint generated always as identity primary key, what text);
create function shop.round_up() returns trigger language plpgsql as $$
    begin new.price := ceil(new.price); return new; end $$;
create function shop.note() returns trigger language plpgsql as $$
    begin insert into shop.audit (what) values (tg_op || coalesce(new.id, old.id)); return null; end $$;
create function shop.count() returns trigger language plpgsql as $$
    begin insert into shop.audit (what) select 'rows ' || count(*) from shop.items; return null; end $$;
create trigger a before insert or update on shop.items for each row execute function shop.round_up();
create trigger b after insert or update or delete on shop.items for each row execute function shop.note();
create trigger c after delete on shop.items for each statement execute function shop.count();
-- guest
update items set price = price + 0.1 where id < 4;
delete from items where id > 18;

-- case: a row trigger that changes its own row again
-- depths: 1 2 3 4
create table shop.counted (id int primary key, n int, seen int default 0);
create function shop.again() returns trigger language plpgsql as $$
    begin update shop.counted set seen = seen + 1 where id = new.id and seen < 3; return null; end $$;
create trigger again after insert or update on shop.counted for each row execute function shop.again();
-- guest
insert into counted (id, n) values (1, 1), (2, 2);
update counted set n = n * 10, seen = 0;
delete from counted where id = 1;
insert into counted (id, n) values (1, 5);

-- case: rows that move between partitions
create table shop.events (id int, day date, what text, primary key (id, day, what)) partition by range (day);
create table shop.events_1 partition of shop.events for values from ('2026-01-01') to ('2026-02-01');
create table shop.events_2 partition of shop.events for values from ('2026-02-01') to ('2026-03-01') partition by list (what);
create table shop.events_2a partition of shop.events_2 for values in ('a', 'b');
create table shop.events_2d partition of shop.events_2 default;
insert into shop.events select i, date '2026-01-01' + i % 50, chr(97 + i % 3) from generate_series(1, 40) i;
-- guest
update events set day = day + 31 where day < '2026-01-15';
update events set what = 'b' where id > 30;
delete from events where id = 10;

-- case: a partition changed directly
create table shop.parts (id int primary key, v text) partition by range (id);
create table shop.parts_low partition of shop.parts for values from (0) to (100);
create table shop.parts_high partition of shop.parts for values from (100) to (200);
-- guest
insert into parts_low values (1, 'a'), (2, 'b');
update parts_low set v = 'c' where id = 2;
delete from parts_low where id = 1;
insert into parts values (150, 'x'), (50, 'y');

-- case: exception blocks
-- takes back
create table shop.items (id int primary key, sku text, price numeric(10,2));
insert into shop.items select i, 'sku ' || i, i * 1.5 from generate_series(1, 20) i;
-- guest
do $$
    begin update items set price = 1 where id = 1;
    begin update items set price = 999;
    insert into items values (1, 'twice', 0);
    exception when unique_violation then update items set sku = 'caught' where id = 2;
    end;
    delete from items where id = 3;
    end $$;

-- case: keys that change
create table shop.items (id int primary key, sku text, price numeric(10,2));
insert into shop.items select i, 'sku ' || i, i * 1.5 from generate_series(1, 20) i;
-- guest
update items set id = id + 1000 where id < 5;
update items set id = -id where id > 15;

-- case: keys that change places
create table shop.places (id int primary key deferrable initially immediate, v text);
insert into shop.places values (1, 'one'), (2, 'two'), (3, 'three');
-- guest
update places set id = 1 + id % 3;

-- case: a key of several columns
create table shop.seats ("row" int, number text, taken boolean, primary key (number, "row"));
insert into shop.seats select i, 'n' || i % 3, false from generate_series(1, 9) i;
-- guest
update seats set taken = true where number = 'n1';
update seats set number = 'z' where "row" = 1;
delete from seats where "row" = 2;

-- case: no primary key
create table shop.loose (a int, b text); insert into shop.loose values (1, 'x'), (1, 'x'), (2, null);
-- guest
insert into loose values (1, 'x'), (null, null);
update loose set b = 'y' where a = 2;
delete from loose where a is null;

-- case: generated columns
create table shop.boxes (id int generated always as identity primary key, w int, h int, area int generated always as (w * h) stored, at timestamptz default now());
-- guest
insert into boxes (w, h) values (2, 3), (4, 5);
update boxes set w = 10 where h = 3;

-- case: names and values in any script
create table shop."Bücher "" ' % \ 書" ("id "" ' %" int primary key, "naïve, name" text, "%s" text);
insert into shop."Bücher "" ' % \ 書" values (1, 'ä "quoted" \ 𝄞', e'tab\t\n%I');
-- guest
insert into "Bücher "" ' % \ 書" select i, repeat('☃', i), '$$' from generate_series(2, 99) i;
update "Bücher "" ' % \ 書" set "%s" = '{"a":1}', "id "" ' %" = "id "" ' %" + 500 where "id "" ' %" > 90;
delete from "Bücher "" ' % \ 書" where "id "" ' %" < 80;

-- case: a view
create table shop.items (id int primary key, sku text, price numeric(10,2));
insert into shop.items select i, 'sku ' || i, i * 1.5 from generate_series(1, 20) i;
create view shop.cheap as select id, sku, price from shop.items where price < 10;
-- guest
update cheap set price = price + 5;
insert into cheap values (300, 'through the view', 1);
delete from cheap where id = 300;

-- case: statements that change nothing
create table shop.items (id int primary key, sku text, price numeric(10,2));
insert into shop.items select i, 'sku ' || i, i * 1.5 from generate_series(1, 20) i;
-- guest
update items set price = 0 where id = -1;
delete from items where false;
update items set id = id where id = 1;

-- case: savepoints
-- takes back
create table shop.items (id int primary key, sku text, price numeric(10,2));
insert into shop.items select i, 'sku ' || i, i * 1.5 from generate_series(1, 20) i;
-- guest
update items set price = 1 where id = 1;
savepoint a;
update items set price = 2 where id = 1;
delete from items where id = 2;
rollback to savepoint a;
update items set price = 3 where id = 1;
savepoint b;
insert into items values (800, 'b', 0);
release savepoint b;

-- case: values that JSON finds hard
create table shop.hard (id int primary key, f8 float8, f4 float4, n numeric, d date, t timestamptz, j json, b bytea, i interval, a int[], r int4range, m money, tx text);
insert into shop.hard (id) values (0);
-- guest
insert into hard values (1,
    'NaN', 'Infinity', 'NaN', 'infinity', '-infinity', '{"a": -0,  "a":1.10}', '\x00ff', '1 mon -2 days 00:00:01', '{1,null,3}', '[1,5)', 12.5, e'\u0001\u2028');
update hard set f8 = '-0', n = 1.100, d = '4713-01-01 BC', t = '2026-01-01 12:00:00.123456+05', j = '[-0, 1e400]';
update hard set f8 = 0.1::float8 + 0.2, f4 = 1e-45, n = '-Infinity' where id = 0;

-- case: a trigger that puts its row back as it was
-- depths: 1 2
create table shop.stubborn (id int primary key, v text);
create function shop.put_back() returns trigger language plpgsql as $$
    begin update shop.stubborn set v = old.v where id = new.id and old.v = 'A'; return null; end $$;
create trigger put_back after update on shop.stubborn for each row execute function shop.put_back();
insert into shop.stubborn values (1, 'A'), (2, 'B');
-- guest
update stubborn set v = 'B' where id = 1;
update stubborn set v = 'C' where id = 2;
update stubborn set v = 'B' where id = 1;

-- case: a trigger elsewhere, then the statement's own way back
-- depths: 1 2
create table shop.asked (id int primary key, n int);
create table shop.state (id int primary key, v text);
create function shop.flip() returns trigger language plpgsql as $$
    begin update shop.state set v = 'A' where id = new.id; return null; end $$;
create function shop.nothing() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger flip after insert or update on shop.asked for each row execute function shop.flip();
create trigger nothing after insert or update on shop.state for each row execute function shop.nothing();
insert into shop.state values (1, 'B'), (2, 'B');
-- guest
insert into asked values (1, 1);
update state set v = 'B' where id = 1;
do $$ begin
    insert into asked values (2, 2);
    update state set v = 'B' where id = 2;
    update asked set n = 3 where id = 2;
    update state set v = 'B' where id = 2; end $$;

-- case: a trigger that changes the rows beside its own
-- depths: 1 2 3 4
create table shop.ranks (id int primary key, rank int);
create function shop.make_room() returns trigger language plpgsql as $$
    begin update shop.ranks set rank = rank + 1 where id <> new.id and rank = new.rank; return null; end $$;
create trigger make_room after insert or update of rank on shop.ranks for each row execute function shop.make_room();
-- guest
insert into ranks values (1, 1), (2, 2), (3, 4);
insert into ranks values (4, 1);
update ranks set rank = 1 where id = 3;

-- case: a trigger that writes before its row
-- depths: 1 2
create table shop.totals (id int primary key, n int);
create function shop.first() returns trigger language plpgsql as $$
    begin insert into shop.totals values (-new.id, 0) on conflict (id) do update set n = totals.n + 1; return new; end $$;
create trigger first before insert on shop.totals for each row when (new.n > 0) execute function shop.first();
create function shop.nothing() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger nothing after insert or update on shop.totals for each row execute function shop.nothing();
-- guest
insert into totals values (1, 5) on conflict (id) do update set n = totals.n + excluded.n;
insert into totals values (1, 7) on conflict (id) do update set n = totals.n + excluded.n;

-- case: deleted and made again
create table shop.items (id int primary key, v text);
insert into shop.items values (1, 'A');
-- guest
delete from items where id = 1;
insert into items values (1, 'A');
delete from items where id = 1;
insert into items values (1, 'B');
merge into items i using (values (1, false), (1, true)) s(id, fresh) on s.id = i.id and not s.fresh
    when matched then delete
    when not matched then insert values (s.id, 'C');

-- case: constraints that are checked at the end
create table shop.parents (id int primary key);
create table shop.children (id int primary key, parent int references shop.parents deferrable initially deferred);
-- guest
insert into children select i, 1000 + i from generate_series(1, 70) i;
insert into parents select 1000 + i from generate_series(1, 70) i;
