-- The benchmarks' table: 12 columns of mixed types, about 137 bytes a row in COPY's
-- binary format. psql variables: name (the table), rows.
CREATE TABLE :name (
    id         int8 NOT NULL,
    customer   int4 NOT NULL,
    quantity   int2 NOT NULL,
    price      numeric(12, 2) NOT NULL,
    placed_at  timestamptz NOT NULL,
    paid       bool NOT NULL,
    score      float8,
    token      uuid NOT NULL,
    state      text NOT NULL,
    note       text,
    attributes jsonb,
    revision   int4 NOT NULL DEFAULT 0
);

SELECT setseed(0.5);

-- One in 16 values of the nullable columns is NULL.
INSERT INTO :name
SELECT i, (random() * 200000)::int, 1 + i % 9, (random() * 100000)::int / 100.0,
       timestamptz '2024-01-01 00:00+00' + i * interval '17 seconds', i % 3 = 0,
       CASE WHEN i % 16 <> 1 THEN (random() * 8000)::int / 8.0 END, md5(i::text)::uuid,
       (ARRAY['new', 'paid', 'shipped', 'returned'])[1 + i % 4],
       CASE WHEN i % 16 <> 2 THEN 'n' || (random() * 1000000000)::int END,
       CASE WHEN i % 16 <> 3 THEN jsonb_build_object('k', i % 100) END
FROM generate_series(1, :rows) i;

ALTER TABLE :name ADD PRIMARY KEY (id);
VACUUM (FREEZE, ANALYZE) :name;
