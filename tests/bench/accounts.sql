-- A narrow table for the benchmarks that need many rows: 6 columns, about 65 bytes a
-- row in COPY's binary format. psql variables: name (the table), rows.
CREATE TABLE :name (
    id         int8 NOT NULL,
    owner      int4 NOT NULL,
    v          int8 NOT NULL,
    changed_at timestamptz NOT NULL,
    state      text NOT NULL,
    note       text
);

SELECT setseed(0.5);

-- One in 16 notes is NULL.
INSERT INTO :name
SELECT i, (random() * 200000)::int, (random() * 1000000000)::int8, timestamptz '2024-01-01 00:00+00' + i * interval '17 milliseconds',
       (ARRAY['new', 'paid', 'shipped', 'returned'])[1 + i % 4], CASE WHEN i % 16 <> 2 THEN 'n' || (random() * 1000000000)::int END
FROM generate_series(1, :rows) i;

ALTER TABLE :name ADD PRIMARY KEY (id);
VACUUM (FREEZE, ANALYZE) :name;
