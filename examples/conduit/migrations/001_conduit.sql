create table account (
    id bigint generated always as identity primary key,
    username text not null unique check (username <> ''),
    email text not null unique check (email <> ''),
    password_salt bytea not null,
    password_hash bytea not null,
    bio text,
    image text
);

-- PBKDF1 of RFC 8018 with SHA-256. It is computed here, so that a password is nowhere but in a parameter, which the
-- record blanks: a function that computed it from the password could not be replayed from such a record. Where the
-- server has pgcrypto, crypt() is the better one.
create function hash_password(password text, salt bytea) returns bytea language plpgsql immutable strict as $$
declare
    digest bytea := sha256(convert_to(password, 'UTF8') || salt);
begin
    for round in 2..20000 loop
        digest := sha256(digest);
    end loop;
    return digest;
end
$$;

-- Null, which no account takes, for a password that is too short.
create function hash_new_password(password text, salt bytea) returns bytea language sql immutable strict as $$
    select hash_password(password, salt) where length(password) >= 8
$$;

create table follow (
    follower_id bigint not null references account on delete cascade,
    followed_id bigint not null references account on delete cascade,
    primary key (follower_id, followed_id),
    check (follower_id <> followed_id)
);

create table article (
    id bigint generated always as identity primary key,
    author_id bigint not null references account on delete cascade,
    slug text not null unique,
    title text not null check (title <> ''),
    description text not null,
    body text not null,
    created_at timestamptz not null,
    updated_at timestamptz not null
);
create index article_newest on article (created_at desc, id desc);
create index article_author on article (author_id);

create table tagging (
    article_id bigint not null references article on delete cascade,
    tag text not null check (tag <> ''),
    primary key (article_id, tag)
);
create index tagging_tag on tagging (tag);

create table favorite (
    account_id bigint not null references account on delete cascade,
    article_id bigint not null references article on delete cascade,
    primary key (account_id, article_id)
);
create index favorite_article on favorite (article_id);

create table comment (
    id bigint generated always as identity primary key,
    article_id bigint not null references article on delete cascade,
    author_id bigint not null references account on delete cascade,
    body text not null check (body <> ''),
    created_at timestamptz not null,
    updated_at timestamptz not null
);
create index comment_article on comment (article_id);
