# What mysql.sh and mariadb.sh share. They define before they read it:
#   KIND            the first part of scratch directories' names
#   install_server  gets VERSION, if absent; sets SERVER, CLIENT (commands with arguments, as arrays), BIN and BASICS
#                   (lines of my.cnf that say where things are)
#   initialize      makes a data directory in $1, by SERVER
#   DEFAULTS        lines of my.cnf that this kind of server gets here
#   USERS           SQL for the user of the URL

# as_mysql COMMAND...
AS_MYSQL=(setpriv --reuid=mysql --regid=mysql --clear-groups env HOME=/tmp LC_ALL=C)
as_mysql() { (cd / && exec "${AS_MYSQL[@]}" "$@"); }

install_mysqld() {
  mkdir -p "$CACHE/servers" "$CACHE/run"
  exec 9>"$CACHE/servers/lock-$KIND" && flock 9
  id mysql >/dev/null 2>&1 || useradd --system --no-create-home mysql
  install_server "$1"
  make_template "$1"
  exec 9>&-
}

# A data directory that was never used, to be copied: to make one takes seconds.
make_template() {
  local scratch
  TEMPLATE=$CACHE/servers/$KIND-$1-data
  [ -d "$TEMPLATE" ] && return
  scratch=$(mktemp -d -p "$CACHE/servers")
  chmod 755 "$scratch"
  install -d -o mysql -g mysql "$scratch/data"
  configure "$1" "$scratch"
  initialize "$scratch/data" "$scratch/my.cnf" >"$scratch/log" 2>&1 || { tail -n 20 "$scratch/log" >&2; exit 1; }
  run "$scratch"
  sql "$scratch" -e "SET sql_log_bin = 0; $USERS"
  stop "$scratch" fast
  # Each copy gets its own UUID, and begins its own log.
  rm -f "$scratch"/data/{auto.cnf,binlog.*,*.pem,*.err}
  mv "$scratch/data" "$TEMPLATE"
  rm -rf "$scratch"
}

# sql DIR ARGUMENT...: the client, as root over the socket.
sql() {
  local dir=$1
  shift
  "${CLIENT[@]}" --no-defaults --user=root --socket="$dir/sock" "$@"
}

# configure VERSION DIR
configure() {
  local version=$1 dir=$2
  echo "$version" >"$dir/version"
  free_port >"$dir/port"
  # At its start a server removes the temporary tables of all that share the directory, and another one may crash.
  install -d -o mysql -g mysql "$dir/tmp"
  {
    echo "[mysqld]"
    echo "tmpdir = $dir/tmp"
    echo "$BASICS"
    echo "datadir = $dir/data"
    echo "port = $(cat "$dir/port")"
    echo "bind_address = 127.0.0.1"
    echo "socket = $dir/sock"
    echo "pid_file = $dir/pid"
    echo "log_bin = $dir/data/binlog"
    echo "relay_log = $dir/data/relay"
    echo "server_id = ${MYSQL_SERVER_ID:-1}"
    echo "skip_name_resolve = ON"
    echo "max_connections = 200"
    # Small and quick: what a crash of the process leaves is whole, that of the machine doesn't matter here.
    echo "performance_schema = OFF"
    echo "innodb_buffer_pool_size = 64M"
    echo "innodb_flush_log_at_trx_commit = 2"
    echo "innodb_doublewrite = OFF"
    echo "innodb_stats_persistent = OFF"
    echo "sync_binlog = 0"
    echo "$DEFAULTS"
    if [ "${MYSQL_TLS:-off}" = on ]; then
      make_certificates "$dir" mysql
      printf "ssl_ca = %s\nssl_cert = %s\nssl_key = %s\n" "$dir/ca.crt" "$dir/server.crt" "$dir/server.key"
    fi
    echo "${MYSQL_CONF:-}"
  } >"$dir/my.cnf"
}

# run DIR: starts the server and waits until it answers.
run() {
  local dir=$1 pid tries
  touch "$dir/error.log" && chown mysql "$dir" "$dir/error.log"
  (cd / && exec 9>&- setsid "${AS_MYSQL[@]}" "${SERVER[@]}" --defaults-file="$dir/my.cnf") >>"$dir/error.log" 2>&1 </dev/null &
  pid=$!
  disown $pid
  for ((tries = 0; tries < 1200; tries++)); do
    ! sql "$dir" -e 'DO 0' >/dev/null 2>&1 || return 0
    kill -0 $pid 2>/dev/null || break
    sleep 0.05
  done
  tail -n 20 "$dir/error.log" >&2
  exit 1
}

start() {
  local version=$1 dir
  dir=$(realpath -m "$2")
  install_mysqld "$version"
  if [ ! -f "$dir/port" ]; then
    mkdir -p "$dir"
    cp -a "$TEMPLATE" "$dir/data"
    configure "$version" "$dir"
  fi
  run "$dir"
  printf 'BIN=%s\nDIR=%s\nCLIENT=%s\nPORT=%s\nURL=%s://tributary:tributary@127.0.0.1:%s/\n' \
    "$BIN" "$dir" "${CLIENT[*]}" "$(cat "$dir/port")" "$KIND" "$(cat "$dir/port")"
}

stop() {
  local dir pid signal=TERM
  dir=$(realpath "$1")
  [ "$2" = fast ] || signal=KILL
  pid=$(cat "$dir/pid" 2>/dev/null || true)
  # A server that was killed leaves its file behind.
  if [ -n "$pid" ] && grep -qa "$dir/my.cnf" "/proc/$pid/cmdline" 2>/dev/null; then
    kill -s $signal "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
  fi
  [ "$2" = fast ] || rm -f "$dir/pid" "$dir"/sock*
}

case ${1:-} in
  install) install_mysqld "${2:?version}" && echo "$BIN" ;;
  start) start "${2:?version}" "${3:?directory}" ;;
  stop) stop "${2:?directory}" "${3:-fast}" ;;
  follow) install_mysqld "$(cat "${2:?directory}/version")" && follow "$2" "${3:?port}" ;;
  promote) install_mysqld "$(cat "${2:?directory}/version")" && promote "$2" ;;
  serve) serve "$KIND" "${2:?version}" ;;
  *)
    sed -n '2,/^set/{/^#/p}' "$0" >&2
    exit 2 ;;
esac
