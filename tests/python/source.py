"""The source, of whatever kind: connections for SQL, and what its tables hold in exact form.

A connection string is libpq's for PostgreSQL, and `mysql:socket=/path dbname=name` or `mariadb:…` for the others.
"""


def connect(source: str):
    """A connection with `execute(sql, parameters)`, which commits by itself outside of BEGIN and COMMIT."""
    return module(source).connect(source)


def catalog(source: str):
    """What there is at the source: see postgres.Catalog and mysql.Catalog, which offer the same."""
    return module(source).Catalog(connect(source))


def is_postgres(source: str) -> bool:
    return not source.startswith(("mysql:", "mariadb:"))


def module(source: str):
    # Only what is needed: to load takes time.
    if is_postgres(source):
        import postgres

        return postgres
    import mysql

    return mysql
