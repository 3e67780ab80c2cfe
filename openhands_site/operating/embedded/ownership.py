"""The PostgreSQL role of the server, which owns the database but is no superuser."""

ROLE = "openhands"
"""The PostgreSQL role of the server. It owns the database and its tables, and has no rights beyond them."""
CREATE_ROLE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
        CREATE ROLE {ROLE} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
    END IF;
END $$
"""
GIVE_DATABASE = f"""
DO $$ DECLARE
    command text;
BEGIN
    IF (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()) <> '{ROLE}' THEN
        EXECUTE format('ALTER DATABASE %I OWNER TO {ROLE}', current_database());
    END IF;
    FOR command IN
        WITH own AS (SELECT oid FROM pg_roles WHERE rolname = current_user),
        spaces AS (
            SELECT oid, nspname FROM pg_namespace
            WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'
        ),
        extended AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e')
        SELECT format('ALTER SCHEMA %I OWNER TO {ROLE}', n.nspname)
        FROM pg_namespace n JOIN spaces USING (oid) JOIN own ON n.nspowner = own.oid
        UNION ALL
        SELECT format(
            'ALTER %s %I.%I OWNER TO {ROLE}',
            CASE c.relkind
                WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE'
            END,
            s.nspname, c.relname
        )
        FROM pg_class c JOIN spaces s ON s.oid = c.relnamespace JOIN own ON c.relowner = own.oid
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
            AND ('pg_class'::regclass, c.oid) NOT IN (SELECT classid, objid FROM extended)
            -- The sequence of a column changes its owner with the table.
            AND NOT EXISTS (
                SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                    AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND c.relkind = 'S'
            )
        UNION ALL
        SELECT format(
            'ALTER ROUTINE %I.%I(%s) OWNER TO {ROLE}', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)
        )
        FROM pg_proc p JOIN spaces s ON s.oid = p.pronamespace JOIN own ON p.proowner = own.oid
        WHERE ('pg_proc'::regclass, p.oid) NOT IN (SELECT classid, objid FROM extended)
        UNION ALL
        SELECT format('ALTER TYPE %I.%I OWNER TO {ROLE}', s.nspname, t.typname)
        FROM pg_type t JOIN spaces s ON s.oid = t.typnamespace JOIN own ON t.typowner = own.oid
        LEFT JOIN pg_class c ON c.oid = t.typrelid
        WHERE (t.typtype IN ('e', 'd', 'r') OR (t.typtype = 'c' AND c.relkind = 'c'))
            AND ('pg_type'::regclass, t.oid) NOT IN (SELECT classid, objid FROM extended)
    LOOP
        EXECUTE command;
    END LOOP;
END $$
"""  # noqa: S608 - our own name
"""Give the database and all objects of the superuser in it to ``ROLE``. PostgreSQL refuses ``REASSIGN OWNED`` for the
superuser that owns the system catalogs. Safe to repeat: a second run finds nothing to change."""


def prepare_role(superuser_url: str) -> None:
    """Create the role that the server uses, and give it the database. Raise ``psycopg.Error`` if PostgreSQL refuses.

    A superuser of PostgreSQL can run programs and read files of the machine, so an injected statement could too.
    In a data folder of an earlier version, the superuser owns the tables: they change their owner once.
    """
    import psycopg  # here, because PostgreSQL starts while this package is imported

    with psycopg.connect(superuser_url, autocommit=True) as connection:
        connection.execute(CREATE_ROLE)
        connection.execute(GIVE_DATABASE)
