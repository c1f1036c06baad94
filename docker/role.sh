#!/bin/sh
# Gives Loopline its own database and a role that owns nothing else; as often as one likes. The role's password follows
# its file, so that a rotation takes effect at the next start.
set -eu
PGPASSWORD=$(cat /run/loopline/postgres/superuser_password)
export PGPASSWORD
password=$(cat /run/loopline/postgres/role_password)
[ -n "$password" ] || { echo "the role's password is empty: docker compose run --rm secrets rotate" >&2; exit 1; }
psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --host postgres --username postgres --dbname postgres \
  --set password="$password" <<'SQL'
SELECT 'CREATE ROLE loopline' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'loopline') \gexec
ALTER ROLE loopline LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
SELECT 'CREATE DATABASE loopline OWNER loopline ENCODING ''UTF8'' TEMPLATE template0' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'loopline') \gexec
REVOKE ALL ON DATABASE loopline, postgres FROM PUBLIC;
SQL
echo "the role loopline owns the database loopline"
