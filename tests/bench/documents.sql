-- The table of `soak`: 5 columns; one row in 8 has a body of 4,000 characters out of line, the others have none.
-- psql variables: name (the table), rows.
CREATE TABLE :name (
    id         int8 NOT NULL,
    revision   int4 NOT NULL,
    changed_at timestamptz NOT NULL,
    title      text NOT NULL,
    body       text
);
ALTER TABLE :name ALTER body SET STORAGE EXTERNAL;

INSERT INTO :name
SELECT i, 0, '2024-01-01', 't' || i, CASE WHEN i % 8 = 0 THEN repeat(md5(i::text), 125) END
FROM generate_series(1, :rows) i;

ALTER TABLE :name ADD PRIMARY KEY (id);
VACUUM (FREEZE, ANALYZE) :name;
