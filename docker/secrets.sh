#!/bin/sh
# The passwords of a stack: files in volumes that only the services needing them mount.
#   docker compose run --rm secrets               make those that are missing; every start does it
#   docker compose run --rm secrets rotate        make new ones; then: docker compose up --detach --force-recreate --always-recreate-deps
#   docker compose run --rm -T secrets put NAME   take one from standard input: database_url and broker_url of servers that
#                                                 are elsewhere, s3_access_key and s3_secret_key of an object store,
#                                                 superuser_password of this stack's PostgreSQL
set -eu
umask 077
cd /run/loopline

password() { od -An -tx1 -N24 /dev/urandom | tr -d ' \n'; }
put() { cat >"$1.new" && mv "$1.new" "$1"; }
was_given() { [ -e "service/$1.given" ]; }

case "${1:-}" in
"") ;;
rotate)
  was_given database_url || rm -f postgres/role_password service/database_url
  was_given broker_url || rm -f redis/users.acl service/broker_url
  ;;
put)
  case "${2:-}" in
  superuser_password) file=postgres/$2 ;;
  database_url | broker_url | s3_access_key | s3_secret_key) file=service/$2 ;;
  *) echo "put what? One of database_url, broker_url, s3_access_key, s3_secret_key, superuser_password" >&2; exit 2 ;;
  esac
  given=$(tr -d '\r\n')
  [ -n "$given" ] || { echo "nothing came on standard input" >&2; exit 1; }
  printf %s "$given" | put "$file"
  : >"$file.given"
  echo "kept $2; the services read it when they start"
  exit
  ;;
*) echo "give nothing, or rotate, or put NAME" >&2; exit 2 ;;
esac

[ -s postgres/superuser_password ] || password | put postgres/superuser_password
[ -s monitoring/grafana_password ] || password | put monitoring/grafana_password

# Each is made with what belongs to it, unless it was given.
if ! was_given database_url && ! { [ -s service/database_url ] && [ -s postgres/role_password ]; }; then
  secret=$(password)
  printf %s "$secret" | put postgres/role_password
  printf 'postgresql://loopline:%s@postgres:5432/loopline' "$secret" | put service/database_url
  echo "made the password of the database's role"
fi

if ! was_given broker_url && ! { [ -s service/broker_url ] && [ -s redis/users.acl ]; }; then
  secret=$(password)
  # No more commands than Celery needs to carry doorbells, and the API to count requests: nobody may change the server's
  # settings, look at who is connected, or empty it. `health` may only greet. Nobody can be `default`; it has its rights
  # because the server reads its own append-only file in its name.
  put redis/users.acl <<ACL
user default off ~* &* +@all
user health on nopass -@all +ping
user loopline on >$secret ~* &* -@all +ping +hello +auth +client|setinfo +multi +exec +discard +watch +unwatch +lpush +rpush +rpop +brpop +llen +sadd +srem +smembers +hset +hget +hdel +zadd +zrem +zrange +zrangebyscore +set +get +exists +del +time +evalsha +script|load +script|exists +incrby +expire +publish +subscribe +unsubscribe +psubscribe +punsubscribe
ACL
  printf 'redis://loopline:%s@redis:6379/0' "$secret" | put service/broker_url
  echo "made the broker's password"
fi
echo "the secrets are in place"
