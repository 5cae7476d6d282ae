-- orders.sql in the words of MySQL: 12 columns of mixed types. NAME (the table) and ROWS are put in.
SET SESSION sql_log_bin = 0;
SET SESSION cte_max_recursion_depth = 100000000;
CREATE TABLE NAME (
    id         bigint NOT NULL PRIMARY KEY,
    customer   int NOT NULL,
    quantity   smallint NOT NULL,
    price      decimal(12, 2) NOT NULL,
    placed_at  timestamp(6) NOT NULL,
    paid       bool NOT NULL,
    score      double,
    token      binary(16) NOT NULL,
    state      varchar(20) NOT NULL,
    note       varchar(100),
    attributes json,
    revision   int NOT NULL DEFAULT 0
);

-- One in 16 values of the nullable columns is NULL.
INSERT INTO NAME
WITH RECURSIVE series (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM series WHERE i < ROWS)
SELECT i, rand(1) * 200000, 1 + i % 9, floor(rand(2) * 100000) / 100.0,
       timestamp '2000-01-01 00:00:00' + INTERVAL i * 17 SECOND, i % 3 = 0,
       CASE WHEN i % 16 <> 1 THEN floor(rand(3) * 8000) / 8.0 END, unhex(left(sha2(i, 256), 32)),
       elt(1 + i % 4, 'new', 'paid', 'shipped', 'returned'),
       CASE WHEN i % 16 <> 2 THEN concat('n', floor(rand(4) * 1000000000)) END,
       CASE WHEN i % 16 <> 3 THEN json_object('k', i % 100) END, 0
FROM series;
ANALYZE TABLE NAME;

CREATE PROCEDURE update_NAME(transactions int)
BEGIN
    DECLARE i int DEFAULT 0;
    DECLARE j int;
    DECLARE picked bigint;
    WHILE i < transactions DO
        START TRANSACTION;
        SET j = 0;
        WHILE j < 50 DO
            SET picked = 1 + floor(rand() * ROWS);
            UPDATE NAME SET revision = revision + 1, quantity = quantity % 9 + 1, placed_at = placed_at + INTERVAL 1 SECOND
            WHERE id = picked;
            SET j = j + 1;
        END WHILE;
        COMMIT;
        SET i = i + 1;
    END WHILE;
END
